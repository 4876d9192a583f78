// Small helpers, the payload, and the neurons as objects.
const $ = (id) => document.getElementById(id);

const fill = (node, props) => {
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node[key] = value;
    else if (key === "text") node.textContent = value;
    else if (key === "style") node.style.cssText = value;
    else if (key === "cls") node.setAttribute("class", value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  return node;
};
const el = (tag, props = {}, ...kids) => {
  const node = fill(document.createElement(tag), props);
  node.append(...kids.filter((kid) => kid !== null && kid !== undefined));
  return node;
};
const sv = (tag, props = {}, ...kids) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(node, props).append(...kids);
  return node;
};

// ---- numbers as text
const fmt = (v, digits = 3) => {
  if (v === null || v === undefined || Number.isNaN(v)) return "NaN";
  if (!Number.isFinite(v)) return v > 0 ? "∞" : "-∞";
  if (v === 0) return "0";
  const size = Math.abs(v);
  return size >= 1e5 || size < 1e-3
    ? v.toExponential(1).replace("e-", "e−").replace("e+", "e")
    : String(Number(v.toPrecision(digits)));
};
const num = (v, digits) => fmt(v, digits).replace(/^-/, "−");
const sgn = (v, digits) => (v > 0 ? "+" : "") + num(v, digits);
const pct = (v) => {
  if (v === null || v === undefined || Number.isNaN(v)) return "NaN";
  if (v === 0) return "0 %";
  if (v < 0.001) return "< 0.1 %";
  // 99.96 % stays below 100 %.
  return `${Number((100 * v).toPrecision(v > 0.99 ? 4 : 2))} %`;
};
const two = (v) => {
  if (v === null || Number.isNaN(v)) return "NaN";
  return v < 1 && v >= 0.995 ? (Math.floor(v * 1e3) / 1e3).toFixed(3)
    : v.toFixed(2);
};
const many = (n, one, more = `${one}s`) =>
  `${n.toLocaleString("en")} ${n === 1 ? one : more}`;

const say = (text) => {
  $("status").textContent = "";
  setTimeout(() => { $("status").textContent = text; }, 30);
};
const store = {
  get: (key) => {
    try { return localStorage.getItem(key); } catch { return null; }
  },
  set: (key, value) => {
    try { localStorage.setItem(key, value); } catch { /* private window */ }
  },
};

// ---- the payload: JSON, and a blob of arrays that it refers to
const unpack = (id) => {
  const text = atob($(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  $(id).remove();
  return new Response(new Blob([packed]).stream()
    .pipeThrough(new DecompressionStream("gzip")));
};
const D = await unpack("data").json();
const BLOB = await unpack("blob").arrayBuffer();
const ARRAYS = {i1: Int8Array, u1: Uint8Array, u2: Uint16Array, i4: Int32Array,
  u4: Uint32Array, f4: Float32Array, f8: Float64Array};
// An array knows how many numbers belong to one neuron.
const arr = (ref) => {
  if (!ref) return null;
  const size = ref.n.reduce((a, b) => a * b, 1);
  const found = new ARRAYS[ref.t](BLOB, ref.a, size);
  found.width = ref.n[0] ? size / ref.n[0] : 0;
  return found;
};
const row = (array, r) => array.subarray(r * array.width, (r + 1) * array.width);
const opened = (layers) => layers.map((layer) => Object.fromEntries(
  Object.entries(layer).map(([key, value]) => [key,
    value && value.a !== undefined ? arr(value)
    : key === "top" ? {input: arr(value.input), value: arr(value.value),
      position: arr(value.position)}
    : key === "groups" ? value.map((g) => ({...g, input: arr(g.input),
      value: arr(g.value), position: arr(g.position),
      activation: arr(g.activation)}))
    : value])));

const SIDES = [D, D.other].filter(Boolean).map((side) => ({
  ...side, layers: opened(side.layers),
  columns: Object.fromEntries(Object.entries(side.columns).map(
    ([key, c]) => [key, c.texts ? {texts: c.texts, codes: arr(c.codes)}
      : arr(c)])),
}));
const A = SIDES[0], B = SIDES[1] ?? null;
const C = A.columns;  // As in the DataFrame, each over all neurons
const LABELS = D.labels, RATES = D.rates;
const isText = D.kind === "text";
const ask = new URLSearchParams(location.search);

// ---- neurons
const WEAK = 0.6;
const neuronsOf = (side) => side.layers.flatMap((L) => Array.from(
  {length: L.size}, (_, r) => {
    const place = L.names ? L.names[r] : r;
    return {side, L, r, i: L.first + r, layer: L.path, neuron: place,
      name: `${L.path}:${place}`};
  }));
const N = neuronsOf(A);
const byLink = new Map(N.map((o) => [`${o.layer}/${o.neuron}`, o.i]));
const NB = B ? neuronsOf(B) : [];
const otherOf = (() => {
  const found = new Map(NB.map((o) => [`${o.layer}/${o.neuron}`, o]));
  return (o) => found.get(`${o.layer}/${o.neuron}`) ?? null;
})();

// What is said of one neuron: read from the columns when it is asked for.
const at = (o, name) => {
  const column = o.side.columns[name];
  return column === undefined ? NaN : column[o.i];
};
let rate = Math.max(0, RATES.indexOf(0.02));
const S = {
  label: (o) => o.L.label ? o.L.label[o.r] : -1,
  labelName: (o) => S.label(o) < 0 ? "" : o.side.labels[S.label(o)],
  direction: (o) => at(o, "direction"),
  auc: (o) => at(o, "roc_auc"),
  fkr: (o, k = rate) => o.L.fkr ? row(o.L.fkr, o.r)[k] : NaN,
  share: (o) => o.L.share ? o.L.share[o.r] : NaN,
  sd: (o) => Math.sqrt(at(o, "variance")),
  zeros: (o) => o.L.zeros ? o.L.zeros[o.r] / o.L.binned[o.r] : NaN,
  weak: (o) => S.label(o) < 0 || !(S.auc(o) >= WEAK),
  ms: (o, v) => (v - at(o, "mean")) ** 2 / o.L.scale[o.r],
  dead: (o) => at(o, "dead") > 0,
  // A silent neuron that is never below 0: the absence is what is to be seen.
  silent: (o) => S.direction(o) < 0 && !S.weak(o),
};
const flags = (o) => [
  S.dead(o) && "dead",
  at(o, "count") === 0 && (at(o, "nonfinite") > 0 ? "all NaN" : "no values"),
  !S.dead(o) && at(o, "rare") > 0 && "rare",
  !S.dead(o) && at(o, "dormant") > 0 && "dormant",
  at(o, "count") > 0 && at(o, "nonfinite") > 0 && "NaN",
].filter(Boolean);
const link = (o) => `#${o.layer}/${o.neuron}`;

// ---- the view
let view = "neurons", chosen = -1, order = [], shade = null;
const wide = () => $("pane").clientWidth - (innerWidth <= 760 ? 24 : 36);
const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // A page that was opened from a file may not
    const area = el("textarea", {cls: "sr"});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};
const flash = (button, text) => {
  const before = button.textContent;
  button.textContent = text;
  say(text);
  setTimeout(() => { button.textContent = before; }, 1600);
};

// ---- what is said on hover
const hide = () => { $("tip").hidden = true; };
const tipAt = (x, y, lines) => {
  const tip = $("tip");
  tip.replaceChildren(...lines.filter(Boolean).map((line, k) =>
    el("div", {}, k ? line : el("b", {text: line}))));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const below = y + 18 + box.height <= innerHeight;
  tip.style.left =
    `${Math.max(6, Math.min(x + 12, innerWidth - box.width - 6))}px`;
  tip.style.top = `${below ? y + 16 : Math.max(2, y - box.height - 12)}px`;
};
const hover = (node, lines) => {
  node.addEventListener("pointermove",
    (event) => tipAt(event.clientX, event.clientY, lines(event)));
  node.addEventListener("pointerleave", hide);
};
