// Widths before and after, as paired bars in the order of the network.
const FEW_ROWS = 60;

/** [space, width before, width after, widths after every step], in the order of the network. */
function widthRows() {
  const tables = [];
  for (const stage of STAGES) {
    if (!tables.length && stage.widths_before) tables.push(stage.widths_before);
    if (stage.widths_after && Object.keys(stage.widths_after).length) {
      tables.push(stage.widths_after);
    }
  }
  if (!tables.length) return [];
  const names = new Set(tables.flatMap((t) => Object.keys(t)));
  return [...names].map((name) =>
    [name, entry(tables[0], name), entry(tables[tables.length - 1], name),
      tables.map((t) => entry(t, name))]);
}

/** What a space holds, by its name, as far as a drawing tells. */
function spaceFacts(name) {
  for (const drawn of [...DRAWINGS].reverse()) {
    const number = drawn.spaces.findIndex((s) => s.name === name);
    if (number < 0) continue;
    const boxes = drawn.boxes.filter((b) => b.spaces.includes(number)).map((b) => b.label);
    return { reason: drawn.spaces[number].reason, boxes };
  }
  return { reason: "", boxes: [] };
}

function widthTip([name, , , all]) {
  const { reason, boxes } = spaceFacts(name);
  const steps = all.filter((w, i) => i === 0 || w !== all[i - 1])
    .map((w) => (known(w) ? show.full(w) : "none")).join(" → ");
  const more = boxes.length > 8 ? ` and ${boxes.length - 8} more` : "";
  return [name, "width " + steps, reason && "frozen: " + reason,
    boxes.length && "changes together: " + boxes.slice(0, 8).join(", ") + more].filter(Boolean);
}

function widthRow(row, widest) {
  const [name, before, after] = row;
  const bar = (width) => {
    const made = el("i");
    if (known(width)) made.style.width = 100 * width / widest + "%";
    else made.style.visibility = "hidden";
    return made;
  };
  const same = before === after;
  const words = same ? show.full(after) : known(before) && known(after)
    ? [show.full(before), el("span", { class: "arrow" }, "→"), show.full(after)]
    : known(after) ? ["new ", show.full(after)] : [show.full(before), " gone"];
  const made = el("button", { type: "button", class: "width-row" + (same ? " same" : ""),
    "aria-label": `${name}: ${show.full(before)} before, ${show.full(after)} after`,
    on: { click: () => GRAPH && GRAPH.showSpace(name) } },
  el("span", { class: "name" }, name),
  el("span", { class: "pair", "aria-hidden": "true" }, bar(before), bar(after)),
  el("span", { class: "number" }, words));
  return tipped(made, () => widthTip(row));
}

function drawWidths() {
  const rows = widthRows();
  if (!rows.length) return;
  const widest = Math.max(1, ...rows.flatMap((r) => [r[1] || 0, r[2] || 0]));
  const changed = rows.filter((r) => r[1] !== r[2]);
  const list = el("div");
  const fill = (shown) => {
    list.className = "bars" + (shown.length < 8 ? " single" : "");
    list.replaceChildren(...shown.map((row) => widthRow(row, widest)));
  };
  const few = (changed.length ? changed : rows).slice(0, FEW_ROWS);
  const all = `Show all ${exact.format(rows.length)}`;
  const button = rows.length > FEW_ROWS && el("button", { type: "button",
    "aria-expanded": "false" }, all);
  if (button) {
    button.addEventListener("click", () => {
      const more = button.getAttribute("aria-expanded") === "false";
      button.setAttribute("aria-expanded", String(more));
      button.textContent = more ? "Show fewer" : all;
      fill(more ? rows : few);
    });
  }
  fill(button ? few : rows);
  open("widths", el("div", { class: "key" },
    el("span", null, el("i"), "before"), el("span", null, el("i", { class: "now" }), "after"),
    el("span", null, `${changed.length} of ${plural(rows.length, "width")} changed`), button),
  list);
}
