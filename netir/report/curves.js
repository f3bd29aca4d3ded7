// Metric and loss over all optimizer steps, with the rewrites as upright lines.
const CURVES = { width: 1060, left: 62, right: 16, top: 34 };
/** All points of the training in order, with what was measured right after other stages, and the
    rewrites with the step at which they stood. */
function trained() {
  const points = [], marks = [];
  let step = 0;
  STAGES.forEach((stage, i) => {
    const own = (stage.epochs || []).map((e) => ({ ...e, stage: i }));
    const here = known(stage.step) ? stage.step : step;
    if (stage.kind === "pass") marks.push({ i, step: here });
    if (!own.length && stage.measured && known(stage.measured.metric)) {
      own.push({ step: here, metric: stage.measured.metric, stage: i });
    }
    points.push(...own);
    if (own.length) step = Math.max(step, own[own.length - 1].step);
  });
  return { points, marks, last: Math.max(step, 1, ...marks.map((m) => m.step)) };
}

/** One panel: lines of `series` ([key, class, does it go on from stage to stage]). */
function curvePanel(title, series, data, top, height, scale, format) {
  const values = data.points.flatMap((p) => series.map(([key]) => p[key])).filter(known);
  if (!values.length) return null;
  const [level, marked] = scale(values), right = CURVES.width - CURVES.right;
  const x = (step) => CURVES.left + (right - CURVES.left) * step / data.last;
  const y = (v) => top + height * (1 - level(v));
  const clip = "clip-" + series[0][0];
  const curves = svg("g", { "clip-path": `url(#${clip})` });
  for (const [key, kind, on] of series) {
    const own = data.points.filter((p) => known(p[key]));
    const d = own.map((p, i) => (i && (on || own[i - 1].stage === p.stage) ? "L" : "M")
      + round(x(p.step)) + " " + round(y(p[key]))).join("");
    curves.append(svg("path", { class: "line " + kind, d }));
    if (kind === "" && own.length < 400) {
      curves.append(...own.map((p) =>
        svg("circle", { class: "dot", cx: x(p.step), cy: y(p[key]), r: 2.8 })));
    }
  }
  const body = svg("g", null,
    svg("clipPath", { id: clip }, svg("rect", { x: CURVES.left - 4, y: top - 4,
      width: right - CURVES.left + 8, height: height + 4 })),
    marked.map((t) => [
      svg("line", { class: "axis", x1: CURVES.left, x2: right, y1: y(t), y2: y(t) }),
      svg("text", { x: CURVES.left - 10, y: y(t) + 4, "text-anchor": "end" }, format(t))]),
    svg("text", { class: "title", x: CURVES.left, y: top - 12 }, title), curves);
  body.bottom = top + height;
  return body;
}

/** Upright lines where the network was rewritten; those at one step stand side by side. */
function rewriteMarks(marks, x, bottom) {
  const taken = new Map();
  return marks.map(({ i, step }) => {
    const shift = taken.get(step) || 0;
    taken.set(step, shift + 1);
    const at = x(step), badge = at + 21 * shift;
    const made = svg("g", { class: "badge", tabindex: 0, role: "img",
      "aria-label": `step ${step}: ${stageName(i)}` },
    shift === 0 && svg("line", { class: "mark-line", x1: at, x2: at, y1: 22, y2: bottom }),
    svg("circle", { cx: badge, cy: 12, r: 9.5 }),
    svg("text", { x: badge, y: 16 }, i + 1));
    return tipped(made, () => [stageName(i), STAGES[i].text || "", "at step " + step]);
  });
}

function curvesChart(data, width) {
  CURVES.width = width;
  const small = (v) => String(Number(v.toPrecision(3)));
  const percent = (v) => (METRIC.kind === "share" ? small(100 * v) + " %" : small(v));
  const parts = [];
  let top = CURVES.top + 24;
  const title = capital(METRIC.name).slice(0, 30) + " on data held back";
  const metric = curvePanel(title, [["metric", "", true]], data, top, 190,
    (values) => linear(range(values, METRIC.better)), percent);
  if (metric) {
    parts.push(metric);
    top = metric.bottom + 46;
  }
  const back = data.points.some((p) => known(p.held_back_loss));
  const loss = curvePanel("Loss" + (back ? " (dashed: on data held back)" : ""),
    [["loss", ""], ["held_back_loss", "second"]], data, top, 150, lossScale, small);
  if (loss) parts.push(loss);
  const bottom = parts.length ? parts[parts.length - 1].bottom : top, right = width - CURVES.right;
  const x = (step) => CURVES.left + (right - CURVES.left) * step / data.last;
  const cross = svg("line", { class: "cross", y1: 24, y2: bottom, visibility: "hidden" });
  const chart = svg("svg", { class: "chart", role: "group", viewBox: `0 0 ${width} ${bottom + 44}`,
    "aria-label": "Training curves; the numbers are in the table below" },
  parts,
  svg("line", { class: "base", x1: CURVES.left, x2: right, y1: bottom, y2: bottom }),
  ticks(0, data.last, width / 130).map((t) => svg("text", { x: x(t), y: bottom + 20,
    "text-anchor": "middle" }, exact.format(t))),
  svg("text", { x: right, y: bottom + 40, "text-anchor": "end" }, "optimizer steps"),
  cross, rewriteMarks(data.marks, x, bottom));
  followPointer(chart, cross, data, x);
  return chart;
}

function drawCurves() {
  const data = trained();
  if (data.points.length < 2) return;
  const rows = data.points.map((p) => [stageName(p.stage), exact.format(p.step),
    show.metric(p.metric), show.error(p.loss), show.error(p.held_back_loss)]);
  open("curves", responsive((width) => curvesChart(data, width)),
    folded("As a table", table([["stage"], ["step", true], [METRIC.name, true],
      ["loss", true], ["loss, held back", true]], rows, "Training, in numbers")));
}

function followPointer(chart, cross, data, x) {
  chart.addEventListener("pointermove", (event) => {
    if (event.target.closest(".badge")) return;
    const box = chart.getBoundingClientRect();
    const at = (event.clientX - box.left) * CURVES.width / box.width;
    const near = data.points.reduce((a, b) =>
      (Math.abs(x(b.step) - at) < Math.abs(x(a.step) - at) ? b : a));
    cross.setAttribute("visibility", "visible");
    cross.setAttribute("x1", x(near.step));
    cross.setAttribute("x2", x(near.step));
    tip(["step " + exact.format(near.step),
      known(near.metric) && METRIC.name + " " + show.metric(near.metric),
      known(near.loss) && "loss " + show.error(near.loss),
      known(near.held_back_loss) && "loss on data held back " + show.error(near.held_back_loss),
    ].filter(Boolean), event.clientX, event.clientY);
  });
  chart.addEventListener("pointerleave", () => {
    cross.setAttribute("visibility", "hidden");
    tip(null);
  });
}
