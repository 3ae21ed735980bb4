// Draws what is in sight, and remembers where it drew each event, for the pointer.

const canvas = document.getElementById("diagram");
const small = document.querySelector("#overview canvas");
const TOP = 46, GUTTER = 92, LEAST_LANE = 88;
let colors = {};
function readColors() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "panel", "ink", "soft", "line", "strong", "focus", "request", "reply", "heartbeat", "lost", "view",
    "primary", "primarybar", "execute", "transfer", "start", "crash", "fault", "note", "alive", "glow"];
  colors = Object.fromEntries(names.map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
}

let size = { width: 0, height: 0 };
let hits = { marks: [], arrows: [] };
const SANS = 'system-ui, "Segoe UI", "DejaVu Sans", sans-serif';

function prepare(canvas) {
  const { width, height } = canvas.parentElement.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return [pen, { width, height }];
}

const laneWidth = () => Math.max(LEAST_LANE, (size.width - GUTTER) / Math.max(1, shownLanes.length));
const xOf = lane => GUTTER + (lanes[lane].place + 0.5) * laneWidth() - state.aside;
const yOf = position => TOP + (position - state.from) / (state.to - state.from) * (size.height - TOP);
const positionAt = y => state.from + (y - TOP) / (size.height - TOP) * (state.to - state.from);

// A shape for each kind, around a point; the legend has the same.
function mark(pen, kind, x, y, r) {
  pen.beginPath();
  switch (kind) {
    case "view": pen.rect(x - r, y - r * .62, 2 * r, 1.24 * r); break;
    case "primary":
      for (let point = 0; point < 10; point++) {
        const [angle, far] = [Math.PI * (point / 5 - 0.5), point % 2 ? r * .52 : r * 1.22];
        pen.lineTo(x + far * Math.cos(angle), y + far * Math.sin(angle));
      }
      pen.closePath();
      break;
    case "execute": pen.rect(x - r * .62, y - r * .62, r * 1.24, r * 1.24); break;
    case "transfer": pen.moveTo(x - r, y - r * .7); pen.lineTo(x + r, y - r * .7); pen.lineTo(x, y + r); pen.closePath(); break;
    case "start": pen.moveTo(x - r * .8, y - r); pen.lineTo(x + r, y); pen.lineTo(x - r * .8, y + r); pen.closePath(); break;
    case "crash":
      pen.moveTo(x - r, y - r); pen.lineTo(x + r, y + r); pen.moveTo(x + r, y - r); pen.lineTo(x - r, y + r);
      pen.lineWidth = r * .55;
      pen.stroke();
      return;
    case "fault": pen.moveTo(x, y - r * 1.15); pen.lineTo(x + r * 1.15, y); pen.lineTo(x, y + r * 1.15); pen.lineTo(x - r * 1.15, y); pen.closePath(); break;
    default: pen.arc(x, y, r * .5, 0, 7);
  }
  pen.fill();
}

// A step of the axis: 1, 2 or 5 times a power of ten.
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  return [1, 2, 5, 10].map(times => times * power).find(step => step >= least) ?? power * 10;
}

function drawAxis(pen) {
  pen.font = `11px ${SANS}`;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  const line = (y, text, faint) => {
    pen.strokeStyle = colors.line;
    pen.globalAlpha = faint ? .5 : .8;
    pen.beginPath();
    pen.moveTo(GUTTER - 6, y); pen.lineTo(size.width, y);
    pen.stroke();
    pen.globalAlpha = 1;
    pen.fillStyle = colors.soft;
    pen.fillText(text, GUTTER - 10, y);
  };
  if (state.order) {
    const each = Math.max(1, Math.ceil(26 / ((size.height - TOP) / (state.to - state.from))));
    for (let at = Math.max(0, Math.ceil(state.from / each) * each); at < Math.min(shown.length, state.to); at += each) {
      line(yOf(at), seconds(shown[at].at), true);
    }
    return;
  }
  const step = niceStep((state.to - state.from) / ((size.height - TOP) / 64));
  const [unit, per] = step >= 1e5 ? ["s", 1e6] : step >= 100 ? ["ms", 1e3] : ["µs", 1];
  const digits = Math.max(0, Math.ceil(-Math.log10(step / per) - 1e-9));
  for (let at = Math.ceil(state.from / step) * step; at <= state.to; at += step) {
    if (yOf(at) > TOP + 6) line(yOf(at), `${(at / per).toFixed(digits)} ${unit}`, false);
  }
}

function drawBars(pen) {
  for (const lane of shownLanes) {
    const x = xOf(lane.number);
    pen.strokeStyle = colors.strong;
    pen.lineWidth = 1;
    pen.setLineDash([2, 4]);
    pen.beginPath();
    pen.moveTo(x, TOP); pen.lineTo(x, size.height);
    pen.stroke();
    pen.setLineDash([]);
  }
  // The primary's bar lies over the other one.
  for (const kind of ["alive", "primary"]) {
    for (const [lane, from, to, what] of data.bars) {
      if (what !== kind || !lanes[lane].on) continue;
      const [top, bottom] = [yOf(positionOfTime(from)), yOf(positionOfTime(to))];
      if (bottom < TOP || top > size.height) continue;
      const half = kind === "alive" ? 3 : 7;
      const [y, end] = [Math.max(top, TOP - 9), Math.min(bottom, size.height + 9)];
      pen.fillStyle = kind === "alive" ? colors.alive : colors.primarybar;
      pen.beginPath();
      pen.roundRect(xOf(lane) - half, y, 2 * half, Math.max(1.5, end - y), Math.min(3, half));
      pen.fill();
    }
  }
}

const isLit = event => {
  const about = state.hovered ?? state.selected;
  return about !== null && (event === about || event.exchange !== null && event.exchange === about.exchange);
};

function drawArrow(pen, arrow, [x1, y1, x2, y2], many, lost) {
  const { from } = arrow;
  const lit = isLit(from);
  const heartbeat = from.group.id === "heartbeats";
  pen.strokeStyle = pen.fillStyle = lost ? colors.lost : colors[from.group.color];
  pen.lineWidth = lit ? 2.6 : heartbeat ? .7 : from.reply ? 1 : 1.5;
  if (lost && !lit && many > 900) pen.lineWidth = .8;
  pen.globalAlpha = lit ? 1 : lost ? (many > 900 ? .6 : 1) : Math.max(.05, Math.min(heartbeat ? .7 : .95, 400 / many));
  pen.setLineDash(from.reply && many < 600 ? [5, 3] : []);
  pen.beginPath();
  pen.moveTo(x1, y1); pen.lineTo(x2, y2);
  pen.stroke();
  pen.setLineDash([]);
  const angle = Math.atan2(y2 - y1, x2 - x1);
  if (lost && many < 1500) {
    pen.lineWidth = 2;
    pen.beginPath();
    for (const turn of [Math.PI / 4, -Math.PI / 4]) {
      pen.moveTo(x2 - 5 * Math.cos(angle + turn), y2 - 5 * Math.sin(angle + turn));
      pen.lineTo(x2 + 5 * Math.cos(angle + turn), y2 + 5 * Math.sin(angle + turn));
    }
    pen.stroke();
  } else if (!lost && (lit || many < 900)) {
    const far = heartbeat ? 5 : lit ? 10 : 8;
    pen.beginPath();
    pen.moveTo(x2, y2);
    pen.lineTo(x2 - far * Math.cos(angle - .38), y2 - far * Math.sin(angle - .38));
    pen.lineTo(x2 - far * Math.cos(angle + .38), y2 - far * Math.sin(angle + .38));
    pen.fill();
  }
  pen.globalAlpha = 1;
}

// Places for texts: none over another one.
function newPlaces() {
  const rows = new Map();
  return (x, y, width, height) => {
    const keys = [Math.floor(y / 16), Math.floor((y + height) / 16)];
    const free = keys.every(key => (rows.get(key) ?? []).every(b => x > b[2] || x + width < b[0] || y > b[3] || y + height < b[1]));
    if (free) for (const key of keys) rows.set(key, [...rows.get(key) ?? [], [x, y, x + width, y + height]]);
    return free;
  };
}

function label(pen, places, text, x, y, align, color, most, force = false) {
  let width = pen.measureText(text).width;
  if (width > most) {
    while (text.length > 1 && pen.measureText(text + "…").width > most) text = text.slice(0, Math.max(1, Math.floor(text.length * .9) - 1));
    text += "…";
    width = pen.measureText(text).width;
  }
  const left = { center: x - width / 2, right: x - width, left: x }[align];
  if (most < 24 || !places(left - 2, y - 7, width + 4, 14) && !force) return false;
  pen.lineWidth = 3.5;
  pen.lineJoin = "round";
  pen.strokeStyle = colors.paper;
  pen.globalAlpha = .9;
  pen.textAlign = "left";
  pen.strokeText(text, left, y);
  pen.globalAlpha = 1;
  pen.fillStyle = color;
  pen.fillText(text, left, y);
  return true;
}

// The arrows in sight, with where they go.
function arrowsInSight() {
  const list = [];
  const isIn = (y1, y2) => Math.max(y1, y2) >= TOP - 20 && Math.min(y1, y2) <= size.height + 20;
  for (const arrow of shownArrows) {
    const [y1, y2] = [yOf(positionOf(arrow.from)), yOf(positionOf(arrow.to))];
    if (isIn(y1, y2)) list.push({ arrow, line: [xOf(arrow.from.lane), y1, xOf(arrow.to.lane), y2], lost: false });
  }
  for (const [number] of data.lost) {
    const from = events[number];
    const y = from.line < 0 ? -1e9 : yOf(positionOf(from));
    if (from.line < 0 || !isIn(y, y)) continue;
    const x = xOf(from.lane);
    // So far as it is known where it was to go, and not quite.
    const goes = from.lost >= 0 && lanes[from.lost].on && from.lost !== from.lane;
    const x2 = goes ? x + (xOf(from.lost) - x) * .6 : x + laneWidth() * .2;
    list.push({ arrow: { from, to: null }, line: [x, y, x2, y + (state.order ? 6 : 8)], lost: true });
  }
  return list;
}

function drawEverywhere(pen, places) {
  const line = (y, text, color, wide) => {
    pen.strokeStyle = color;
    pen.lineWidth = wide ? 2 : 1;
    pen.setLineDash(wide ? [] : [7, 4]);
    pen.beginPath();
    pen.moveTo(GUTTER, y); pen.lineTo(size.width, y);
    pen.stroke();
    pen.setLineDash([]);
    pen.font = `${wide ? "600 " : ""}12px ${SANS}`;
    label(pen, places, shorten(text), size.width - 8, y - 8, "right", color, size.width - GUTTER - 20, wide);
  };
  const inSight = y => y >= TOP && y <= size.height;
  if (data.finding) {
    const y = yOf(data.finding[0] >= data.span[1] ? whole()[1] - (whole()[1] - positionOfTime(data.span[1])) * .7 : positionOfTime(data.finding[0]));
    if (inSight(y)) line(y, `FOUND: ${data.finding[1]}`, colors.crash, true);
  }
  for (const event of shown) {
    if (event.lane >= 0) continue;
    const y = yOf(positionOf(event));
    if (!inSight(y)) continue;
    line(y, event.text, colors[event.group.color], isLit(event));
    hits.marks.push({ event, x: size.width - 100, y: y - 4, wide: 100 });
  }
}

// What matters more is drawn later, and has its text first.
const WEIGHT = ["note", "execute", "sent", "received", "start", "transfer", "fault", "view", "primary", "crash"];

function drawMarks(pen, places, inSight) {
  const marks = inSight.filter(event => event.lane >= 0);
  const many = marks.filter(event => !isMessage(event)).length;
  const found = new Set(state.found);
  const radius = many > 1200 ? 4 : 6;
  marks.sort((a, b) => WEIGHT.indexOf(a.kind) - WEIGHT.indexOf(b.kind));
  for (const event of marks) {
    const [x, y] = [xOf(event.lane), yOf(positionOf(event))];
    hits.marks.push({ event, x, y, wide: 8 });
    if (found.has(event) || isLit(event)) {
      pen.fillStyle = found.has(event) ? colors.primary : colors.focus;
      pen.globalAlpha = .45;
      pen.beginPath();
      pen.arc(x, y, 11, 0, 7);
      pen.fill();
      pen.globalAlpha = 1;
    }
    pen.fillStyle = pen.strokeStyle = colors[event.group.color];
    if (isMessage(event)) {
      // What has no arrow is a ring: somebody's message, and nobody knows whose.
      if (event.arrows.length === 0 && event.lost === undefined) {
        pen.lineWidth = 1.5;
        pen.beginPath();
        pen.arc(x, y, 4, 0, 7);
        pen.stroke();
      }
      continue;
    }
    mark(pen, event.kind, x, y, radius);
    if (event === state.selected) {
      pen.strokeStyle = colors.ink;
      pen.lineWidth = 1.5;
      pen.beginPath();
      pen.arc(x, y, 10, 0, 7);
      pen.stroke();
    }
  }
  const least = laneWidth() - 26;
  for (const event of marks.reverse()) {
    const alone = isMessage(event) && event.arrows.length === 0 && event.lost === undefined;
    if (isMessage(event) && !alone) continue;
    if (many > 250 && ["execute", "note"].includes(event.kind) && !isLit(event)) continue;
    const strong = ["view", "primary", "crash", "fault", "transfer", "start"].includes(event.kind);
    pen.font = `${strong ? "600 " : ""}11px ${SANS}`;
    const color = strong ? colors[event.group.color] : event.kind === "note" ? colors.soft : colors.ink;
    const text = shorten(alone ? `from ${event.peer ?? "?"}: ${event.text}` : event.text || event.kind);
    // Over the next lanes, if nothing is there.
    const [x, y] = [xOf(event.lane) + 13, yOf(positionOf(event))];
    const whole = Math.min(pen.measureText(text).width, size.width - x - 4, 3 * laneWidth());
    if (whole <= least || !label(pen, places, text, x, y, "left", color, whole)) label(pen, places, text, x, y, "left", color, least);
  }
}

function drawHead(pen) {
  pen.fillStyle = colors.paper;
  pen.fillRect(0, 0, size.width, TOP);
  pen.strokeStyle = colors.line;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(0, TOP - .5); pen.lineTo(size.width, TOP - .5);
  pen.stroke();
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  const at = timeOfPosition(state.from);
  for (const lane of shownLanes) {
    const x = xOf(lane.number);
    pen.fillStyle = colors.ink;
    pen.font = `650 13px ${SANS}`;
    pen.fillText(lane.name, x, 16, laneWidth() - 8);
    const now = data.bars.filter(([number, from, to]) => number === lane.number && from <= at && to >= at);
    const serves = now.find(bar => bar[3] === "primary");
    pen.font = `11px ${SANS}`;
    pen.fillStyle = serves ? colors.primary : colors.soft;
    pen.fillText(serves ? `primary in view ${serves[4] ?? "?"}` : now.length > 0 ? "alive" : "", x, 33, laneWidth() - 8);
  }
  pen.fillStyle = colors.paper;
  pen.fillRect(0, 0, GUTTER, TOP - 1);
  // Lanes that aren't in sight.
  pen.font = `16px ${SANS}`;
  pen.fillStyle = colors.focus;
  const beyond = laneWidth() * shownLanes.length + GUTTER - size.width;
  if (state.aside > 1) pen.fillText("‹", GUTTER - 2, 16);
  if (beyond - state.aside > 1) pen.fillText("›", size.width - 6, 16);
  pen.textAlign = "right";
  pen.font = `11px ${SANS}`;
  pen.fillStyle = colors.soft;
  pen.fillText(state.order ? "by order" : "time", GUTTER - 10, 16);
  pen.fillText(`${duration(Math.round(timeOfPosition(state.to) - timeOfPosition(state.from)))} in sight`.replace(" in sight", ""), GUTTER - 10, 33);
}

function draw() {
  const [pen, now] = prepare(canvas);
  size = now;
  state.aside = Math.max(0, Math.min(state.aside, laneWidth() * shownLanes.length + GUTTER - size.width));
  hits = { marks: [], arrows: [] };
  pen.save();
  pen.beginPath();
  pen.rect(0, TOP, size.width, size.height);
  pen.clip();
  drawAxis(pen);
  pen.beginPath();
  pen.rect(GUTTER, TOP, size.width, size.height);
  pen.clip();
  pen.textBaseline = "middle";
  drawBars(pen);
  const places = newPlaces();
  const lines = arrowsInSight();
  for (const { arrow, line, lost } of lines) {
    drawArrow(pen, arrow, line, lines.length, lost);
    hits.arrows.push({ arrow, line });
  }
  drawEverywhere(pen, places);
  const edge = state.order ? .5 : (state.to - state.from) * .02;
  const [first, end] = [firstAt(shown, state.from - edge, positionOf), firstAt(shown, state.to + edge, positionOf)];
  drawMarks(pen, places, shown.slice(first, end));
  pen.font = `11px ${SANS}`;
  if (lines.length < 1500) {
    for (const { arrow: { from }, line: [x1, y1, x2, y2], lost } of lines.sort((a, b) => b.lost - a.lost || a.arrow.from.reply - b.arrow.from.reply)) {
      if (from.group.id === "heartbeats" && !isLit(from)) continue;
      const color = lost ? colors.lost : from.reply ? colors.soft : colors.request;
      const room = Math.abs(x2 - x1) - 24;
      // In the lane's gap beside the sender: there is no other lane under it.
      const middle = x1 + Math.sign(x2 - x1) * Math.min(Math.abs(x2 - x1), laneWidth()) / 2;
      const y = y1 + (y2 - y1) * (x2 === x1 ? 0 : (middle - x1) / (x2 - x1));
      // Broken lines are replies: that needs no words.
      const text = shorten(from.text).replace(/^reply to /, "re: ") + (lost ? " (lost)" : "");
      if (lost && room < 60) label(pen, places, text, x2 + 9, y2, "left", color, laneWidth() * .7);
      else label(pen, places, text, middle, y - 8, "center", color, Math.min(room, laneWidth() - 24));
    }
  }
  pen.restore();
  drawHead(pen);
  drawOverview();
  const size_ = `${shown.length} of ${events.length} events shown`;
  canvas.setAttribute("aria-label", `Space-time diagram, ${shownLanes.length} lanes, ${size_}, from ${seconds(timeOfPosition(state.from), 3)} to ${seconds(timeOfPosition(state.to), 3)}`);
  document.getElementById("size").textContent = size_;
}

// All of it, small, with what is in sight.
function drawOverview() {
  const [pen, { width, height }] = prepare(small);
  const [first, last] = whole();
  const y = position => (position - first) / (last - first) * height;
  const step = (width - 8) / Math.max(1, shownLanes.length);
  const x = lane => 4 + (lanes[lane].place + .5) * step;
  for (const kind of ["alive", "primary"]) {
    for (const [lane, from, to, what] of data.bars) {
      if (what !== kind || !lanes[lane].on) continue;
      const [top, bottom] = [y(positionOfTime(from)), y(positionOfTime(to))];
      const half = Math.min(kind === "alive" ? 1.5 : 2.5, step * .4);
      pen.fillStyle = kind === "alive" ? colors.alive : colors.primarybar;
      pen.fillRect(x(lane) - half, top, 2 * half, Math.max(1, bottom - top));
    }
  }
  for (const event of shown) {
    if (!["view", "crash", "fault", "start"].includes(event.kind)) continue;
    pen.fillStyle = colors[event.group.color];
    const half = Math.min(3, step * .45);
    if (event.lane < 0) pen.fillRect(2, y(positionOf(event)), width - 4, 1);
    else pen.fillRect(x(event.lane) - half, y(positionOf(event)) - 1, 2 * half, 2);
  }
  for (const event of state.found) {
    pen.fillStyle = colors.focus;
    pen.fillRect(0, y(positionOf(event)) - 1, 5, 2);
  }
  const [top, bottom] = [y(state.from), Math.max(y(state.to), y(state.from) + 3)];
  pen.fillStyle = colors.focus;
  pen.globalAlpha = .14;
  pen.fillRect(0, top, width, bottom - top);
  pen.globalAlpha = 1;
  pen.strokeStyle = colors.focus;
  pen.lineWidth = 1.5;
  pen.strokeRect(1, top, width - 2, bottom - top);
}

// The event that is under the pointer: a mark, or else the nearest arrow's.
function eventAt(x, y) {
  let [best, near] = [null, 100];
  for (const hit of hits.marks) {
    const far = Math.max(Math.abs(hit.x - x) * 8 / hit.wide, Math.abs(hit.y - y)) + (isMessage(hit.event) ? 2 : 0);
    if (far <= 9 && far <= near) [best, near] = [hit.event, far];
  }
  if (best) return best;
  for (const { arrow, line: [x1, y1, x2, y2] } of hits.arrows) {
    const length = (x2 - x1) ** 2 + (y2 - y1) ** 2 || 1;
    const along = Math.max(0, Math.min(1, ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length));
    const far = Math.hypot(x1 + along * (x2 - x1) - x, y1 + along * (y2 - y1) - y);
    if (far < 7 && far < near) [best, near] = [arrow.from, far];
  }
  return best;
}
