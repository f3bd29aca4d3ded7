// The story as it lies in the page, its drawings unpacked, and two of them laid over each other.
const PAGE = JSON.parse(byId("story").textContent);
const STORY = PAGE.story;
const STAGES = STORY.stages || [];
const DRAWINGS = STAGES.filter((s) => s.drawing).map((s) => (s.drawing = unpacked(s.drawing)));
let GRAPH = null; // the view of the graph, once it is there

/** A drawing's rows as objects. */
function unpacked({ texts, boxes, lines, spaces }) {
  const made = boxes.map(([name, op, scope, shape, reads, parameters, macs, own]) => ({
    name: texts[name], op: texts[op], scope: texts[scope], shape: texts[shape],
    reads: reads.map((i) => texts[i]), parameters, macs, spaces: own,
  }));
  for (const box of made) {
    box.own = box.scope !== "" && box.reads.some((r) => r.startsWith(box.scope + "."));
    box.label = box.own ? box.scope : box.name;
  }
  return { boxes: made, lines,
    spaces: spaces.map(([name, size, why]) => ({ name: texts[name], size, reason: texts[why] })) };
}

/** Two drawings as one: an item for every box of either, in an order in which lines point
    forward, and the lines with what became of them. */
function merged({ from, to, added, removed, changed }) {
  const before = STAGES[from].drawing, after = STAGES[to].drawing;
  const old = new Map(before.boxes.map((box, i) => [box.name, i]));
  const states = new Map([
    ...added.map((i) => [after.boxes[i].name, "added"]),
    ...changed.map((i) => [after.boxes[i].name, "changed"]),
    ...removed.map((i) => [before.boxes[i].name, "removed"]),
  ]);
  const kept = new Set(after.boxes.map((b) => b.name));
  const items = [], index = new Map();
  const put = (name, b, a) => {
    const latest = a || b, drawn = a ? after : before;
    index.set(name, items.length);
    items.push({ name, before: b, after: a, latest, state: states.get(name) || "",
      spaces: latest.spaces.map((s) => drawn.spaces[s]) });
  };
  let next = 0;
  const passed = (end) => {
    for (; next < end; next++) {
      const box = before.boxes[next];
      if (!kept.has(box.name)) put(box.name, box, null);
    }
  };
  for (const box of after.boxes) {
    const place = old.get(box.name);
    if (place !== undefined) passed(place);
    put(box.name, place === undefined ? null : before.boxes[place], box);
  }
  passed(before.boxes.length);
  const sizes = new Map();
  [before, after].forEach((drawn, side) => drawn.spaces.forEach(({ name, size }) => {
    const both = sizes.get(name) || [null, null];
    both[side] = size;
    sizes.set(name, both);
  }));
  return { items, sizes, lines: mergedLines(before, after, index) };
}

/** Lines of both drawings as [from, to, in the first, in the second]. */
function mergedLines(before, after, index) {
  const found = new Map();
  [before, after].forEach((drawn, side) => {
    for (let i = 0; i < drawn.lines.length; i += 2) {
      const a = index.get(drawn.boxes[drawn.lines[i]].name);
      const b = index.get(drawn.boxes[drawn.lines[i + 1]].name);
      if (a >= b) continue; // the two disagree about the order, and it is drawn once
      const key = a * 1e6 + b, line = found.get(key) || [a, b, false, false];
      line[2 + side] = true;
      found.set(key, line);
    }
  });
  return [...found.values()];
}

/** All paths of modules that some box lies in, shorter ones first. */
function modulePaths(items) {
  const paths = new Set();
  for (const { latest } of items) {
    const parts = latest.scope ? latest.scope.split(".") : [];
    for (let n = 1; n <= parts.length; n++) paths.add(parts.slice(0, n).join("."));
  }
  return [...paths].sort((a, b) => a.split(".").length - b.split(".").length);
}

/** The outermost module around an item that is not opened; "" if all are. */
function moduleOf(item, opened) {
  const parts = item.latest.scope ? item.latest.scope.split(".") : [];
  for (let n = 1; n <= parts.length; n++) {
    const path = parts.slice(0, n).join(".");
    if (!opened.has(path)) return path;
  }
  return "";
}

/** Fold items away into the modules that are not opened. Only neighbours in the order are put
    together, so that lines still point forward. */
function foldedUp({ items, lines }, opened) {
  const boxes = [], home = new Int32Array(items.length);
  items.forEach((item, i) => {
    const path = moduleOf(item, opened), last = boxes[boxes.length - 1];
    if (path && last && last.path === path) last.members.push(item);
    else boxes.push({ path, members: [item] });
    home[i] = boxes.length - 1;
  });
  const found = new Map();
  for (const [a, b, was, is] of lines) {
    const from = home[a], to = home[b];
    if (from === to) continue;
    const key = from * 1e6 + to, line = found.get(key) || [from, to, false, false];
    line[2] = line[2] || was;
    line[3] = line[3] || is;
    found.set(key, line);
  }
  return { boxes: boxes.map(summed), lines: [...found.values()] };
}

/** What is said of a box that stands for its members. */
function summed({ path, members }) {
  const single = members.length === 1, last = members[members.length - 1];
  const total = (side, key) => {
    const counts = members.map((m) => m[side] && m[side][key]).filter(known);
    return counts.length ? counts.reduce((a, b) => a + b, 0) : null;
  };
  const states = new Set(members.map((m) => m.state));
  const state = states.size === 1 ? last.state : "changed";
  const spaces = [...new Map(
    [last, ...members].flatMap((m) => m.spaces).map((s) => [s.name, s])).values()];
  return { path: single ? "" : path, members, single, state, spaces, latest: last.latest,
    title: single ? (last.latest.own ? last.latest.scope : last.latest.op) : path,
    hasBefore: members.some((m) => m.before), hasAfter: members.some((m) => m.after),
    parameters: [total("before", "parameters"), total("after", "parameters")],
    macs: [total("before", "macs"), total("after", "macs")] };
}
