// What each step costs against how good it is, and the front of those that none beats.
/** Those that no other beats in both; the cheapest first. */
function front(points) {
  const sorted = [...points].sort((a, b) => a.cost - b.cost || b.good - a.good);
  let best = -Infinity;
  return sorted.filter((p) => p.good > best && ((best = p.good), true));
}

function paretoPoints(key) {
  return STAGES.map((s, i) => ({ i, m: s.measured || {} }))
    .filter(({ m }) => known(m.metric) && known(m[key]))
    .map(({ i, m }) => ({ i, cost: m[key], metric: m.metric,
      good: METRIC.better ? m.metric : -m.metric }));
}

/** Neighbours that would hide each other stand side by side. */
function spread(points, x, y) {
  const placed = [];
  for (const p of points) {
    p.x = x(p.cost);
    p.y = y(p.metric);
    while (placed.some((q) => Math.abs(q.x - p.x) < 20 && Math.abs(q.y - p.y) < 20)) p.x += 21;
    placed.push(p);
  }
}

function paretoChart(key, kind, wide) {
  const points = paretoPoints(key);
  const [high, left, bottom] = [400, 62, 350];
  const costs = points.map((p) => p.cost), room = (Math.max(...costs) - Math.min(...costs)) * 0.07;
  const from = Math.max(Math.min(...costs) - (room || 1), 0), to = Math.max(...costs) + (room || 1);
  const [level, marked] = linear(range(points.map((p) => p.metric), METRIC.better));
  const x = (v) => left + (wide - left - 24) * (v - from) / (to - from);
  const height = (v) => bottom - (bottom - 16) * level(v);
  const y = (v) => clamp(height(v), 14, bottom - 14);
  const best = front(points);
  spread(points, x, y);
  points.forEach((p) => { p.wide = wide; });
  const off = (p) => height(p.metric) > bottom || height(p.metric) < 0;
  return svg("svg", { class: "chart", viewBox: `0 0 ${wide} ${high}`, role: "group",
    "aria-label": "Trade-off between " + METRIC.name + " and " + key },
  marked.map((t) => [
    svg("line", { class: "axis", x1: left, x2: wide - 24, y1: height(t), y2: height(t) }),
    svg("text", { x: left - 10, y: height(t) + 4, "text-anchor": "end" },
      METRIC.kind === "share" ? Number((100 * t).toPrecision(4)) + " %" : Number(t.toPrecision(4))),
  ]),
  ticks(from, to, wide / 140).map((t) =>
    svg("text", { x: x(t), y: bottom + 20, "text-anchor": "middle" }, show[kind](t))),
  svg("line", { class: "base", x1: left, x2: wide - 24, y1: bottom, y2: bottom }),
  svg("path", { class: "path", d: points.map((p, n) =>
    (n ? "L" : "M") + round(p.x) + " " + round(p.y)).join("") }),
  svg("path", { class: "front", d: best.map((p, n) =>
    (n ? `H${round(x(p.cost))}V` : `M${round(x(p.cost))} `) + round(y(p.metric))).join("") }),
  points.map((p) => paretoPoint(p, best.includes(p), off(p), kind)));
}

function paretoPoint(p, best, off, kind) {
  const words = METRIC.name + " " + show.metric(p.metric), right = p.x > p.wide * 0.7;
  return tipped(svg("g", { class: "point" + (best ? " best" : ""), tabindex: 0, role: "img",
    "aria-label": `${stageName(p.i)}: ${words}, ${show[kind](p.cost)}` },
  svg("circle", { cx: p.x, cy: p.y, r: 11 }),
  svg("text", { x: p.x, y: p.y + 4 }, p.i + 1),
  off && svg("text", { class: "off" + (right ? " before" : ""), y: p.y + 4,
    x: p.x + (right ? -17 : 17) },
    (p.wide > 600 ? "off the scale: " : "↓ ") + show.metric(p.metric))),
  () => [stageName(p.i), words, show[kind](p.cost), best && "on the front"].filter(Boolean));
}

function drawPareto() {
  const both = COSTS.filter(([key]) => STAGES.filter((s) =>
    s.measured && known(s.measured.metric) && known(s.measured[key])).length > 1);
  if (!both.length) return;
  const holder = el("div");
  const buttons = both.map(([key, label, kind]) => el("button", { type: "button",
    "aria-pressed": "false", on: { click: (event) => choose(event.currentTarget, key, kind) } },
  label));
  function choose(button, key, kind) {
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
    holder.replaceChildren(responsive((width) => paretoChart(key, kind, width)));
  }
  open("pareto", el("div", { class: "tools" },
    el("span", { class: "group", role: "group", "aria-label": "Cost" }, buttons)), holder);
  choose(buttons[0], both[0][0], both[0][2]);
}
