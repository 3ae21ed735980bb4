// The page's check of itself, for an address that ends in #check. It does what a reader does, by the same events, and puts
// the result into the title and below the page. test-scripts/test-page.pl reads it there.

function check() {
  const results = [];
  const ensure = (what, holds, seen = "") => results.push({ what, holds: Boolean(holds), seen });
  const numbers = () => `lanes=${shownLanes.length} events=${shown.length} arrows=${shownArrows.length} lost=${data.lost.length}`;
  const atFirst = `${numbers()} all=${events.length} bars=${data.bars.length}`;
  const key = name => canvas.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
  const { left, top } = canvas.getBoundingClientRect();
  const pointer = (name, x, y) =>
    canvas.dispatchEvent(new PointerEvent(name, { clientX: left + x, clientY: top + y, bubbles: true, pointerId: 1 }));
  const inks = () => {
    const { data: bytes } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const seen = new Set();
    for (let at = 0; at < bytes.length; at += 4) if (bytes[at + 3] > 200) seen.add(bytes[at] << 16 | bytes[at + 1] << 8 | bytes[at + 2]);
    return seen.size;
  };
  const press = button => { $(button).click(); draw(); };
  const span = () => state.to - state.from;

  // What is there.
  ensure("the title is the trace's", document.querySelector("h1").textContent === data.title);
  ensure("each node has a lane and a box", shownLanes.length === data.lanes.length && $("lanes").querySelectorAll("input").length === lanes.length);
  ensure("texts have become no elements", document.querySelectorAll("img, iframe, object, script:not([id])").length === 1);
  ensure("each kind that there is has a box", $("kinds").querySelectorAll("input").length === GROUPS.filter(g => g.count > 0).length);
  ensure("heartbeats are hidden at first", shown.every(event => event.group.id !== "heartbeats"));
  press("fit");
  ensure("something is drawn, in colours", inks() > 8, inks());
  ensure("all arrows are in sight", hits.arrows.length === shownArrows.length + data.lost.filter(([n]) => events[n].line >= 0).length, hits.arrows.length);
  ensure("no arrow goes back in time", arrows.every(({ from, to }) => from.at <= to.at && from.message === to.message));
  ensure("lanes lie side by side", shownLanes.every((lane, n) => n === 0 || xOf(lane.number) - xOf(shownLanes[n - 1].number) >= LEAST_LANE));
  ensure("the diagram has a name", /lanes/.test(canvas.getAttribute("aria-label")));

  // Pointing.
  for (const order of [false, true]) {
    scale(order);
    press("fit");
    const target = hits.arrows.find(hit => hit.arrow.to) ?? null;
    if (target) {
      // Near, so that nothing else is.
      const { from, to } = target.arrow;
      const [a, b] = [positionOf(from), positionOf(to)];
      look(a - (b - a || 1), b + (b - a || 1));
      draw();
      const [x1, y1, x2, y2] = hits.arrows.find(hit => hit.arrow === target.arrow).line;
      const [x, y] = [x1 + (x2 - x1) * .3, y1 + (y2 - y1) * .3];
      pointer("pointermove", x, y);
      ensure(`pointing at an arrow says what it is, ${order ? "by order" : "by time"}`,
        !$("tip").hidden && $("tip").textContent.includes(state.hovered?.text) && state.hovered?.exchange !== null, $("tip").textContent);
      pointer("pointerdown", x, y);
      pointer("pointerup", x, y);
      ensure("a click keeps the details", state.selected !== null && $("details").textContent.includes(state.selected.text));
      pointer("pointerleave", x, y);
      ensure("the tip goes with the pointer", $("tip").hidden);
    }
    key("Escape");
    press("fit");
    const hit = hits.marks.find(hit => !isMessage(hit.event));
    if (hit) {
      look(positionOf(hit.event) - LEAST.order / 2, positionOf(hit.event) + LEAST.order / 2);
      draw();
      const there = hits.marks.find(other => other.event === hit.event);
      pointer("pointermove", there.x, there.y);
      ensure("pointing at a mark says what it is", state.hovered !== null && !isMessage(state.hovered), state.hovered?.text);
      pointer("pointerleave", 0, 0);
    }
  }

  // Zoom and movement.
  scale(false);
  press("fit");
  const all = span();
  press("in");
  ensure("the button zooms in", Math.abs(span() - all / 2) < all * .01);
  press("out");
  ensure("the button zooms out", Math.abs(span() - all) < all * .01);
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -300, clientX: left + 300, clientY: top + TOP, bubbles: true, cancelable: true }));
  ensure("the wheel zooms in, around the pointer", span() < all * .9 && Math.abs(state.from - whole()[0]) < all * .01);
  key("PageDown");
  const after = state.from;
  ensure("a key moves", after > whole()[0]);
  pointer("pointerdown", 300, 200);
  pointer("pointermove", 300, 280);
  pointer("pointerup", 300, 280);
  ensure("dragging moves", state.from < after);
  key("0");
  ensure("a key shows all", Math.abs(span() - all) < 1);
  key("o");
  ensure("a key changes the scale", state.order && $("byorder").getAttribute("aria-pressed") === "true");
  key("0");
  draw();
  ensure("by order each event has a line", shown.every((event, line) => event.line === line) && hits.arrows.length > 0 === shownArrows.length + data.lost.length > 0);
  key("o");

  // Choosing by keys, search, filters.
  key("0");
  key("n");
  const one = state.selected;
  key("n");
  ensure("n chooses the next event", shown.length < 2 || one !== null && state.selected.line === one.line + 1);
  key("Escape");
  const text = shown.length > 0 ? shown[shown.length >> 1].text.split(" ")[0] : "none";
  $("search").value = text;
  $("search").dispatchEvent(new Event("input"));
  ensure("search finds", text === "none" || state.found.length > 0 && /found/.test($("found").textContent), $("found").textContent);
  $("search").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
  ensure("Enter goes to what was found", state.found.length === 0 || state.selected === state.found[0]);
  $("search").dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true, cancelable: true }));
  ensure("Escape ends the search", state.query === "" && state.selected === null);
  const boxes = [...$("lanes").querySelectorAll("input")];
  const full = shown.length;
  if (boxes.length > 1) {
    boxes[0].click();
    draw();
    ensure("a node's box hides its lane and what happens there",
      shownLanes.length === lanes.length - 1 && shown.every(event => event.lane !== 0) && shownArrows.every(({ from, to }) => from.lane !== 0 && to.lane !== 0));
    boxes[0].click();
  }
  for (const input of $("kinds").querySelectorAll("input")) input.click();
  ensure("the kinds' boxes hide and show", events.every(event => (event.line >= 0) === (event.group.id === "heartbeats")));
  for (const input of $("kinds").querySelectorAll("input")) input.click();
  draw();
  ensure("all is as before", shown.length === full && `${numbers()} all=${events.length} bars=${data.bars.length}` === atFirst, numbers());

  const failed = results.filter(({ holds }) => !holds);
  const verdict = failed.length === 0 ? "PASS" : "FAIL";
  document.title = `${verdict} ${results.length - failed.length} of ${results.length}; ${atFirst}`;
  const lines = results.map(({ what, holds, seen }) => `${holds ? "ok    " : "FAILED"} ${what}${holds || seen === "" ? "" : ` (${seen})`}`);
  $("check").textContent = [document.title, ...lines].join("\n");
  $("check").hidden = false;
}

try {
  begin();
} catch (error) {
  document.title = `FAIL ${error}`;
  document.body.prepend(`This page's script has failed: ${error}`);
  throw error;
}
