// What is said beside the graph: how to read it, a box, a space.
Object.assign(GraphView.prototype, {
  hints() {
    const sample = (kind, words) => el("span", null,
      svg("svg", { width: 30, height: 18, "aria-hidden": "true" },
        svg("g", { class: "box " + kind },
          svg("rect", { x: 1, y: 1, width: 28, height: 16, rx: 4 }))), words);
    const counts = { changed: 0, added: 0, removed: 0 };
    for (const item of this.merged.items) if (item.state) counts[item.state] += 1;
    const count = (state, words) => exact.format(counts[state]) + words;
    return [el("h3", null, exact.format(this.merged.items.length) + " boxes"),
      el("div", { class: "legend" },
        sample("changed", count("changed", " changed ●")),
        sample("added", count("added", " new +")),
        sample("removed", count("removed", " gone −")),
        sample("weighty", "has weights"),
        sample("", "has none"), sample("folded weighty", "a module, folded up")),
      el("h4", null, "How to look around"),
      el("ul", { class: "quiet" },
        el("li", null, "Drag to move. Click into the drawing, then scroll to zoom."),
        el("li", null, "Click a box to keep its details here."),
        el("li", null, "Double-click a module to open it."),
        el("li", null, "Arrow keys go from box to box."))];
  },

  boxDetails(box) {
    const { latest } = box, [only] = box.members;
    const pair = (format, [was, is]) => (was === is || !known(was) ? format(is)
      : !known(is) ? format(was) : `${format(was)} → ${format(is)}`);
    const both = (key) => (box.single && only.before && only.after
      && only.before[key] !== only.after[key] ? [only.before[key], only.after[key]]
      : [null, latest[key]]);
    const rows = [
      ["op", box.single ? latest.op : plural(box.members.length, "node")],
      box.single && latest.own && ["node", latest.name],
      box.single && !latest.own && latest.scope && ["module", latest.scope],
      ["result", pair(String, both("shape"))],
      box.parameters.some((n) => n) && ["parameters", pair(show.full, box.parameters)],
      box.macs.some((n) => n) && ["MACs", pair(show.full, box.macs)],
      box.state && ["state", { added: "new", removed: "gone", changed: "changed" }[box.state]],
    ].filter(Boolean);
    const outer = latest.own ? latest.scope.split(".").slice(0, -1).join(".") : latest.scope;
    const around = box.single && this.paths.includes(outer) ? outer : "";
    return [el("h3", { class: "name" }, box.single && !latest.own ? latest.name : box.title),
      el("dl", null, rows.map(([k, v]) => [el("dt", null, k), el("dd", { class: "name" }, v)])),
      !box.single && el("button", { type: "button",
        on: { click: () => this.fold(box.path, true) } }, "Open this module"),
      around && el("button", { type: "button", on: { click: () => this.fold(around, false) } },
        "Fold up ", el("span", { class: "name" }, cut(around, 22))),
      box.single && latest.reads.length > 0 && el("h4", null, "Reads"),
      box.single && el("ul", { class: "code" }, latest.reads.map((r) =>
        el("li", { class: "name" }, r))),
      box.spaces.length > 0 && el("h4", null, "Its spaces: point at one, click to keep it"),
      ...box.spaces.slice(0, 12).map((space) => this.spaceButton(space))].filter(Boolean);
  },

  spaceButton(space) {
    return el("button", { type: "button", class: "space",
      on: { pointerenter: () => this.pick(space.name), pointerleave: () => this.refresh(),
        focus: () => this.pick(space.name), click: () => this.showSpace(space.name, true) } },
    el("span", { class: "name" }, `${space.name} · ${this.size(space.name)}`),
    space.reason && el("div", { class: "quiet name" }, "frozen: " + space.reason));
  },

  /** The size of a space, before and after if that differs. */
  size(name) {
    const [was, is] = this.merged.sizes.get(name) || [null, null];
    return was === is || !known(was) ? show.full(is) : known(is)
      ? `${show.full(was)} → ${show.full(is)}` : show.full(was);
  },

  spaceDetails() {
    const own = (item) => item.spaces.find((s) => s.name === this.pinned);
    const items = this.merged.items.filter(own), space = items.length && own(items[0]);
    return [el("h3", { class: "name" }, this.pinned),
      space && el("p", { class: "quiet name" }, space.reason ? "frozen: " + space.reason
        : `a space of ${this.size(this.pinned)}; it changes in all of these at once`),
      el("ul", null, items.slice(0, 60).map((i) => el("li", { class: "name" }, i.latest.label))),
      items.length > 60 && el("p", { class: "quiet" }, `and ${items.length - 60} more`),
      el("button", { type: "button", on: { click: () => this.choose(null) } }, "Let go"),
    ].filter(Boolean);
  },
});
