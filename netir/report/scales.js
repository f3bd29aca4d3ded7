// What the charts share: ticks, ranges, scales, and room that follows the page.
/** Round values from low to high that divide an axis. */
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough);
  const found = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step; t += step) {
    found.push(Math.abs(t) < step * 1e-9 ? 0 : t);
  }
  return found;
}

/** The range that an axis shows: without values so bad that they would flatten all others. */
function range(values, better) {
  const sign = better ? 1 : -1;
  const sorted = values.map((v) => sign * v).sort((a, b) => a - b);
  const high = sorted[sorted.length - 1];
  const usual = sorted[Math.floor(sorted.length / 4)];
  const low = Math.max(sorted[0], high - 3 * Math.max(high - usual, Math.abs(high) * 0.01));
  return [sign * low, sign * high].sort((a, b) => a - b);
}

/** A scale for values: [position of a value between 0 and 1, ticks]. */
function linear([low, high]) {
  const room = (high - low || Math.abs(high) || 1) * 0.07, [from, to] = [low - room, high + room];
  return [(v) => (v - from) / (to - from), ticks(from, to, 4)];
}
function logarithmic(low, high) {
  const from = Math.log10(low) - 0.05, to = Math.log10(high) + 0.05, found = [];
  for (let power = Math.floor(from); power <= to; power++) {
    for (const f of to - from > 2 ? [1] : [1, 2, 5]) found.push(f * 10 ** power);
  }
  return [(v) => (Math.log10(v) - from) / (to - from),
    found.filter((t) => Math.log10(t) >= from && Math.log10(t) <= to)];
}
function lossScale(values) {
  const low = Math.min(...values), high = Math.max(...values);
  return low > 0 && high > 20 * low ? logarithmic(low, high) : linear([low, high]);
}

const WIDEST = 1060;

/** A place for a chart that is drawn anew when it gets another width. */
function responsive(draw) {
  const holder = el("div");
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.round(clamp(entry.contentRect.width, 300, WIDEST));
    if (now === width) return;
    width = now;
    holder.replaceChildren(draw(width));
  }).observe(holder);
  return holder;
}
