// Charts, drawn as SVG whose colors are variables: a change of theme needs no
// new drawing.
const ticks = (a, b, n = 5) => {
  if (!(b > a)) return [a];
  const raw = (b - a) / n, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw);
  const out = [];
  for (let x = Math.ceil(a / step) * step; x <= b + step / 1e6; x += step)
    out.push(Math.abs(x) < step / 1e6 ? 0 : x);
  return out;
};
const shortened = (text, most) => {
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…`
    : text;
};

// Where the bins of a neuron begin and end, and how many hold values.
const span = ({L, r}) =>
  [L.start[r], L.start[r] + L.used[r] * L.width[r], L.used[r]];

// The distribution in a row of the table: one path for each sign.
function spark(o) {
  const w = 70, h = 22, {L, r} = o;
  const out = sv("svg", {width: w, height: h, class: "spark",
    "aria-hidden": "true"});
  if (S.dead(o) || at(o, "count") === 0) {
    out.append(sv("text", {x: 0, y: 15, class: "q",
      text: S.dead(o) ? `always ${num(at(o, "minimum"))}` : "no values"}));
    return out;
  }
  const [low, high, n] = span(o);
  const counts = row(L.all, r).subarray(0, n), step = w / n;
  const zero = (0 - low) / (high - low) * w, most = Math.max(1, ...counts);
  const d = {neg: "", pos: ""};
  counts.forEach((count, b) => {
    if (!count) return;
    const y = Math.max(1.5, Math.sqrt(count / most) * (h - 2));
    d[(b + 0.5) * step < zero ? "neg" : "pos"] +=
      `M${(b * step).toFixed(1)},${h}v-${y.toFixed(1)}h${(step - 0.3).toFixed(1)}v${y.toFixed(1)}z`;
  });
  for (const [sign, path] of Object.entries(d))
    if (path) out.append(sv("path", {d: path, fill: `var(--${sign})`}));
  out.append(sv("line", {x1: 0, x2: w, y1: h, y2: h, stroke: "var(--line)"}));
  if (zero >= 0 && zero <= w) out.append(sv("line",
    {x1: zero, x2: zero, y1: 0, y2: h, stroke: "var(--edge)"}));
  return out;
}

// Counts of a neuron in other bins, by the share of each that overlaps.
function rebinned(counts, low, high, from, to) {
  if (low === from && high === to) return counts;
  // Two neurons on one axis: as many bins for both.
  const n = counts.length, out = new Float64Array(D.layers[0].bins);
  const width = (high - low) / n, wider = (to - from) / out.length;
  counts.forEach((count, b) => {
    if (!count) return;
    const start = (low + b * width - from) / wider;
    const stop = start + width / wider;
    for (let k = Math.max(0, Math.floor(start)); k < Math.min(out.length, stop); k++)
      out[k] += count * (Math.min(stop, k + 1) - Math.max(start, k))
        / (stop - start);
  });
  return out;
}

// A row for each label: its values that are not 0, and how many are.
function densityRows(o, low, high) {
  const {L, r} = o, bins = L.bins;
  const [first, last, n] = span(o);
  const over = (counts) =>
    rebinned(counts.subarray(0, n), first, last, low, high);
  if (!L.shown) return [{label: -1, name: "all values",
    bins: over(row(L.all, r)), count: L.binned[r], zero: S.zeros(o),
    mean: at(o, "mean"), ms: NaN}];
  const shownLabels = row(L.shown, r), hist = row(L.hist, r);
  const found = Array.from(shownLabels, (label, k) => {
    const own = hist.subarray(k * bins, (k + 1) * bins);
    const zeros = L.labelZeros ? row(L.labelZeros, r)[k] : 0;
    const ranked = own.reduce((a, b) => a + b, 0) + zeros;
    return {label, name: o.side.labels[label], bins: over(own),
      count: row(L.labelCount, r)[k], zero: L.labelZeros ? zeros / ranked : NaN,
      mean: row(L.labelMean, r)[k], ms: row(L.labelMs, r)[k]};
  }).filter((one) => one.count > 0);
  found.sort((a, b) => (b.label === S.label(o)) - (a.label === S.label(o))
    || b.ms - a.ms);
  if (L.rest) {
    const own = row(L.rest, r);
    const zeros = L.restZeros[r];
    const ranked = own.reduce((a, b) => a + b, 0) + zeros;
    if (ranked) found.push({label: -1, name: "unlabelled", bins: over(own),
      count: L.restCount[r], zero: zeros / ranked,
      mean: L.restMean[r], ms: L.restMs[r]});
  }
  return found;
}

const MOST_ROWS = 12;
function density(o, width, all = false, domain = null) {
  const [low, high] = domain ?? span(o);
  let rows = densityRows(o, low, high);
  const total = rows.length;
  if (!all && rows.length > MOST_ROWS + 1) {
    const last = rows.at(-1).label < 0 ? [rows.at(-1)] : [];
    rows = [...rows.slice(0, MOST_ROWS), ...last];
  }
  const small = width < 440, left = small ? 82 : 110, right = small ? 112 : 150;
  const rh = rows.length === 1 ? 90 : 25, top = 34;
  const w = width - left - right, H = top + rows.length * rh;
  const x = (v) => left + (v - low) / (high - low) * w;
  const known = Boolean(o.L.labelZeros ?? o.L.zeros);
  const svg = sv("svg", {width, height: H + 36, role: "img",
    "aria-label": `Values by label. ${rows.map((one) => `${one.name}: mean `
      + `${fmt(one.mean)}, ${pct(one.zero)} at 0, mean MS ${fmt(one.ms)}`)
      .join("; ")}`});
  const zx = width - right + 12, mx = width - right + (small ? 58 : 74);
  const most = Math.max(...rows.map((one) => one.ms || 0)) || 1;
  const mw = small ? 20 : 32;
  if (known) svg.append(sv("text", {x: zx, y: 14, class: "q", text: "at 0"}));
  if (rows.some((one) => !Number.isNaN(one.ms))) svg.append(sv("text",
    {x: mx, y: 14, class: "q", text: small ? "MS" : "mean MS"}));
  for (const t of ticks(low, high, small ? 3 : 6)) svg.append(
    sv("line", {x1: x(t), x2: x(t), y1: top, y2: H, class: "grid"}),
    sv("text", {x: x(t), y: H + 15, "text-anchor": "middle", class: "q",
      text: num(t)}));
  const mean = at(o, "mean"), sd = S.sd(o), used = [];
  for (const [text, v, dash] of [["mean", mean, null],
    ["−3 σ", mean - 3 * sd, "3 3"], ["+3 σ", mean + 3 * sd, "3 3"]]) {
    if (!(v >= low && v <= high)) continue;
    svg.append(sv("line", {x1: x(v), x2: x(v), y1: 20, y2: H,
      stroke: "var(--edge)", "stroke-dasharray": dash}));
    if (x(v) < left + w - 12
      && used.every((other) => Math.abs(other - x(v)) > 36)) {
      used.push(x(v));
      svg.append(sv("text", {x: x(v), y: 14, "text-anchor": "middle",
        class: "q", text}));
    }
  }
  rows.forEach((one, k) => {
    const y = top + (k + 1) * rh, step = w / one.bins.length;
    const own = one.label === S.label(o) && one.label >= 0 && !S.weak(o);
    const color = !own ? "var(--mute)"
      : S.direction(o) > 0 ? "var(--pos)" : "var(--neg)";
    const peak = Math.max(...one.bins);
    const bold = own ? "font-weight:700" : undefined;
    const title = sv("text", {x: left - 8, y: y - 6, "text-anchor": "end",
      style: bold, class: one.label < 0 ? "q" : undefined,
      text: shortened(one.name, small ? 11 : 15)});
    title.append(sv("title", {text: one.name}));
    svg.append(title,
      sv("line", {x1: left, x2: left + w, y1: y, y2: y, class: "grid"}));
    let d = `M${left},${y}`;
    one.bins.forEach((count, b) => {
      const up = (y - (peak ? count / peak : 0) * (rh - 5)).toFixed(1);
      d += `L${(left + b * step).toFixed(1)},${up}`
        + `L${(left + (b + 1) * step).toFixed(1)},${up}`;
    });
    svg.append(peak ? sv("path", {d: `${d}L${left + w},${y}Z`, fill: color,
      "fill-opacity": own ? 0.85 : 0.4, stroke: color, class: "bars"})
      : sv("text", {x: left + w / 2, y: y - 7, "text-anchor": "middle",
        class: "q", text: "only zeros"}));
    if (Number.isFinite(one.mean)) svg.append(sv("path",
      {d: `M${x(one.mean)},${y}l-4,5h8z`, fill: "var(--ink)"}));
    if (known) svg.append(sv("text", {x: zx, y: y - 6, style: bold,
      class: one.zero > 0 ? undefined : "q",
      text: small && one.zero > 0.01 ? `${Math.round(100 * one.zero)} %`
        : pct(one.zero)}));
    if (!Number.isNaN(one.ms)) svg.append(
      sv("rect", {x: mx, y: y - 15, height: 9, rx: 1, fill: color,
        width: Math.max(1, one.ms / most * mw)}),
      sv("text", {x: mx + one.ms / most * mw + 4, y: y - 6,
        text: num(one.ms, 2)}));
    const hit = sv("rect", {x: left, y: y - rh, width: w, height: rh,
      fill: "transparent"});
    hover(hit, (event) => {
      const px = event.clientX - svg.getBoundingClientRect().left - left;
      const b = Math.min(one.bins.length - 1, Math.max(0, Math.floor(px / step)));
      const from = low + b * (high - low) / one.bins.length;
      return [one.name, `${num(from)} to `
        + `${num(from + (high - low) / one.bins.length)}: `
        + many(Math.round(one.bins[b]), "value"),
      `${one.count.toLocaleString("en")} in all, mean ${num(one.mean)}`,
      known ? `at 0: ${pct(one.zero)}` : ""];
    });
    svg.append(hit);
  });
  svg.append(sv("text", {x: left + w / 2, y: H + 31, "text-anchor": "middle",
    class: "q", text: labelled ? "activation (▲ mean of the label)"
      : "activation (▲ mean)"}));
  svg.left = total - rows.length;
  return svg;
}

// ---- two curves
// Abramowitz and Stegun 7.1.26: within 1.5e-7.
const erfc = (x) => {
  const t = 1 / (1 + 0.3275911 * x);
  return t * (0.254829592 + t * (-0.284496736 + t * (1.421413741
    + t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-x * x);
};
function frame(width, height, x, y, across, up, said, xTitle, yTitle) {
  const base = height - 38;
  const svg = sv("svg", {width, height, role: "img", "aria-label": said});
  for (const [v, text] of up) svg.append(
    sv("line", {x1: 44, x2: width - 8, y1: y(v), y2: y(v), class: "grid"}),
    sv("text", {x: 38, y: y(v) + 4, "text-anchor": "end", class: "q", text}));
  for (const [v, text] of across) svg.append(
    sv("line", {x1: x(v), x2: x(v), y1: base, y2: base + 4, class: "axis"}),
    sv("text", {x: x(v), y: height - 20, "text-anchor": "middle", class: "q",
      text}));
  svg.append(
    sv("line", {x1: 44, x2: width - 8, y1: base, y2: base, class: "axis"}),
    sv("text", {x: (44 + width) / 2, y: height - 3, "text-anchor": "middle",
      class: "q", text: xTitle}),
    sv("text", {x: 0, y: 11, class: "q", text: yTitle}));
  return svg;
}
const path = (points) => points.map(([x, y], k) =>
  `${k ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
function msChart(o, width) {
  const height = 178, most = at(o, "ms_max"), values = row(o.L.msCurve, o.r);
  const shares = row(o.L.msShare, o.r);
  const points = Array.from(values, (v, k) => [v, shares[k]])
    .filter(([v]) => Number.isFinite(v));
  const right = Math.max(30, most * 1.1);
  const low = Math.min(points[0]?.[1] ?? 0.005, 0.005);
  const x = (v) => 44 + Math.log(Math.max(v, 0.1) / 0.1)
    / Math.log(right / 0.1) * (width - 56);
  const y = (p) => 20 + Math.log(Math.max(p, low)) / Math.log(low)
    * (height - 58);
  const powers = [0.1, 1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];
  const svg = frame(width, height, x, y,
    powers.filter((v) => v < right).map((v) => [v, num(v)]),
    [1, 0.1, 0.01, 0.001, 1e-4, 1e-5].filter((p) => p >= low)
      .map((p) => [p, p < 1e-3 ? num(p) : pct(p)]),
    "Share of the values with an MS of at least x; 99 % quantile "
    + `${fmt(at(o, "ms_99"))}, highest ${fmt(most)}`,
    "MS, variances", "share of values with MS ≥ x");
  const gaussian = [];
  for (let v = 0.1; v < right; v *= 1.15) {
    const p = erfc(Math.sqrt(v / 2));
    if (p < low) break;
    gaussian.push([x(v), y(p)]);
  }
  svg.append(
    sv("path", {d: path(gaussian), fill: "none", stroke: "var(--edge)",
      "stroke-dasharray": "5 4"}),
    sv("text", {x: x(1.5), y: y(0.3), class: "q", text: "Gaussian"}),
    sv("path", {d: path(points.map(([v, p]) => [x(v), y(p)])), fill: "none",
      stroke: "var(--neg)", "stroke-width": 2}),
    sv("line", {x1: x(9), x2: x(9), y1: 20, y2: height - 38,
      stroke: "var(--mark)", "stroke-dasharray": "2 3"}),
    sv("text", {x: x(9) + 4, y: 32, style: "fill:var(--mark)", text: "3 σ"}));
  for (const [v, p] of points) {
    const point = sv("circle", {cx: x(v), cy: y(p), r: 5, fill: "transparent"});
    hover(point, () => [`MS ≥ ${num(v)}`, `${pct(p)} of the values`]);
    svg.append(point);
  }
  return svg;
}
function fkrChart(o, width) {
  const height = 178, found = Array.from(row(o.L.fkr, o.r));
  const x = (v) => 44 + Math.log(v / 0.001) / Math.log(500) * (width - 66);
  const y = (v) => 20 + (1 - v) * (height - 58);
  const blind = 1 - S.share(o);
  const svg = frame(width, height, x, y,
    [0.001, 0.01, 0.1, 0.5].map((v) => [v, `${100 * v} %`]),
    [0, 0.5, 1].map((v) => [v, pct(v)]),
    `False Killing Rate by rate: ${RATES.map((v, k) =>
      `${pct(v)}: ${pct(found[k])}`).join(", ")}; a blind choice ${pct(blind)}`,
    "share of values inhibited", "False Killing Rate");
  // On that side of its line where the curve is not.
  const below = blind > 0.95
    || found.slice(0, 5).filter((v) => v > blind).length > 2;
  if (!Number.isNaN(blind)) svg.append(
    sv("line", {x1: 44, x2: width - 8, y1: y(blind), y2: y(blind),
      stroke: "var(--edge)", "stroke-dasharray": "5 4"}),
    sv("text", {x: 48, y: y(blind) + (below ? 21 : -9), class: "q",
      text: `- - blind choice ${pct(blind)}`}));
  svg.append(sv("path", {fill: "none", stroke: "var(--neg)", "stroke-width": 2,
    d: path(found.map((v, k) => [x(RATES[k]), y(v)])
      .filter(([, v]) => !Number.isNaN(v)))}));
  found.forEach((v, k) => {
    if (Number.isNaN(v)) return;
    const on = k === rate, place = {cx: x(RATES[k]), cy: y(v)};
    const hit = sv("circle", {...place, r: 13, fill: "transparent",
      style: "cursor:pointer", onclick: () => setRate(k)});
    hover(hit, () => [`FKR ${pct(v)}`,
      `${pct(RATES[k])} of the values inhibited`]);
    svg.append(sv("circle", {...place, r: on ? 6 : 3.5, stroke: "var(--bg)",
      fill: on ? "var(--pos)" : "var(--neg)"}), hit);
  });
  return svg;
}
function setRate(k) {
  rate = k;
  list();
  draw();
  say(`FKR at ${pct(RATES[k])}`);
}
