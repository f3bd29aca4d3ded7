// Elements, numbers in words, and the one tooltip. Data reaches the page as text only: nothing
// here or elsewhere parses HTML.
const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      Object.entries(value).forEach(([event, act]) => node.addEventListener(event, act));
    } else {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.flat(Infinity).filter((child) => known(child) && child !== false));
  return node;
}
const el = (tag, attributes, ...children) =>
  filled(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);
const known = (number) => number !== null && number !== undefined;
/** An entry of a record that came as data; its name may be any text. */
const entry = (record, name) =>
  (record && Object.hasOwn(record, name) ? record[name] : undefined);
/** Add to the list that a map holds under a key. */
function gather(lists, key, value) {
  if (!lists.has(key)) lists.set(key, []);
  lists.get(key).push(value);
}
const clamp = (number, low, high) => Math.min(Math.max(number, low), high);

/** Show a part of the page that has something to show. */
function open(id, ...children) {
  const section = byId(id);
  section.hidden = false;
  section.append(...children.filter(Boolean));
  return section;
}

const NARROW = "\u202f";
const exact = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const three = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });

function scaled(number, steps) {
  const [, size, unit] = steps.find(([from]) => number >= from) || steps[steps.length - 1];
  return [three.format(number / size), unit];
}
/** Each gives [digits, unit]. */
const SPLIT = {
  count: (n) => scaled(n, [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"], [0, 1, ""]]),
  bytes: (n) => scaled(n, [[1e9, 1e9, "GB"], [1e6, 1e6, "MB"], [1e3, 1e3, "kB"], [0, 1, "B"]]),
  ms: (n) => scaled(n, [[1e4, 1e3, "s"], [1, 1, "ms"], [0, 1e-3, "µs"]]),
  share: (n) => [(100 * n).toFixed(1), "%"],
  plain: (n) => [Number(n.toPrecision(4)).toString(), ""],
};
const joined = ([digits, unit]) => (unit ? digits + NARROW + unit : digits);
const show = {
  full: (n) => (known(n) ? exact.format(n) : "–"),
  count: (n) => (known(n) ? joined(SPLIT.count(n)) : "–"),
  bytes: (n) => (known(n) ? joined(SPLIT.bytes(n)) : "–"),
  ms: (n) => (known(n) ? joined(SPLIT.ms(n)) : "–"),
  seconds(n) {
    if (!known(n)) return "–";
    if (n < 1) return joined(SPLIT.ms(1e3 * n));
    if (n < 120) return three.format(n) + NARROW + "s";
    const minutes = Math.round(n / 60);
    return minutes < 120
      ? minutes + NARROW + "min"
      : Math.floor(minutes / 60) + NARROW + "h " + (minutes % 60) + NARROW + "min";
  },
  /** A small number as 3.1·10⁻⁷. */
  error(n) {
    if (!known(n)) return "–";
    if (n === 0) return "0";
    if (n >= 0.001 && n < 1000) return three.format(n);
    const [digits, power] = n.toExponential(1).split("e");
    const raised = [...String(Number(power))]
      .map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)])).join("");
    return digits === "1.0" ? "10" + raised : digits + "·10" + raised;
  },
};

/** Text beside the pointer: the first line strong, the others quiet. */
function tip(lines, x, y) {
  const box = byId("tip");
  if (!lines) {
    box.hidden = true;
    return;
  }
  const [first, ...rest] = lines;
  box.replaceChildren(el("div", null, el("b", { class: "name" }, first)),
    ...rest.map((line) => el("div", { class: "name" }, line)));
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  box.style.left = clamp(x + 14, 6, innerWidth - width - 6) + "px";
  box.style.top = (y + height + 26 > innerHeight ? y - height - 12 : y + 16) + "px";
}
/** Give an element a tooltip, for the pointer and for the keyboard. */
function tipped(node, lines) {
  node.addEventListener("pointermove", (event) => tip(lines(), event.clientX, event.clientY));
  node.addEventListener("pointerleave", () => tip(null));
  node.addEventListener("focus", () => {
    const { left, bottom } = node.getBoundingClientRect();
    if (node.matches(":focus-visible")) tip(lines(), left, bottom - 10);
  });
  node.addEventListener("blur", () => tip(null));
  return node;
}
addEventListener("keydown", (event) => event.key === "Escape" && tip(null));

/** A table; columns are [title, is it a number]. */
function table(columns, rows, caption) {
  const cell = (tag, i, content, more) =>
    el(tag, { class: columns[i][1] ? "number" : null, ...more }, content);
  return el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption },
    el("table", null,
      el("thead", null, el("tr", null,
        columns.map(([title], i) => cell("th", i, title, { scope: "col" })))),
      el("tbody", null, rows.map((row) =>
        el("tr", null, row.map((content, i) => cell("td", i, content)))))));
}
/** A part that is folded away until someone wants it. */
const folded = (title, ...children) => el("details", null, el("summary", null, title), ...children);
/** A sentence in which `names` stand between backticks. */
const sentence = (text) => text.split("`").map((part, i) =>
  (i % 2 ? el("code", { class: "name" }, part) : part));
