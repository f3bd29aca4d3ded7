// Widths over all optimizer steps: a stepped line for each space that changed during a training.
const GROWTH = { left: 62, top: 34, height: 280, labels: 16, rows: 1000 };

/** A line for every space that grew: its widths in order, each from its step on; `event` is the
    growth that made it. A width of null says that the space is gone. */
function grownSpaces() {
  const found = new Map();
  STAGES.forEach((s) => (s.growth || []).forEach((g) => found.set(g.space, [])));
  let step = 0;
  STAGES.forEach((stage, i) => {
    const epochs = stage.epochs || [], table = stage.widths_after || {};
    for (const event of stage.growth || []) {
      const points = found.get(event.space);
      if (!points.length) points.push({ step: 0, width: event.before, stage: i });
      points.push({ step: event.step, width: event.after, stage: i, event });
    }
    step = known(stage.step) ? stage.step
      : Math.max(step, ...epochs.map((e) => e.step), ...(stage.growth || []).map((g) => g.step));
    if (Object.keys(table).length) {
      for (const [name, points] of found) {
        const width = known(entry(table, name)) ? entry(table, name) : null;
        const last = points[points.length - 1], point = { step, width, stage: i };
        if (last && last.step === step && !last.event) points.splice(-1, 1, point);
        else if (last ? last.width !== width : known(width)) points.push(point);
      }
    }
  });
  return [...found].map(([name, points]) => ({ name, points }))
    .sort((a, b) => lastWidth(b) - lastWidth(a));
}

const lastWidth = ({ points }) => points[points.length - 1].width || 0;

/** The last point of a line that is not behind a step; the first one if all are. */
function pointAt({ points }, step) {
  return points.reduce((a, b) => (b.step <= step ? b : a));
}

function growthPath({ points }, x, y, end) {
  let d = "", open = false;
  for (const p of points) {
    if (open) d += `H${round(x(p.step))}`;
    if (known(p.width)) d += (open ? "V" : `M${round(x(p.step))} `) + round(y(p.width));
    open = known(p.width);
  }
  return open ? `${d}H${round(end)}` : d;
}

/** Names beside the ends of their lines, moved apart where they would hide each other. */
function growthLabels(lines, y, end, letters) {
  const lowest = GROWTH.top + GROWTH.height + 4;
  const shown = lines.slice(0, GROWTH.labels), gap = 15;
  const places = shown.map((line) => y(lastWidth(line)));
  places.forEach((_, i) => { if (i) places[i] = Math.max(places[i], places[i - 1] + gap); });
  for (let i = places.length - 1, most = lowest; i >= 0; i--, most = places[i + 1] - gap) {
    places[i] = Math.min(places[i], most);
  }
  return shown.map((line, i) => [
    svg("path", { class: "leader", d: `M${round(end)} ${round(y(lastWidth(line)))}L`
      + `${round(end + 14)} ${round(places[i])}` }),
    svg("text", { x: end + 19, y: places[i] + 4 },
      `${cut(line.name, letters)} ${show.full(lastWidth(line))}`)]);
}

function growthTip({ name, points }, point) {
  const { event } = point, changes = points.filter((p) => p.event).length;
  return [name,
    known(point.width) ? `width ${show.full(point.width)} from step ${exact.format(point.step)} on`
      : `gone at step ${exact.format(point.step)}`,
    event && `${show.full(event.before)} → ${show.full(event.after)}`
      + (event.init ? `, ${event.init}` : ""),
    event && known(event.value) && "the trigger saw " + show.error(event.value),
    event && event.note,
    `${stageName(point.stage)}; ${plural(changes, "change")} in all`].filter(Boolean);
}

function growthChart(lines, data, width) {
  const longest = Math.max(...lines.map((l) => l.name.length));
  const letters = Math.round(clamp(longest, 6, width / 30));
  const end = width - 55 - 7 * letters, bottom = GROWTH.top + GROWTH.height;
  const widest = Math.max(1, ...lines.flatMap((l) => l.points.map((p) => p.width || 0)));
  const x = (step) => GROWTH.left + (end - GROWTH.left) * step / data.last;
  const y = (v) => bottom - GROWTH.height * v / (1.06 * widest);
  const cross = svg("line", { class: "cross", y1: 24, y2: bottom, visibility: "hidden" });
  const drawn = lines.map((line) => svg("g", { class: "grown", tabindex: 0, role: "img",
    "aria-label": growthTip(line, line.points[line.points.length - 1]).join(", ") },
  svg("path", { class: "line", d: growthPath(line, x, y, end) })));
  const chart = svg("svg", { class: "chart", role: "group", viewBox: `0 0 ${width} ${bottom + 44}`,
    "aria-label": "Widths over time; the numbers are in the table below" },
  ticks(0, widest, 5).filter(Number.isInteger).map((t) => [
    svg("line", { class: "axis", x1: GROWTH.left, x2: end, y1: y(t), y2: y(t) }),
    svg("text", { x: GROWTH.left - 10, y: y(t) + 4, "text-anchor": "end" }, exact.format(t))]),
  svg("line", { class: "base", x1: GROWTH.left, x2: end, y1: bottom, y2: bottom }),
  ticks(0, data.last, Math.max(2, (end - GROWTH.left) / 130)).filter(Number.isInteger).map((t) =>
    svg("text", { x: x(t), y: bottom + 20, "text-anchor": "middle" }, exact.format(t))),
  svg("text", { x: end, y: bottom + 40, "text-anchor": "end" }, "optimizer steps"),
  cross, drawn, growthLabels(lines, y, end, letters), rewriteMarks(data.marks, x, bottom));
  followGrowth(chart, lines, drawn, cross, { x, y, width, data, end });
  return chart;
}

/** The lines that are nearest to the pointer stand out, and tell what the first did last. */
function followGrowth(chart, lines, drawn, cross, { x, y, width, data, end }) {
  const choose = (chosen) => drawn.forEach((g, i) => {
    g.classList.toggle("on", chosen.includes(i));
    g.classList.toggle("off", chosen.length > 0 && !chosen.includes(i));
  });
  chart.addEventListener("pointermove", (event) => {
    if (event.target.closest(".badge")) return;
    const box = chart.getBoundingClientRect(), scale = width / box.width;
    const [at, high] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const step = clamp((at - GROWTH.left) / (end - GROWTH.left), 0, 1) * data.last;
    const far = lines.map((line) => Math.abs(y(pointAt(line, step).width || 0) - high));
    const [near, ...others] = lines.map((_, i) => i).filter((i) => far[i] === Math.min(...far));
    const point = pointAt(lines[near], step);
    choose([near, ...others]);
    cross.setAttribute("visibility", "visible");
    ["x1", "x2"].forEach((key) => cross.setAttribute(key, x(point.step)));
    const more = others.length > 4 ? ` and ${others.length - 4} more` : "";
    const same = others.slice(0, 4).map((i) => lines[i].name).join(", ") + more;
    tip([...growthTip(lines[near], point), others.length && "of the same width: " + same]
      .filter(Boolean), event.clientX, event.clientY);
  });
  const leave = () => {
    choose([]);
    cross.setAttribute("visibility", "hidden");
    tip(null);
  };
  chart.addEventListener("pointerleave", leave);
  drawn.forEach((g, i) => {
    g.addEventListener("focus", () => {
      if (!g.matches(":focus-visible")) return;
      const { right, top } = g.getBoundingClientRect(), { points } = lines[i];
      choose([i]);
      tip(growthTip(lines[i], points[points.length - 1]), right, top);
    });
    g.addEventListener("blur", leave);
  });
}

function drawGrowth() {
  const lines = grownSpaces();
  if (!lines.length) return;
  const data = trained();
  data.last = Math.max(data.last, ...lines.flatMap((l) => l.points.map((p) => p.step)));
  const events = STAGES.flatMap((s) => s.growth || []);
  const rows = events.slice(0, GROWTH.rows).map((g) => [exact.format(g.step),
    el("span", { class: "name" }, g.space), show.full(g.before), show.full(g.after), g.init || "–",
    show.error(g.value), el("span", { class: "name" }, g.note || "")]);
  const more = events.length - rows.length;
  const about = lines.length > GROWTH.labels && el("p", { class: "about" },
    `The ${GROWTH.labels} widest of ${lines.length} are named; point at a line for its name.`);
  open("growth", about, responsive((width) => growthChart(lines, data, width)),
    folded("As a table", table([["step", true], ["space"], ["before", true], ["after", true],
      ["init"], ["trigger", true], ["note"]], rows, "Widths that changed in training, in numbers"),
    more > 0 && el("p", { class: "quiet" }, `and ${exact.format(more)} more, in the journal`)));
}
