// What is read rather than looked at: tiles, facts, steps, contracts, targets, files, origin.
const METRIC = { name: STORY.metric || "accuracy", better: STORY.higher_is_better !== false,
  kind: STORY.share === false ? "plain" : "share" };
show.metric = (n) => (known(n) ? joined(SPLIT[METRIC.kind](n)) : "–");
const COSTS = [
  ["parameters", "Parameters", "count"],
  ["macs", "MACs", "count"],
  ["bytes", "Weights", "bytes"],
  ["latency_torch", "PyTorch", "ms"],
  ["latency_onnx", "ONNX Runtime", "ms"],
];
const stageName = (i) => `${i + 1} ${STAGES[i].name}`;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Whether a stage changed the network, and not only its weights. */
const rewrites = (stage) => stage.kind === "pass" || (stage.growth || []).length > 0;

/** A measurement before the first rewrite, or the first there is, and at the end; null for the
    first if there is only one. */
function ends(name) {
  const taken = STAGES.map((s) => (s.measured ? s.measured[name] : null));
  const first = STAGES.findIndex(rewrites);
  const values = taken.filter(known), earlier = taken.slice(0, Math.max(first, 0)).filter(known);
  if (values.length < 2) return values.length ? [null, values[0]] : null;
  return [earlier.length ? earlier[earlier.length - 1] : values[0], values[values.length - 1]];
}

function costChange(before, after) {
  if (!before) return ["", ""];
  const change = Math.round(100 * (after / before - 1));
  if (change === 0) return ["unchanged", ""];
  return [(change < 0 ? "−" : "+") + Math.abs(change) + NARROW + "%", change < 0 ? "good" : "bad"];
}

function tile(label, split, before, after, [words, tone], bar) {
  const [digits, unit] = split(after);
  return el("div", null,
    el("div", { class: "tile-label" }, label),
    el("div", { class: "tile-now" }, digits, unit && el("small", null, unit)),
    bar,
    el("div", { class: "tile-change " + tone }, words || "\u00a0"),
    el("div", { class: "tile-was" }, before === null ? "" : "from " + joined(split(before))));
}

function shareBar(share) {
  const fill = el("i");
  fill.style.width = clamp(100 * share, 0, 100) + "%";
  return el("span", { class: "track", "aria-hidden": "true" }, fill);
}

function metricTile() {
  const both = ends("metric");
  if (!both) return null;
  const [before, after] = both, gap = after - before, share = METRIC.kind === "share";
  const none = Math.abs(gap) < 5e-4 * (share ? 1 : Math.abs(before));
  const size = share ? (100 * Math.abs(gap)).toFixed(1) + " points" : show.metric(Math.abs(gap));
  const change = before === null ? ["", ""] : none ? ["unchanged", ""]
    : [(gap < 0 ? "−" : "+") + size, (gap > 0) === METRIC.better ? "good" : "bad"];
  return tile(capital(METRIC.name), SPLIT[METRIC.kind], before, after, change,
    share ? shareBar(after) : null);
}

function drawSummary() {
  const tiles = [metricTile()];
  for (const [name, label, kind] of COSTS) {
    const both = ends(name);
    if (!both) continue;
    const change = costChange(...both);
    const latency = name.startsWith("latency") ? label + " latency" : label;
    const shown = tile(latency, SPLIT[kind], both[0], both[1], change,
      shareBar(both[1] / Math.max(both[0], both[1], 1e-12)));
    tiles.push(shown);
  }
  byId("tiles").append(...tiles.filter(Boolean));
  byId("tiles").hidden = !tiles.some(Boolean);
  const began = STORY.started && !Number.isNaN(Date.parse(STORY.started));
  const facts = [
    began && new Date(STORY.started).toISOString().slice(0, 16).replace("T", " ") + " UTC",
    known(STORY.seconds) && "took " + show.seconds(STORY.seconds),
    STORY.machine,
    known(STORY.seed) && "seed " + STORY.seed,
    STORY.timing && "latency: " + STORY.timing,
  ];
  byId("facts").append(...facts.filter(Boolean).map((f) => el("span", { class: "name" }, f)));
}

// ---- steps

function listOf(items) {
  return el("ul", null, items.map((item) => el("li", { class: "name code" }, item)));
}

/** Sites that were left, under their reason. */
function leftSites(left) {
  const reasons = new Map();
  for (const [site, why] of left) gather(reasons, why, site);
  return [...reasons].map(([why, sites]) =>
    el("div", null, el("p", { class: "name quiet" }, why, ":"), listOf(sites)));
}

const plural = (n, one) => `${exact.format(n)} ${one}${n === 1 ? "" : "s"}`;

function widthChanges(stage) {
  const before = stage.widths_before || {}, after = stage.widths_after || {};
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  return names.filter((n) => entry(before, n) !== entry(after, n))
    .map((n) => [n, show.full(entry(before, n)), show.full(entry(after, n))]);
}

/** What was measured last before a stage. */
function measuredBefore(i) {
  const earlier = STAGES.slice(0, i).reverse().find((s) => s.measured);
  return (earlier && earlier.measured) || {};
}

function stageChips(stage, i) {
  const m = stage.measured || {}, was = measuredBefore(i);
  const chip = (label, value, more) => el("li", null, label, " ", el("b", null, value), more);
  const cost = (key, label) => {
    const [words] = known(was[key]) ? costChange(was[key], m[key]) : [""];
    return chip(label, show.count(m[key]),
      words && words !== "unchanged" && el("span", { class: "quiet" }, " " + words));
  };
  return el("ul", { class: "chips" },
    stage.contract && chip("contract", stage.contract),
    known(stage.error) && stage.contract !== "changed" && chip("error", show.error(stage.error),
      known(stage.allowed) && el("span", { class: "quiet" },
        " of " + show.error(stage.allowed) + " allowed")),
    (stage.growth || []).length > 0 && chip("growth", plural(stage.growth.length, "change")),
    known(m.metric) && chip(METRIC.name, show.metric(m.metric)),
    known(m.parameters) && cost("parameters", "parameters"),
    known(m.macs) && cost("macs", "MACs"));
}

function stageItem(stage, i) {
  const changed = stage.changed || [], left = stage.left || [];
  const widths = rewrites(stage) ? widthChanges(stage) : [];
  return el("li", { id: "step-" + (i + 1), class: rewrites(stage) ? "pass" : "other" },
    el("span", { class: "index", "aria-hidden": "true" }, i + 1),
    el("div", { class: "step-head" },
      el("h3", { class: "name" }, capital(stage.name)),
      known(stage.seconds) && el("time", null, show.seconds(stage.seconds))),
    stage.text && stage.text !== stage.name
      && el("code", { class: "step-text name" }, stage.text),
    stage.what && el("p", null, sentence(stage.what)),
    stage.why && el("p", { class: "quiet" }, "Why: ", sentence(stage.why)),
    stageChips(stage, i),
    el("div", { class: "folds" },
      rewrites(stage) && stage.drawing && el("button", { type: "button", class: "link",
        on: { click: () => GRAPH.showStep(i) } }, "Show in the graph"),
      widths.length > 0 && folded(plural(widths.length, "width") + " changed",
        table([["space"], ["before", true], ["after", true]], widths, "Widths of this step")),
      changed.length > 0 && folded(plural(changed.length, "site") + " changed", listOf(changed)),
      left.length > 0 && folded(plural(left.length, "site") + " left alone", leftSites(left))));
}

function drawSteps() {
  if (STAGES.length) open("steps", el("ol", { class: "timeline" }, STAGES.map(stageItem)));
}

// ---- tables

/** How far an error is from what is allowed, on a logarithmic scale from 1e-17 to 10. */
function gauge(error, allowed) {
  const at = (n) => clamp(100 * (Math.log10(Math.max(n, 1e-17)) + 17) / 18, 0, 100);
  const kept = !known(allowed) || error <= allowed;
  return svg("svg", { class: "gauge" + (kept ? "" : " broken"), viewBox: "0 0 100 8",
    width: 150, height: 12, role: "img",
    "aria-label": show.error(error) + " of " + show.error(allowed) + " allowed" },
  svg("rect", { width: 100, height: 8, rx: 2 }),
  svg("rect", { class: "fill", width: Math.max(at(error), 1), height: 8, rx: 2 }),
  known(allowed) && svg("line", { x1: at(allowed), x2: at(allowed), y1: -2, y2: 10 }));
}

const PROMISE = {
  "exact": "the same function",
  "exact-eval": "the same function in eval mode",
  "masked": "the original without what was removed",
  "bounded": "every layer within its certified bound",
  "changed": "a sound network, another function",
};

function drawContracts() {
  const rows = STAGES.map((stage, i) => [stage, i]).filter(([s]) => s.contract);
  if (!rows.length) return;
  const columns = [["step"], ["contract"], ["promise"], ["error", true], ["allowed", true],
    ["on a scale of powers of ten"], [""]];
  open("contracts", table(columns, rows.map(([stage, i]) => {
    const measured = known(stage.error) && stage.contract !== "changed";
    const kept = measured && (!known(stage.allowed) || stage.error <= stage.allowed);
    return [el("a", { href: "#step-" + (i + 1), class: "name" }, stageName(i)),
      stage.contract, entry(PROMISE, stage.contract) || "",
      measured ? show.error(stage.error) : "–", measured ? show.error(stage.allowed) : "–",
      measured ? gauge(stage.error, stage.allowed) : "structure checked",
      measured && el("span", { class: kept ? "good" : "bad" }, kept ? "✓ kept" : "✗ broken")];
  }), "Contracts"));
}

function drawTargets() {
  const targets = STORY.targets || [];
  if (!targets.length) return;
  open("targets", table([["target"], ["wanted", true], ["got", true], [""]], targets.map((t) => [
    el("span", { class: "name" }, t.name), t.wanted, t.got,
    el("span", { class: t.met ? "good" : "bad" }, t.met ? "✓ met" : "✗ missed"),
  ]), "Targets"));
}

function drawExports() {
  const files = STORY.exports || [];
  if (!files.length) return;
  const columns = [["file"], ["format"], ["size", true], ["opset", true], ["checked on"],
    ["error", true], ["allowed", true], ["latency", true]];
  open("exports", table(columns, files.map((f) => [
    el("span", { class: "name code" }, f.file), f.format || "–", show.bytes(f.bytes),
    known(f.opset) ? f.opset : "–", f.provider || "–", show.error(f.error),
    show.error(f.allowed), show.ms(f.latency),
  ]), "Files"));
}

function drawOrigin() {
  const facts = [
    ["seed", known(STORY.seed) ? String(STORY.seed) : ""],
    ["machine", STORY.machine],
    ["started", STORY.started],
    ["took", known(STORY.seconds) ? show.seconds(STORY.seconds) : ""],
    ...Object.entries(STORY.versions || {}),
  ].filter(([, value]) => value);
  if (!facts.length && !STORY.spec) return;
  open("origin",
    STORY.spec && el("p", { class: "about" },
      "The spec of the run: with it and its seed the run can be done again."),
    STORY.spec && el("pre", { tabindex: 0, "aria-label": "Spec" }, STORY.spec),
    facts.length > 0 && el("dl", { class: "facts-table" }, facts.map(([name, value]) =>
      [el("dt", { class: "name" }, name), el("dd", { class: "name" }, value)])));
}
