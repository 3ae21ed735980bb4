// The data, what of it is shown, and where along the page each event stands. Nothing here draws.

const pictures = JSON.parse(document.getElementById("data").textContent);
// Words behind the address's #, as begin() has them.
const words = new Map(decodeURIComponent(location.hash.slice(1)).split(",").map(word => word.split("=")));
const pictureNumber = Math.min(pictures.length, Math.max(1, Math.floor(words.get("picture")) || 1));
const data = pictures[pictureNumber - 1];
const KINDS = data.kinds;
const events = data.events.map(([at, lane, kind, text, message, peer], number) => {
  const reply = message !== null && message.endsWith(" reply");
  const exchange = message === null ? null : message.replace(/ reply$/, "");
  return { number, at, lane, kind: KINDS[kind], text, message, peer, reply, exchange, arrows: [], lost: undefined };
});
const arrows = data.arrows.map(([from, to]) => ({ from: events[from], to: events[to] }));
for (const arrow of arrows) {
  arrow.from.arrows.push(arrow);
  arrow.to.arrows.push(arrow);
}
for (const [number, lane] of data.lost) events[number].lost = lane;

// What can be shown or hidden: a name, the colour, and whether an event belongs to it; each event has the first that fits.
const isMessage = event => event.kind === "sent" || event.kind === "received";
const GROUPS = [
  { id: "heartbeats", name: "Heartbeats", color: "heartbeat", off: true, has: e => isMessage(e) && /^(reply to )?(heartbeat|ping)\b/.test(e.text) },
  { id: "replies", name: "Replies", color: "reply", has: e => isMessage(e) && e.reply },
  { id: "requests", name: "Requests", color: "request", has: isMessage },
  { id: "view", name: "Views", color: "view", has: e => e.kind === "view" },
  { id: "primary", name: "Primaries", color: "primary", has: e => e.kind === "primary" },
  { id: "execute", name: "Executions", color: "execute", has: e => e.kind === "execute" },
  { id: "transfer", name: "State transfers", color: "transfer", has: e => e.kind === "transfer" },
  { id: "start", name: "Starts", color: "start", has: e => e.kind === "start" },
  { id: "crash", name: "Crashes", color: "crash", has: e => e.kind === "crash" },
  { id: "fault", name: "Faults", color: "fault", has: e => e.kind === "fault" },
  { id: "note", name: "Notes", color: "note", has: () => true },
];
for (const event of events) event.group = GROUPS.find(group => group.has(event));
for (const group of GROUPS) {
  group.on = !group.off;
  group.count = 0;
}
for (const event of events) event.group.count += 1;

const lanes = data.lanes.map((name, number) => ({ number, name, short: data.short[number], on: true, count: 0 }));
for (const event of events) if (event.lane >= 0) lanes[event.lane].count += 1;

const state = {
  order: false, // by order, and not by time
  from: 0, to: 1, // what is in sight, in microseconds or in lines
  aside: 0, // how far the lanes are moved to the left, in pixels
  selected: null, hovered: null, // an event
  query: "", found: [], foundAt: -1,
};

// What is shown, in the order of time; filled by `filter`.
let shown = [];
let shownArrows = [];
let shownLanes = [];

function filter() {
  shownLanes = lanes.filter(lane => lane.on);
  shownLanes.forEach((lane, place) => lane.place = place);
  const isShown = event => event.group.on && (event.lane < 0 || lanes[event.lane].on);
  shown = events.filter(isShown);
  for (const event of events) event.line = -1;
  shown.forEach((event, line) => event.line = line);
  shownArrows = arrows.filter(arrow => isShown(arrow.from) && isShown(arrow.to));
  if (state.selected && state.selected.line < 0) state.selected = null;
  search(state.query);
}

function search(query) {
  state.query = query.trim().toLowerCase();
  const words = state.query.split(/\s+/);
  const name = event => event.lane < 0 ? "" : lanes[event.lane].name;
  const fits = event => words.every(word => `${name(event)} ${event.kind} ${event.text}`.toLowerCase().includes(word));
  state.found = state.query === "" ? [] : shown.filter(fits);
  state.foundAt = -1;
}

// The first place in a sorted list whose value isn't below `value`.
function firstAt(list, value, of) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (of(list[middle]) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Where an event, or a time, stands along the page.
const positionOf = event => state.order ? event.line : event.at;
function positionOfTime(at) {
  if (!state.order) return at;
  return firstAt(shown, at, event => event.at);
}
function timeOfPosition(position) {
  if (!state.order) return position;
  if (shown.length === 0) return 0;
  const place = Math.max(0, Math.min(shown.length - 1, Math.round(position)));
  return shown[place].at;
}

// All that there is, and a little more.
function whole() {
  const [from, to] = state.order ? [0, Math.max(1, shown.length - 1)] : data.span;
  const margin = state.order ? 1.5 : Math.max(20, (to - from) * 0.03);
  return [from - margin, Math.max(to, from + 1) + margin];
}

const LEAST = { order: 4, time: 30 };
function look(from, to) {
  const [first, last] = whole();
  const least = state.order ? LEAST.order : LEAST.time;
  const size = Math.min(Math.max(to - from, least), last - first);
  const middle = (from + to) / 2;
  from = Math.min(Math.max(middle - size / 2, first), last - size);
  [state.from, state.to] = [from, from + size];
}
function zoom(factor, around = (state.from + state.to) / 2) {
  look(around - (around - state.from) * factor, around + (state.to - around) * factor);
}
function move(part) {
  const by = (state.to - state.from) * part;
  look(state.from + by, state.to + by);
}
function bringIntoSight(event) {
  const position = positionOf(event);
  const size = state.to - state.from;
  if (position < state.from + size * 0.05 || position > state.to - size * 0.05) look(position - size / 2, position + size / 2);
}

// By order, so many lines are readable.
const READABLE = 46;
function setOrder(order) {
  if (order === state.order) return;
  const middle = timeOfPosition((state.from + state.to) / 2);
  const inSight = shown.filter(e => e.at >= timeOfPosition(state.from) && e.at <= timeOfPosition(state.to));
  const lines = state.order ? shown.slice(Math.max(0, Math.ceil(state.from)), Math.max(0, Math.floor(state.to) + 1)) : [];
  state.order = order;
  if (order) {
    const around = positionOfTime(state.selected ? state.selected.at : middle);
    if (inSight.length <= READABLE && inSight.length > 1) look(inSight[0].line - 1, inSight.at(-1).line + 1);
    else look(around - READABLE / 2, around + READABLE / 2);
  } else if (lines.length > 1) {
    const spare = (lines.at(-1).at - lines[0].at) * 0.05;
    look(lines[0].at - spare, lines.at(-1).at + spare);
  } else {
    look(...whole());
  }
}

function seconds(at, digits = 6) {
  return `${(at / 1e6).toFixed(digits)} s`;
}
function duration(micros) {
  if (Math.abs(micros) < 1000) return `${micros} µs`;
  if (Math.abs(micros) < 1e6) return `${(micros / 1000).toFixed(3)} ms`;
  return seconds(micros, 3);
}
function shorten(text) {
  for (const lane of lanes) if (lane.short !== lane.name) text = text.replaceAll(lane.name, lane.short);
  return text;
}
const laneName = number => number < 0 ? "all" : lanes[number].name;

// What there is to say of an event: a headline, and more lines.
function describe(event) {
  const more = [`${seconds(event.at)} at ${laneName(event.lane)}`];
  if (event.kind === "sent") {
    for (const { to } of event.arrows) more.push(`received by ${laneName(to.lane)} ${duration(to.at - event.at)} later`);
    if (event.lost !== undefined) more.push(event.lost < 0 ? "never came in" : `never came in at ${laneName(event.lost)}`);
  } else if (event.kind === "received") {
    for (const { from, to } of event.arrows) {
      if (to === event) more.push(`sent by ${laneName(from.lane)} ${duration(event.at - from.at)} before`);
    }
    if (event.arrows.length === 0) more.push(`from ${event.peer ?? "somebody"}, who has no record of it`);
  }
  if (event.message !== null) more.push(`message ${event.message}`);
  const what = { sent: "sent: ", received: "received: " }[event.kind] ?? (event.text ? "" : event.kind);
  return { head: what + event.text, more };
}
