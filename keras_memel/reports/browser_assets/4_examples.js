// Inputs of a neuron, shaded by what it computes there.
const scaleOf = (o) => o.L.full[o.r] || 1;
const modeOf = (o) => shade
  ?? (S.silent(o) && at(o, "minimum") >= 0 ? "deviation" : "value");

// One signed byte per value: the root of its share of the highest, times 126.
// -128 is not finite, -127 does not count (Infinity from here on).
const decoded = (codes, most) => Float32Array.from(codes, (code) =>
  code === -128 ? NaN : code === -127 ? Infinity
    : Math.sign(code) * (code / 126) ** 2 * most);
const counted = (values) => Array.from(values, (v, k) => [k, v])
  .filter(([, v]) => v !== Infinity);

// Examples of a neuron: [group, what it is, [{input, at, value, values}]], with
// what the neuron computes at each position as `values`, or only at `marks`.
function groupsOf(o) {
  const {L, r} = o;
  if (!L.groups.length) return [["Highest MS", "each input once", marked(o)]];
  const found = L.groups.map((g) => {
    const E = g.input.width, items = [];
    for (let k = r * E; k < (r + 1) * E; k++) if (g.input[k] >= 0)
      items.push({input: g.input[k], at: g.position[k], value: g.value[k],
        values: decoded(g.activation.subarray(k * L.positions,
          (k + 1) * L.positions), L.most[r])});
    return [g.name, g.what, items];
  });
  if (L.sample) {
    const items = sampled(o), peaks = items.map((item) => item.value)
      .filter((v) => !Number.isNaN(v)).sort((a, b) => a - b);
    const middle = peaks[Math.floor((peaks.length - 1) / 2)];
    // Two inputs are random; with few, they can be the median too.
    const others = items.length > 3 ? items.slice(2) : items.slice();
    const near = others.sort((a, b) =>
      Math.abs(a.value - middle) - Math.abs(b.value - middle));
    found.splice(1, 0, ["Median", `of ${many(items.length, "random input")}: `
      + "the peak nearest to the median of their peaks", near.slice(0, 2)],
    ["Random", "the same inputs for every neuron", items.slice(0, 2)]);
  }
  if (!S.silent(o)) return found;
  return [found.at(-1), ...found.slice(0, -1)];  // What it is silent on first
}
function marked({L, r}) {
  const items = new Map(), inputs = row(L.top.input, r);
  inputs.forEach((input, k) => {
    if (input < 0) return;
    const mark = {at: row(L.top.position, r)[k], value: row(L.top.value, r)[k]};
    if (!items.has(input)) items.set(input, {input, ...mark, marks: []});
    items.get(input).marks.push(mark);
  });
  return [...items.values()];
}
function sampled({L, r}) {
  const codes = row(L.sampleActivation, r);
  return L.sample.map((input, k) => ({input, at: row(L.samplePosition, r)[k],
    value: row(L.samplePeak, r)[k], values: decoded(codes.subarray(
      k * L.positions, (k + 1) * L.positions), L.most[r])}));
}

const visible = (text) => text.replace(/\n/g, "↵\n");
const signOf = (o, v, mode) => mode === "value" ? v / scaleOf(o)
  : (v - at(o, "mean")) / S.sd(o) / 4;
const saidOf = (o, v) => Number.isNaN(v) ? ["value NaN: left out"]
  : [`value ${v ? sgn(v) : "0"}, ${sgn((v - at(o, "mean")) / S.sd(o), 2)} σ`,
    `MS ${num(S.ms(o, v), 2)}`];
const shaded = (o, v, mode, name) => {
  const strength = signOf(o, v, mode);
  const a = Math.min(1, Math.abs(strength)) || 0;
  return {cls: `${name} ${Number.isNaN(v) ? "nan" : strength < 0 ? "neg"
    : "pos"}${a > 0.5 ? " strong" : ""}`,
  style: a > 0.03 ? `--a:${a.toFixed(2)}` : undefined};
};

const CONTEXT = 60, LONG = 400;
// A text as its tokens: each shaded, its value on hover and by arrow keys.
function tokens(o, item, mode) {
  const pieces = D.inputs[item.input];
  if (!Array.isArray(pieces))
    return el("div", {cls: "tokens", dir: "auto", text: visible(pieces)});
  const positions = o.L.sizes.length === 1;
  const marks = new Map((item.marks ?? []).map((m) => [m.at, m.value]));
  // Padding on the left: the first token is at the first known position.
  const known = positions && item.values ? [...item.values.keys()]
    .filter((k) => item.values[k] !== Infinity) : [];
  const left = known[0] > 0 && item.values.length !== pieces.length;
  const start = left ? known[0] : 0, fits = !left
    || known.length === pieces.length;
  const valueAt = (k) => !positions || !fits ? undefined
    : !item.values ? marks.get(k)
    : item.values[k + start] === Infinity ? undefined : item.values[k + start];
  const box = el("div", {cls: "tokens", role: "group", tabindex: 0, dir: "auto",
    "aria-label": `${pieces.join("")} Left and right arrow keys: token by `
      + "token."});
  const spans = [];
  const add = (from, to) => {
    for (let k = from; k < to; k++) {
      const v = valueAt(k), known = v !== undefined;
      const looks = known ? shaded(o, v, mode, "t") : {cls: "t"};
      if (positions && fits && k + start === item.at) looks.cls += " peak";
      const span = el("span", {...looks, text: visible(pieces[k])});
      span.lines = [JSON.stringify(pieces[k]).slice(1, -1) || "(part of a "
        + "character)", ...(known ? saidOf(o, v) : []), `position ${k + start}`];
      hover(span, () => span.lines);
      spans.push(span);
      box.append(span);
    }
  };
  const whole = () => { box.replaceChildren(); spans.length = 0;
    add(0, pieces.length); };
  if (pieces.length > LONG) {
    const from = Math.max(0, item.at - CONTEXT);
    const to = Math.min(pieces.length, item.at + CONTEXT + 1);
    if (from) box.append("… ");
    add(from, to);
    if (to < pieces.length) box.append(" …");
    box.append(el("button", {cls: "b small", text: `all ${pieces.length} tokens`,
      onclick: whole}));
  } else whole();
  let place = -1;
  const stop = () => { spans[place]?.classList.remove("focus"); hide(); };
  box.onkeydown = (event) => {
    const to = {ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0,
      End: spans.length - 1}[event.key];
    if (to === undefined || !spans[to]) return;
    event.preventDefault();
    stop();
    place = to;
    spans[place].classList.add("focus");
    const at = spans[place].getBoundingClientRect();
    tipAt(at.left, at.bottom - 8, spans[place].lines);
    say(spans[place].lines.join(", "));
  };
  box.onblur = () => { stop(); place = -1; };
  return box;
}

// The window of the input that a value is computed from, along one axis.
const fieldAt = (field, axis, place) => {
  const start = field.offset[axis] + place * field.stride[axis];
  return [start, start + field.size[axis]];
};

function map(o, item, width, height) {
  const [rows, across] = o.L.sizes, w = width / across, h = height / rows;
  const svg = sv("svg", {width, height, role: "img", class: "map",
    "aria-label": `activation map, ${rows} by ${across}`});
  const gap = Math.min(w, h) > 3 ? 0.5 : 0;
  const known = item.values ? counted(item.values)
    : (item.marks ?? []).map((m) => [m.at, m.value]);
  svg.append(sv("rect", {width, height, fill: "var(--panel)"}));
  for (const [k, v] of known) {
    if (k >= rows * across) break;
    const y = Math.floor(k / across), x = k % across;
    const looks = shaded(o, v, "value", "cell");
    const tile = sv("rect", {x: x * w, y: y * h, width: w - gap,
      height: h - gap, class: looks.cls, style: looks.style});
    hover(tile, () => [`row ${y}, column ${x}`, ...saidOf(o, v)]);
    svg.append(tile);
  }
  svg.append(sv("rect", {x: item.at % across * w, fill: "none", width: w,
    y: Math.floor(item.at / across) * h, height: h, stroke: "var(--ink)",
    "stroke-width": 2}));
  return svg;
}
// Where the field of the value lies; it may stick out over the padding.
function overlay(o, item, low, height, width, unit, pad) {
  const {field, sizes} = o.L;
  const svg = sv("svg", {width: width + 2 * pad, height: height + 2 * pad,
    "aria-hidden": "true"});
  if (!field || sizes.length !== 2) return svg;
  const place = [Math.floor(item.at / sizes[1]), item.at % sizes[1]];
  const [y0, y1] = fieldAt(field, 0, place[0]);
  const [x0, x1] = fieldAt(field, 1, place[1]);
  const box = {x: pad + x0 * unit, y: pad + y0 * unit, fill: "none",
    width: (x1 - x0) * unit, height: (y1 - y0) * unit};
  svg.append(
    sv("rect", {...box, stroke: "#000", "stroke-width": 5}),
    sv("rect", {...box, class: "field", "stroke-width": 2.5,
      stroke: low ? "#66b6f2" : "#ff9a3d",
      "stroke-dasharray": low ? "5 3" : undefined}));
  return svg;
}
function imageTile(o, item, low) {
  const pictures = [D.inputs[item.input]].flat();
  const [rows, across] = D.sizes[item.input];
  const side = 104, unit = side / Math.max(rows, across), pad = 22;
  const width = across * unit, height = rows * unit;
  const fits = o.L.field && o.L.field.input[0] === rows
    && o.L.field.input[1] === across;
  const looks = pictures.map((png, k) => el("div", {cls: "pic"},
    el("img", {src: `data:image/png;base64,${png}`, alt: pictures.length > 1
      ? `input ${item.input}, channel ${k}` : `input ${item.input}`,
    style: `width:${width}px;height:${height}px`}),
    fits ? overlay(o, item, low, height, width, unit, pad) : null,
    pictures.length > 1 ? el("span", {cls: "channel", text: k}) : null));
  const placed = o.L.sizes.length === 2;
  const where = placed ? ` at (${Math.floor(item.at / o.L.sizes[1])}, `
    + `${item.at % o.L.sizes[1]})` : "";
  return el("figure", {cls: "tile"}, el("div", {cls: "pair"}, ...looks,
    placed ? el("div", {cls: "beside"}, map(o, item, width, height)) : null),
  el("figcaption", {cls: "quiet", text: `input ${item.input}: `
    + `${sgn(item.value)}${where}, MS ${num(S.ms(o, item.value), 2)}`}));
}

// ---- series
const DASH = [null, "6 3", "2 2", "8 3 2 3"];
const TONE = ["var(--neg)", "var(--pos)", "var(--ink)", "var(--mark)",
  "var(--quiet)"];
const letter = (k) => D.channels > 1 ? String(k) : "";
function seriesPlot(o, item, low, width) {
  const values = arr(D.inputs[item.input]), n = D.inputs[item.input].n[0];
  const channels = Array.from({length: D.channels}, (_, c) =>
    Array.from({length: n}, (_, t) => values[t * D.channels + c]));
  const left = 44, right = 22, H = 96, w = width - left - right;
  const x = (t) => left + (n > 1 ? t / (n - 1) : 0.5) * w;
  let [from, to] = D.range;
  if (from === to) [from, to] = [from - 1, to + 1];
  const y = (v) => 6 + (to - v) / (to - from) * H;
  const clamp = (t) => Math.max(0, Math.min(n - 1, t));
  const placed = o.L.sizes.length === 1, {field} = o.L;
  const fits = placed && field && field.input[0] === n;
  const svg = sv("svg", {width, height: H + (placed ? 64 : 46), role: "img",
    "aria-label": `input ${item.input}: activation ${fmt(item.value)}`});
  if (fits) {
    const [a, b] = fieldAt(field, 0, item.at);
    svg.append(sv("rect", {x: x(clamp(a)), y: 4, height: H + 4, class: "field",
      width: Math.max(2, x(clamp(b - 1)) - x(clamp(a))),
      fill: low ? "var(--negfill)" : "var(--posfill)", "fill-opacity": 0.3,
      stroke: low ? "var(--neg)" : "var(--pos)", "stroke-width": 1.5,
      "stroke-dasharray": low ? "5 3" : undefined}));
  }
  for (const v of ticks(from, to, 4)) svg.append(
    sv("line", {x1: left, x2: left + w, y1: y(v), y2: y(v), class: "grid"}),
    sv("text", {x: left - 6, y: y(v) + 4, "text-anchor": "end", class: "q",
      text: num(v)}));
  const ends = channels.map((c, k) => [k, y(c.at(-1))])
    .sort((a, b) => a[1] - b[1]);
  ends.forEach((end, k) => {
    if (k) end[1] = Math.max(end[1], ends[k - 1][1] + 13);
  });
  channels.forEach((c, k) => svg.append(sv("path", {fill: "none",
    d: path(c.map((v, t) => [x(t), y(v)]).filter(([, v]) => !Number.isNaN(v))),
    stroke: TONE[k % TONE.length], "stroke-width": 1.7,
    "stroke-dasharray": DASH[k % DASH.length]})));
  for (const [k, v] of ends) svg.append(sv("text", {x: left + w + 6, y: v + 4,
    style: `fill:${TONE[k % TONE.length]};font-weight:700`, text: letter(k)}));
  if (placed) {
    const P = o.L.sizes[0], each = w / P;
    const known = item.values ? counted(item.values)
      : (item.marks ?? []).map((m) => [m.at, m.value]);
    for (const [p, v] of known) {
      const middle = fits ? (fieldAt(field, 0, p)[0] + fieldAt(field, 0, p)[1]
        - 1) / 2 : null;
      const half = fits ? field.stride[0] / 2 : 0;
      const a = fits ? x(clamp(middle - half)) : left + p * each;
      const b = fits ? x(clamp(middle + half)) : left + (p + 1) * each;
      const looks = shaded(o, v, "value", "cell");
      const tile = sv("rect", {x: a, y: H + 14, width: Math.max(1, b - a - 0.5),
        height: 14, class: looks.cls, style: looks.style,
        stroke: p === item.at ? "var(--ink)" : undefined});
      hover(tile, () => [`position ${p}`, ...saidOf(o, v)]);
      svg.append(tile);
    }
  }
  const base = H + (placed ? 44 : 26);
  for (const t of ticks(0, n - 1, 5).filter((v) => Number.isInteger(v)))
    svg.append(sv("text", {x: x(t), y: base, "text-anchor": "middle",
      class: "q", text: String(t)}));
  svg.append(sv("text", {x: left + w / 2, y: base + 16,
    "text-anchor": "middle", class: "q",
    text: placed ? "step" : "position in the input"}));
  return svg;
}
