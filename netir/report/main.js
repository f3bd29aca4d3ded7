// Put the parts together, and let the reader choose between light and dark.
function drawGraph() {
  const comparisons = (PAGE.comparisons || []).map((c) => ({ ...c,
    label: known(c.step) ? stageName(c.step) : "the whole run" }));
  if (comparisons.length) GRAPH = new GraphView(comparisons);
}

function drawContents() {
  const parts = [...document.querySelectorAll("main > section[id]")].filter((s) => !s.hidden);
  const links = parts.filter((s) => s.querySelector("h2")).map((s) =>
    el("a", { href: "#" + s.id }, s.querySelector("h2").textContent));
  byId("contents").append(...links);
  const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
    const link = links.find((l) => l.hash === "#" + entry.target.id);
    if (!link) return;
    if (entry.isIntersecting) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }), { rootMargin: "-30% 0px -60% 0px" });
  parts.forEach((part) => seen.observe(part));
}

function theme() {
  const stored = () => { // a page that is opened as a file may have no storage
    try { return localStorage.getItem("netir-theme"); } catch { return null; }
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = stored();
  const apply = () => {
    document.documentElement.dataset.theme = chosen || (system.matches ? "dark" : "light");
  };
  byId("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("netir-theme", chosen); } catch { /* it lasts for this visit */ }
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

/** Nothing is folded away on paper. */
function printing() {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((d) => { d.open = true; });
    if (GRAPH) GRAPH.fit();
  });
  addEventListener("afterprint", () => closed.forEach((d) => { d.open = false; }));
}

theme();
printing();
drawSummary();
drawTargets();
drawSteps();
drawWidths();
drawGraph();
drawCurves();
drawGrowth();
drawPareto();
drawContracts();
drawExports();
drawOrigin();
drawContents();
