// The drawing of the graph: pan, zoom, search, what changes together, before and after.
const MANY = 260; // with more boxes than this, modules start folded up
const FAR = 0.42; // below this scale boxes have no text
const FARTHER = 0.18; // and below this one there are no lines

const shapeText = (shape) => {
  const found = /^\w+\[(.*)\]$/.exec(shape);
  return found && !found[1].includes("[") ? found[1].split(", ").join("×") || "scalar" : shape;
};
const cut = (text, length) => (text.length <= length ? text : "…" + text.slice(1 - length));
const cutEnd = (text, length) => (text.length <= length ? text : text.slice(0, length - 1) + "…");
const brief = (shape) => shapeText(shape).replace(/^batch×/, "");

class GraphView {
  constructor(comparisons) {
    this.comparisons = comparisons;
    this.view = "changes";
    this.chosen = null; // the name of an item
    this.pinned = ""; // the name of a space
    this.hits = [];
    this.at = { k: 1, x: 0, y: 0 };
    this.parts();
    this.gestures();
    this.keys();
    this.compare(0);
    let width = this.svg.clientWidth;
    new ResizeObserver(() => {
      if (this.svg.clientWidth !== width) this.fit();
      width = this.svg.clientWidth;
    }).observe(this.svg);
  }

  // ---- parts of the page

  parts() {
    const choice = (label, view) => el("button", { type: "button", "data-view": view,
      on: { click: () => this.show(view) } }, label);
    this.views = ["Before", "Changes", "After"].map((l) => choice(l, l.toLowerCase()));
    this.step = el("select", { "aria-label": "Compare",
      on: { change: () => this.compare(Number(this.step.value)) } },
    this.comparisons.map((c, i) => el("option", { value: i }, c.label)));
    this.depth = el("select", { on: { change: () => this.foldTo(Number(this.depth.value)) } });
    this.find = el("input", { type: "search", id: "find", placeholder: "Search by name",
      "aria-label": "Search by name", autocomplete: "off", spellcheck: "false",
      on: { input: () => this.search(), keydown: (e) => e.key === "Enter" && this.next() } });
    this.found = el("span", { id: "found", class: "quiet", role: "status" });
    this.lines = svg("g");
    this.near = svg("path", { class: "lines near" });
    this.boxes = svg("g", { class: "boxes" });
    this.top = svg("g"); // what is highlighted, while the other boxes are dimmed as one
    this.world = svg("g", null, this.lines, this.near, this.boxes, this.top);
    this.svg = svg("svg", { tabindex: 0, role: "group", "aria-roledescription": "graph",
      "aria-label": "Graph. Arrow keys move from box to box, Enter opens a module, plus and "
        + "minus zoom, zero fits all." }, this.world);
    this.panel = el("aside", { class: "panel", "aria-live": "polite",
      "aria-label": "What is pointed at" });
    const zoom = (label, name, change) => el("button", { type: "button", "aria-label": name,
      on: { click: change } }, label);
    open("graph",
      el("div", { class: "tools" },
        this.comparisons.length > 1 && el("label", null, "Compare", this.step),
        this.comparisons[0].from !== this.comparisons[0].to
          && el("span", { class: "group", role: "group", "aria-label": "Which graph" }, this.views),
        el("label", null, "Detail", this.depth),
        el("span", { class: "gap" }), this.found, this.find),
      el("div", { class: "stage" },
        el("div", { class: "canvas" }, this.svg,
          el("div", { class: "zoom group", role: "group", "aria-label": "Zoom" },
            zoom("−", "Zoom out", () => this.zoom(1 / 1.4)),
            zoom("Fit", "Fit all", () => this.fit()),
            zoom("+", "Zoom in", () => this.zoom(1.4)))),
        this.panel));
  }

  // ---- what is drawn

  compare(number) {
    this.merged = merged(this.comparisons[number]);
    this.paths = modulePaths(this.merged.items);
    this.byName = new Map(this.merged.items.map((item) => [item.name, item]));
    if (!this.byName.has(this.chosen)) this.chosen = null;
    if (!this.merged.sizes.has(this.pinned)) this.pinned = "";
    this.depths();
    this.search();
  }

  /** Offer the depths of modules there are; start with as much detail as can be seen. */
  depths() {
    const deepest = Math.max(0, ...this.paths.map((p) => p.split(".").length));
    const levels = Array.from({ length: Math.min(deepest, 6) }, (_, i) => i + 1);
    const option = (value, text) => el("option", { value }, text);
    this.depth.replaceChildren(
      ...levels.map((n) => option(n, n === 1 ? "outer modules" : `modules to depth ${n}`)),
      option(99, "every node"));
    const fits = [99, ...levels.reverse()].find((n) =>
      (this.opened = this.openedTo(n),
      foldedUp(this.merged, this.opened).boxes.length <= MANY));
    this.foldTo(fits || 1);
  }

  openedTo(depth) {
    return new Set(this.paths.filter((p) => p.split(".").length < depth || depth === 99));
  }

  foldTo(depth) {
    this.depth.value = depth;
    this.opened = this.openedTo(depth);
    this.draw();
    this.fit();
  }

  /** Open a module, or fold it up again, and keep the place on the screen. */
  fold(path, open_) {
    if (open_) this.opened.add(path);
    else {
      this.paths.filter((p) => p === path || p.startsWith(path + "."))
        .forEach((p) => this.opened.delete(p));
    }
    this.draw();
    const box = this.drawn.boxes.findIndex((b) =>
      b.path === path || b.members.some((m) => (m.latest.scope + ".").startsWith(path + ".")));
    if (box >= 0) this.centre(box, this.at.k);
  }

  draw() {
    const drawn = this.drawn = foldedUp(this.merged, this.opened);
    const area = this.svg.getBoundingClientRect();
    const aspect = area.width && area.height ? area.width / area.height : 1.6;
    const inputs = drawn.boxes.flatMap((b, i) =>
      (b.members.some((m) => m.latest.op === "input") ? [i] : []));
    this.placed = laidOut(drawn.boxes.length, drawn.lines, inputs, aspect);
    this.home = new Map();
    drawn.boxes.forEach((box, i) => box.members.forEach((m) => this.home.set(m.name, i)));
    this.bySpace = new Map();
    drawn.boxes.forEach((box, i) =>
      box.spaces.forEach(({ name }) => gather(this.bySpace, name, i)));
    this.touching = drawn.boxes.map(() => []);
    drawn.lines.forEach(([from, to], i) => {
      this.touching[from].push(i);
      this.touching[to].push(i);
    });
    this.lit = [];
    this.elements = drawn.boxes.map((box, i) => this.boxElement(box, i));
    this.boxes.replaceChildren(...this.elements);
    this.top.replaceChildren();
    this.show(this.view);
  }

  boxElement(box, i) {
    const { latest } = box, { x, y } = this.placed;
    const weighty = box.members.some((m) => m.latest.reads.length);
    const marks = { added: "+", removed: "−", changed: "●" };
    const second = box.single
      ? (latest.own ? latest.op + " · " : "") + brief(latest.shape)
      : plural(box.members.length, "node") + " · " + brief(latest.shape);
    const kind = `box ${box.state}${weighty ? " weighty" : ""}${box.single ? "" : " folded"}`;
    return svg("g", { class: kind, "data-box": i, "data-name": box.single ? latest.name : box.path,
      transform: `translate(${round(x[i])} ${y[i]})` },
    svg("rect", { width: BOX.width, height: BOX.height, rx: box.single ? 6 : 3 }),
    svg("text", { x: 9, y: 17 }, cut(box.title, box.state ? 18 : 20)),
    svg("text", { class: "second", x: 9, y: 32 }, cutEnd(second, 24)),
    box.state && svg("text", { class: "mark", x: BOX.width - 7, y: 16 }, marks[box.state]));
  }

  /** Show the graph before, after, or both with what changed. */
  show(view) {
    this.view = this.comparisons[0].from === this.comparisons[0].to ? "after" : view;
    this.views.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.view === view)));
    const sides = { before: [true, false], after: [false, true], changes: [true, true] };
    const [was, is] = sides[this.view];
    this.drawn.boxes.forEach((box, i) => {
      const seen = (was && box.hasBefore) || (is && box.hasAfter);
      this.elements[i].style.display = seen ? "" : "none";
      this.elements[i].classList.toggle("plain", this.view !== "changes");
    });
    const paths = { "": [], hop: [], gone: [], new: [] }; // a few lines each, so that a browser
    // need not paint those that are out of sight
    this.drawn.lines.forEach(([, , old, now], i) => {
      if (!((was && old) || (is && now))) return;
      const { d, hop } = this.placed.paths[i];
      const one = this.view === "changes" && old !== now;
      const kind = one ? (old ? "gone" : "new") : hop ? "hop" : "", own = paths[kind];
      if (!own.length || own[own.length - 1].length > 40) own.push([]);
      own[own.length - 1].push(d);
    });
    this.lines.replaceChildren(...Object.entries(paths).flatMap(([kind, own]) =>
      own.map((some) => svg("path", { class: "lines " + kind, d: some.join("") }))));
    this.refresh();
  }

  // ---- what is pointed at

  /** Highlight what changes together with a box or with a space, and tell about it. */
  refresh(pointed) {
    const index = pointed !== undefined ? pointed
      : this.chosen !== null ? this.home.get(this.chosen) : undefined;
    const box = index === undefined ? null : this.drawn.boxes[index];
    const space = pointed === undefined && this.pinned ? this.pinned
      : box && box.spaces.length ? box.spaces[0].name : "";
    this.pick(space);
    for (const e of this.svg.querySelectorAll(".chosen")) e.classList.remove("chosen");
    if (this.chosen !== null) this.elements[this.home.get(this.chosen)].classList.add("chosen");
    this.near.setAttribute("d", index === undefined ? ""
      : this.touching[index].map((i) => this.placed.paths[i].d).join(""));
    this.panel.replaceChildren(...(box ? this.boxDetails(box) : this.pinned
      ? this.spaceDetails() : this.hints()));
  }

  pick(space) {
    this.svg.classList.toggle("picking", space !== "");
    const lit = this.bySpace.get(space) || [];
    if (lit === this.lit) return;
    for (const i of this.lit) this.elements[i].classList.remove("on");
    this.boxes.append(...this.top.childNodes);
    this.lit = lit;
    for (const i of this.lit) this.elements[i].classList.add("on");
    this.top.append(...this.lit.map((i) => this.elements[i]));
  }

  choose(name) {
    this.chosen = name;
    this.pinned = "";
    this.refresh();
  }

  /** Keep a space highlighted, and bring it into view. */
  showSpace(name, stay) {
    if (!this.merged.sizes.has(name)) {
      this.step.value = 0;
      this.compare(0);
    }
    this.chosen = null;
    this.pinned = name;
    this.refresh();
    if (!stay) byId("graph").scrollIntoView();
    if (this.lit.length) this.fit(this.lit);
  }

  /** Compare the network before and after a step. */
  showStep(step) {
    const number = Math.max(0, this.comparisons.findIndex((c) => c.step === step));
    this.step.value = number;
    this.compare(number);
    byId("graph").scrollIntoView();
  }

  // ---- search

  search() {
    const wanted = this.find.value.trim().toLowerCase();
    this.hits = wanted ? this.merged.items.filter(({ latest }) =>
      [latest.name, latest.op, latest.scope].some((t) => t.toLowerCase().includes(wanted))) : [];
    this.hit = -1;
    this.found.textContent = wanted ? `${exact.format(this.hits.length)} found` : "";
    this.markHits();
  }

  markHits() {
    const boxes = new Set(this.hits.map((item) => this.home.get(item.name)));
    this.elements.forEach((e, i) => e.classList.toggle("hit", boxes.has(i)));
  }

  /** Go to the next hit; open the modules around it. */
  next() {
    if (!this.hits.length) return;
    this.hit = (this.hit + 1) % this.hits.length;
    const { name, latest } = this.hits[this.hit];
    const parts = latest.scope.split(".");
    const closed = parts.map((_, n) => parts.slice(0, n + 1).join("."))
      .filter((path) => path && !this.opened.has(path));
    if (closed.length && !this.drawn.boxes[this.home.get(name)].single) {
      closed.forEach((path) => this.opened.add(path));
      this.draw();
      this.markHits();
    }
    this.found.textContent = `${this.hit + 1} of ${exact.format(this.hits.length)}`;
    this.choose(name);
    this.centre(this.home.get(name), Math.max(this.at.k, 0.9));
  }

  // ---- place and scale

  place(k, x, y) {
    this.at = { k: clamp(k, 0.01, 4), x, y };
    this.world.setAttribute("transform", `translate(${round(x)} ${round(y)}) scale(${this.at.k})`);
    this.svg.classList.toggle("far", this.at.k < FAR);
    this.svg.classList.toggle("farther", this.at.k < FARTHER);
  }

  fit(boxes) {
    const { width, height } = this.svg.getBoundingClientRect();
    const some = boxes || this.drawn.boxes.map((_, i) => i);
    if (!some.length || !width) return;
    const { x, y } = this.placed;
    const left = Math.min(...some.map((i) => x[i])), top = Math.min(...some.map((i) => y[i]));
    const wide = Math.max(...some.map((i) => x[i])) + BOX.width - left;
    const high = Math.max(...some.map((i) => y[i])) + BOX.height - top;
    const k = Math.min((width - 40) / wide, (height - 84) / high, 1.15); // below are the buttons
    this.place(k, (width - k * wide) / 2 - k * left, (height - 40 - k * high) / 2 - k * top);
  }

  centre(box, k) {
    const { width, height } = this.svg.getBoundingClientRect();
    this.place(k, width / 2 - k * (this.placed.x[box] + BOX.width / 2),
      height / 2 - k * (this.placed.y[box] + BOX.height / 2));
  }

  zoom(factor, x, y) {
    const { width, height } = this.svg.getBoundingClientRect();
    const { k } = this.at, cx = known(x) ? x : width / 2, cy = known(y) ? y : height / 2;
    const wanted = clamp(k * factor, 0.01, 4);
    this.place(wanted, cx - (cx - this.at.x) * wanted / k, cy - (cy - this.at.y) * wanted / k);
  }
}
