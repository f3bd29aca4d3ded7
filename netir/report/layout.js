// Where the boxes of a graph stand: layered by longest path, ordered by barycentre, straightened
// by least squares, then wrapped into columns as a newspaper is. All of it in linear time but for
// sorting. It knows numbers only: `items` are boxes in the order of the graph, `lines` pairs of
// their indices that point forward.
const BOX = { width: 152, height: 40, across: 20, down: 22, column: 56 };
const LONG = 16; // a line over more layers than this is drawn as a hop and takes no room

/** For every box the layer in which it stands: one below the lowest that it reads. What does not
    come from `inputs`, as tables that are made of parameters, stands right above its readers. */
function layered(count, lines, inputs) {
  const layer = new Int32Array(count), fed = new Uint8Array(count);
  const reads = Array.from({ length: count }, () => []), readers = reads.map(() => []);
  for (const [from, to] of lines) {
    reads[to].push(from);
    readers[from].push(to);
  }
  for (const i of inputs) fed[i] = 1;
  for (let i = 0; i < count; i++) {
    for (const from of reads[i]) {
      layer[i] = Math.max(layer[i], layer[from] + 1);
      fed[i] = fed[i] || fed[from];
    }
  }
  for (let i = count - 1; i >= 0; i--) {
    if (!fed[i] && readers[i].length) {
      layer[i] = readers[i].reduce((low, to) => Math.min(low, layer[to]), Infinity) - 1;
    }
  }
  return layer;
}

/** Places for boxes and for the joints of lines that pass a layer, layer by layer. */
function places(count, lines, layer) {
  const rows = [], links = [];
  const put = (place) => {
    (rows[place.layer] = rows[place.layer] || []).push(place);
    return place;
  };
  const own = Array.from({ length: count }, (_, i) =>
    put({ box: i, layer: layer[i], width: BOX.width, above: [], below: [], x: 0 }));
  for (const [from, to] of lines) {
    const span = layer[to] - layer[from];
    const link = { from, to, joints: [], hop: span > LONG };
    links.push(link);
    if (link.hop) continue;
    let above = own[from];
    for (let l = layer[from] + 1; l < layer[to]; l++) {
      const joint = put({ box: -1, layer: l, width: 10, above: [above], below: [], x: 0 });
      above.below.push(joint);
      link.joints.push(joint);
      above = joint;
    }
    above.below.push(own[to]);
    own[to].above.push(above);
  }
  for (let l = 0; l < rows.length; l++) rows[l] = rows[l] || [];
  return { own, rows, links };
}

const mean = (places) => places.reduce((sum, p) => sum + p.x, 0) / places.length;

/** Order each row by the mean place of its neighbours, downwards and upwards in turn. */
function ordered(rows) {
  const number = (row) => row.forEach((p, i) => { p.x = i; });
  rows.forEach(number);
  for (let sweep = 0; sweep < 6; sweep++) {
    const down = sweep % 2 === 0, side = down ? "above" : "below";
    for (const row of down ? rows : [...rows].reverse()) {
      if (row.length < 2) continue;
      const want = new Map(row.map((p) => [p, p[side].length ? mean(p[side]) : p.x]));
      row.sort((a, b) => want.get(a) - want.get(b));
      number(row);
    }
  }
}

/** Move a row as near to its wishes as distances allow: isotonic regression by pooling. */
function settle(row, wishes) {
  const pools = [];
  let offset = 0;
  row.forEach((p, i) => {
    if (i) offset += (row[i - 1].width + p.width) / 2 + BOX.across;
    let pool = { sum: (wishes[i] - offset) * weight(p), weight: weight(p), from: i };
    while (pools.length && pools[pools.length - 1].sum / pools[pools.length - 1].weight
        >= pool.sum / pool.weight) {
      const last = pools.pop();
      pool = { sum: pool.sum + last.sum, weight: pool.weight + last.weight, from: last.from };
    }
    pools.push(pool);
    p.offset = offset;
  });
  pools.forEach((pool, n) => {
    const end = n + 1 < pools.length ? pools[n + 1].from : row.length;
    for (let i = pool.from; i < end; i++) row[i].x = pool.sum / pool.weight + row[i].offset;
  });
}
const weight = (place) => (place.box < 0 ? 0.01 : 1); // lines make room for boxes

/** Where a place wants to be: under or above the boxes next to it, or else the joints. */
function wish(place, side) {
  const boxes = place[side].filter((p) => p.box >= 0);
  if (!place[side].length) return place.x;
  return mean(boxes.length && place.box >= 0 ? boxes : place[side]);
}

function straightened(rows) {
  for (let sweep = 0; sweep < 6; sweep++) {
    const side = sweep % 2 === 0 ? "above" : "below";
    for (const row of sweep % 2 === 0 ? rows : [...rows].reverse()) {
      settle(row, row.map((p) => wish(p, side)));
    }
  }
}

/** How many lines lead into a row from above. */
const arriving = (row) => row.reduce((sum, place) => sum + place.above.length, 0);

/** Where to cut the layers into `count` columns of about one height: where few lines pass. */
function cutsFor(lines, count) {
  const cuts = [0], slack = Math.floor(lines.length / count / 2.5);
  for (let c = 1; c < count; c++) {
    const about = Math.round(c * lines.length / count);
    const price = (r) => lines[r] + 2 * Math.abs(r - about) / (slack || 1);
    let best = about;
    for (let r = Math.max(about - slack, cuts[c - 1] + 1); r <= about + slack; r++) {
      if (r < lines.length && price(r) < price(best)) best = r;
    }
    if (best > cuts[cuts.length - 1]) cuts.push(best);
  }
  return cuts;
}

/** How far the rows of each column reach to the left and to the right, and how high all are. */
function extent(reach, cuts) {
  const step = BOX.height + BOX.down, sides = [];
  let width = -BOX.column, tallest = 0;
  cuts.forEach((start, c) => {
    const end = c + 1 < cuts.length ? cuts[c + 1] : reach.length;
    let left = Infinity, right = -Infinity;
    for (let r = start; r < end; r++) {
      left = Math.min(left, reach[r][0]);
      right = Math.max(right, reach[r][1]);
    }
    sides.push([left, right]);
    width += right - left + BOX.column;
    tallest = Math.max(tallest, end - start);
  });
  return { sides, width, height: tallest * step - BOX.down };
}

/** The number of columns with which all is shown largest in an area of the wanted shape, with a
    preference for those that cut few lines. */
function bestCuts(rows, reach, aspect) {
  const lines = rows.map(arriving);
  let best = null;
  for (let count = 1; count <= Math.min(60, Math.ceil(rows.length / 5)); count++) {
    const cuts = cutsFor(lines, count), { width, height } = extent(reach, cuts);
    const torn = cuts.slice(1).reduce((sum, r) => sum + lines[r] - 1, 0) / cuts.length;
    const size = Math.max(width / aspect, height) * (1 + 0.15 * torn);
    if (!best || size < best.size * 0.98) best = { cuts, size };
  }
  return best.cuts;
}

/** Positions of `count` boxes (top left corners) and the paths of their lines. */
function laidOut(count, lines, inputs, aspect) {
  if (!count) return { x: [], y: [], paths: [] };
  const { own, rows, links } = places(count, lines, layered(count, lines, inputs));
  ordered(rows);
  straightened(rows);
  const step = BOX.height + BOX.down;
  const reach = rows.map((row) => [row[0].x - row[0].width / 2,
    row[row.length - 1].x + row[row.length - 1].width / 2]);
  const cuts = bestCuts(rows, reach, aspect), { sides } = extent(reach, cuts);
  let shift = 0;
  cuts.forEach((start, c) => {
    const [left, right] = sides[c];
    rows.slice(start, c + 1 < cuts.length ? cuts[c + 1] : rows.length).forEach((row, r) =>
      row.forEach((p) => Object.assign(p, { x: p.x - left + shift, y: r * step, column: c })));
    shift += right - left + BOX.column;
  });
  return { x: own.map((p) => p.x - BOX.width / 2), y: own.map((p) => p.y),
    paths: links.map((link) => routed(link, own)) };
}

/** The path of one line, and whether it hops over to another column or over many layers. */
function routed(link, own) {
  const points = [own[link.from], ...link.joints, own[link.to]];
  let d = "", hop = link.hop;
  for (let i = 0; i + 1 < points.length; i++) {
    const a = points[i], b = points[i + 1];
    const y1 = a.y + (a.box < 0 ? BOX.height / 2 : BOX.height);
    const y2 = b.y + (b.box < 0 ? BOX.height / 2 : 0);
    if (a.column !== b.column) {
      hop = true;
      const between = (a.x + b.x) / 2;
      d += `M${round(a.x)} ${round(y1)}C${round(a.x)} ${round(y1 + 46)} ${round(between)} `
        + `${round(y1 + 46)} ${round(between)} ${round((y1 + y2) / 2)}S${round(b.x)} `
        + `${round(y2 - 46)} ${round(b.x)} ${round(y2)}`;
    } else {
      const bend = link.hop ? BOX.width : 0, middle = (y1 + y2) / 2;
      d += `M${round(a.x)} ${round(y1)}C${round(a.x + bend)} `
        + `${round(middle)} ${round(b.x + bend)} ${round(middle)} ${round(b.x)} ${round(y2)}`;
    }
  }
  return { d, hop };
}
const round = (n) => Math.round(n * 10) / 10;
