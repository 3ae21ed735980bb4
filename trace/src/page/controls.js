// What the reader does: filters, search, zoom, pointer and keys.

const $ = id => document.getElementById(id);
let drawing = 0;
function redraw() {
  if (!drawing) drawing = requestAnimationFrame(() => { drawing = 0; draw(); });
}

function make(name, attributes, ...children) {
  const element = document.createElement(name);
  Object.assign(element, attributes);
  element.append(...children);
  return element;
}

// A kind's sign in the legend, drawn as in the diagram.
function sign(group) {
  const canvas = make("canvas", { width: 40, height: 28 });
  canvas.style.cssText = "position:static;width:20px;height:14px;flex:none";
  canvas.setAttribute("aria-hidden", "true");
  group.paint = () => {
    const pen = canvas.getContext("2d");
    pen.setTransform(2, 0, 0, 2, 0, 0);
    pen.clearRect(0, 0, 20, 14);
    pen.fillStyle = pen.strokeStyle = colors[group.color];
    if (["requests", "replies", "heartbeats"].includes(group.id)) {
      pen.lineWidth = group.id === "requests" ? 1.8 : 1;
      pen.setLineDash(group.id === "replies" ? [4, 2] : []);
      pen.beginPath();
      pen.moveTo(1, 4); pen.lineTo(16, 9);
      pen.stroke();
      pen.beginPath();
      pen.moveTo(19, 10); pen.lineTo(13, 11.5); pen.lineTo(14.8, 5.5);
      pen.fill();
    } else {
      mark(pen, group.id, 10, 7, 5);
    }
  };
  return canvas;
}

function box(text, title, count, checked, change, ...before) {
  const input = make("input", { type: "checkbox", checked });
  input.addEventListener("change", () => {
    change(input.checked);
    filter();
    say();
    look(state.from, state.to);
    redraw();
  });
  return make("label", { title }, input, ...before, make("span", { className: "name" }, text), make("span", { className: "count" }, `${count}`));
}

function fillPage() {
  document.querySelector("h1").textContent = data.title;
  const choice = $("pictures");
  pictures.forEach(({ title }, n) => choice.append(make("option", { value: n + 1, selected: n + 1 === pictureNumber }, title)));
  choice.hidden = pictures.length === 1;
  choice.addEventListener("change", () => {
    location.hash = `picture=${choice.value}`;
    location.reload();
  });
  $("command").textContent = data.command;
  const warn = (className, text) => $("warnings").append(make("p", { className }, text));
  if (data.finding) warn("finding", `Found at ${seconds(data.finding[0])}: ${data.finding[1]}`);
  for (const text of data.leftOut) warn("leftout", text);
  if (events.length === 0) warn("leftout", "There are no events in this trace.");
  for (const lane of lanes) {
    const title = lane.short === lane.name ? lane.name : `${lane.name}, in texts ${lane.short}`;
    $("lanes").append(box(lane.name, title, lane.count, true, on => lane.on = on));
  }
  for (const group of [GROUPS[2], GROUPS[1], GROUPS[0], ...GROUPS.slice(3)]) {
    if (group.count === 0) continue;
    $("kinds").append(box(group.name, group.name, group.count, group.on, on => group.on = on, sign(group)));
  }
  const row = (color, text) => {
    const bar = make("span", {});
    bar.style.cssText = `flex:none;width:20px;height:7px;border-radius:3px;background:var(--${color})`;
    return make("label", {}, bar, text);
  };
  $("kinds").append(row("alive", "the node is there"), row("primarybar", "it is the primary"));
  if (data.lost.length > 0) {
    const cross = make("span", {}, "✕");
    cross.style.cssText = "flex:none;width:20px;text-align:center;color:var(--lost);font-weight:700";
    $("kinds").append(make("label", {}, cross, "a message that never came in", make("span", { className: "count" }, `${data.lost.length}`)));
  }
}

// Says what the pointer, or a key, has chosen.
function say() {
  const details = $("details");
  details.replaceChildren();
  const event = state.selected;
  if (event) {
    const { head, more } = describe(event);
    details.append(make("b", {}, head), ...more.map(line => make("span", {}, line)));
  } else {
    details.append(make("span", {}, "Point at an arrow or a mark for what it is; click to keep it here."));
  }
  const { found, foundAt, query } = state;
  $("found").textContent = query === "" ? "" : foundAt < 0 ? `${found.length} found; Enter goes to the first` : `${foundAt + 1} of ${found.length}`;
}

function showTip(event, x, y) {
  const tip = $("tip");
  tip.hidden = event === null;
  if (event === null) return;
  const { head, more } = describe(event);
  tip.replaceChildren(make("b", {}, head), ...more.map(line => make("div", {}, line)));
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  tip.style.left = `${x + 16 + width > size.width ? Math.max(4, x - width - 12) : x + 16}px`;
  tip.style.top = `${y + 16 + height > size.height ? Math.max(4, y - height - 12) : y + 16}px`;
}

function hover(event, x, y) {
  if (event !== state.hovered) {
    state.hovered = event;
    canvas.classList.toggle("over", event !== null);
    redraw();
  }
  showTip(event, x, y);
}

function select(event) {
  state.selected = event;
  if (event) bringIntoSight(event);
  say();
  redraw();
}

// The next event that is shown, or the one before; from what is in sight if none is selected.
function step(by) {
  if (shown.length === 0) return;
  const start = firstAt(shown, state.from, positionOf) - (by > 0 ? 1 : 0);
  const line = (state.selected ? state.selected.line : start) + by;
  select(shown[Math.max(0, Math.min(shown.length - 1, line))]);
}

function goToFound(by) {
  if (state.found.length === 0) return;
  const count = state.found.length;
  state.foundAt = state.foundAt < 0 ? (by > 0 ? 0 : count - 1) : (state.foundAt + by + count) % count;
  select(state.found[state.foundAt]);
}

function scale(order) {
  setOrder(order);
  $("bytime").setAttribute("aria-pressed", String(!state.order));
  $("byorder").setAttribute("aria-pressed", String(state.order));
  redraw();
}

function place(pointer) {
  const { left, top } = canvas.getBoundingClientRect();
  return [pointer.clientX - left, pointer.clientY - top];
}

function listen() {
  $("in").addEventListener("click", () => { zoom(.5); redraw(); });
  $("out").addEventListener("click", () => { zoom(2); redraw(); });
  $("fit").addEventListener("click", () => { look(...whole()); state.aside = 0; redraw(); });
  $("bytime").addEventListener("click", () => scale(false));
  $("byorder").addEventListener("click", () => scale(true));
  canvas.addEventListener("wheel", wheel => {
    wheel.preventDefault();
    const lines = wheel.deltaMode === 1 ? 24 : 1;
    if (wheel.shiftKey) move((wheel.deltaY || wheel.deltaX) * lines / size.height);
    else if (Math.abs(wheel.deltaX) > Math.abs(wheel.deltaY)) state.aside += wheel.deltaX * lines;
    else zoom(Math.exp(Math.max(-1, Math.min(1, wheel.deltaY * lines * .0022))), positionAt(place(wheel)[1]));
    hover(null);
    redraw();
  }, { passive: false });
  let drag = null;
  canvas.addEventListener("pointerdown", pointer => {
    const [x, y] = place(pointer);
    drag = { x, y, from: state.from, to: state.to, aside: state.aside, moved: false };
    // A pointer that a test has made can't be captured.
    try { canvas.setPointerCapture(pointer.pointerId); } catch { /* it goes without */ }
  });
  canvas.addEventListener("pointermove", pointer => {
    const [x, y] = place(pointer);
    if (!drag) return hover(eventAt(x, y), x, y);
    drag.moved ||= Math.hypot(x - drag.x, y - drag.y) > 4;
    if (!drag.moved) return;
    canvas.classList.add("dragging");
    const by = (drag.y - y) / (size.height - TOP) * (drag.to - drag.from);
    look(drag.from + by, drag.to + by);
    state.aside = drag.aside + drag.x - x;
    hover(null);
    redraw();
  });
  canvas.addEventListener("pointerup", pointer => {
    if (drag && !drag.moved) select(eventAt(...place(pointer)));
    drag = null;
    canvas.classList.remove("dragging");
  });
  canvas.addEventListener("pointercancel", () => drag = null);
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("dblclick", pointer => { zoom(.4, positionAt(place(pointer)[1])); redraw(); });
  const jump = pointer => {
    const { top, height } = small.getBoundingClientRect();
    const [first, last] = whole();
    const middle = first + (pointer.clientY - top) / height * (last - first);
    const half = (state.to - state.from) / 2;
    look(middle - half, middle + half);
    redraw();
  };
  let scrolling = false;
  small.addEventListener("pointerdown", pointer => {
    scrolling = true;
    try { small.setPointerCapture(pointer.pointerId); } catch { /* it goes without */ }
    jump(pointer);
  });
  small.addEventListener("pointermove", pointer => { if (scrolling) jump(pointer); });
  small.addEventListener("pointerup", () => scrolling = false);
  $("search").addEventListener("input", () => { search($("search").value); say(); redraw(); });
  $("search").addEventListener("keydown", key => {
    if (key.key === "Enter") goToFound(key.shiftKey ? -1 : 1);
    else if (key.key === "Escape") { $("search").value = ""; search(""); select(null); canvas.focus(); }
    else return;
    key.preventDefault();
  });
  const KEYS = {
    "+": () => zoom(.6), "=": () => zoom(.6), "-": () => zoom(1 / .6), "0": () => $("fit").click(),
    ArrowUp: () => move(-.12), ArrowDown: () => move(.12), PageUp: () => move(-.85), PageDown: () => move(.85),
    ArrowLeft: () => state.aside -= 60, ArrowRight: () => state.aside += 60,
    Home: () => look(whole()[0], whole()[0] + state.to - state.from), End: () => look(whole()[1] - state.to + state.from, whole()[1]),
    n: () => step(1), p: () => step(-1), o: () => scale(!state.order), "/": () => $("search").focus(), Escape: () => select(null),
  };
  document.addEventListener("keydown", key => {
    const target = key.target;
    const typing = target.id === "search" || key.ctrlKey || key.metaKey || key.altKey;
    // Lists of boxes are scrolled by these.
    const own = target !== canvas && target !== document.body && /^(Arrow|Page|Home|End)/.test(key.key);
    if (typing || own || !(key.key in KEYS)) return;
    key.preventDefault();
    KEYS[key.key]();
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { paint(); redraw(); });
  new ResizeObserver(draw).observe($("stage"));
}

function paint() {
  readColors();
  for (const group of GROUPS) group.paint?.();
}

// Words behind the address's # say how to begin: picture=N, order, time, from=SECONDS, to=SECONDS, find=TEXT, check.
function begin() {
  fillPage();
  paint();
  filter();
  look(...whole());
  draw();
  if (words.has("order") || !words.has("time") && shown.length <= 2 * READABLE) {
    scale(true);
    look(...(shown.length <= 1.5 * READABLE ? whole() : [-1.5, READABLE]));
  }
  const time = name => words.has(name) ? Number(words.get(name)) * 1e6 : undefined;
  const [from, to] = [time("from"), time("to")];
  if (from !== undefined || to !== undefined) look(positionOfTime(from ?? data.span[0]), positionOfTime(to ?? data.span[1]));
  if (words.has("find")) {
    $("search").value = words.get("find");
    search(words.get("find"));
    goToFound(1);
  }
  listen();
  say();
  draw();
  if (words.has("check")) check();
}
