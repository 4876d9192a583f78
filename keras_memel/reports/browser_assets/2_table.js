// The table: columns, search, rows, help, CSV.
const HELP = {
  layer: "Path of the layer, as in find(model).",
  neuron: "The neuron within its layer: the same as in to_dataframe(), in the "
    + "plots and in the link.",
  label: "The label with the highest mean MS on the half of the inputs that "
    + "chooses. ▲: the mean activation on it is above the mean of all (fires). "
    + "▼: below (silent). In brackets if ROC-AUC is below 0.6: then the neuron "
    + "does not detect the label.",
  roc_auc: "How well MS separates the values of the label from all other "
    + "labelled values, on the half of the inputs that did not choose the "
    + "label. 0.5 is chance, 1 is perfect. The bar starts at 0.5.",
  f1: "Scored F1 of one threshold on the activation, for the label that it "
    + "detects best. The tick is the F1 of “always yes”, 2p / (1 + p), where p "
    + "is the share of the label.",
  ms_99: "99 % quantile of the Monosemantic Scale (MS): squared distance from "
    + "the neuron's mean, in variances. 6.63 for a Gaussian. High: a few values "
    + "stand out.",
  false_killing_rate: "False Killing Rate (FKR): of the values that would be "
    + "inhibited at this rate, the share that does not have the label. Choose "
    + "the rate in the chart of the neuron.",
  flags: "dead: all values are equal. rare: under 1 % of the values leave the "
    + "median by more than a tenth of the largest step. dormant: the mean "
    + "absolute value is at most 2.5 % of the layer's. NaN: some values were "
    + "not finite and are left out of every figure.",
  density: "Distribution of the values that are not exactly 0, in bins from "
    + "lowest to highest; the height is the square root of the count. The line is 0.",
};
const labelled = LABELS.length > 0;
const COLUMNS = [
  {key: "layer", head: "layer", unit: "path", get: (o) => A.layers.indexOf(o.L)},
  {key: "neuron", head: "neuron", unit: "index", n: 1, get: (o) => o.r},
  ...(labelled ? [
    {key: "label", head: "label", unit: "▲ fires ▼ silent",
      get: (o) => S.label(o) < 0 ? NaN : S.label(o)},
    {key: "roc_auc", head: "ROC-AUC", unit: "chance 0.5", n: 1, bar: 1,
      get: S.auc},
    {key: "f1", head: "F1", unit: "tick: chance", n: 1, bar: 1,
      get: (o) => at(o, "f1")}] : []),
  {key: "ms_99", head: "MS 99 %", unit: "variances", n: 1,
    get: (o) => S.dead(o) ? NaN : at(o, "ms_99")},
  ...(labelled ? [{key: "false_killing_rate", head: "FKR", unit: "", n: 1,
    get: (o) => S.fkr(o)}] : []),
  {key: "flags", head: "flags", unit: "what?",
    get: (o) => flags(o).length ? flags(o).length : NaN},
  {key: "density", head: "density", unit: "without 0"},
];
const difference = (o, name) => {
  const other = otherOf(o);
  return other ? at(other, name) - at(o, name) : NaN;
};
const ratio = (o) => {
  const other = otherOf(o);
  return other && at(o, "ms_99") > 0 ? at(other, "ms_99") / at(o, "ms_99") : NaN;
};
const PAIRS = [COLUMNS[0], COLUMNS[1],
  ...(labelled ? [
    {key: "label_a", head: "label A", unit: "▲▼", get: COLUMNS[2].get,
      help: "Label of the neuron in report A."},
    {key: "label_b", head: "label B", unit: "▲▼", get: (o) => {
      const other = otherOf(o);
      return other && S.label(other) >= 0 ? S.label(other) : NaN;
    }, help: "Label in report B; “other” where it differs from A."},
    {key: "roc_auc_change", head: "ROC-AUC", unit: "○ A  ● B", n: 1,
      get: (o) => difference(o, "roc_auc"),
      help: "Hollow: A. Full: B. The number is B minus A."}] : []),
  {key: "ms_99_ratio", head: "MS 99 %", unit: "B : A", n: 1, get: ratio,
    help: "99 % quantile of MS in B, divided by that in A. Below 1: values "
      + "stand out less in B."}];
const columns = () => view === "compare" ? PAIRS : COLUMNS;
let sortKey = labelled ? "roc_auc" : "ms_99", down = true, shown = 0;

// ---- search: nothing that is typed is ever evaluated as code
const FIELDS = {};
for (const [key, column] of Object.entries(C))
  if (!Array.isArray(column) && !column.texts) FIELDS[key] = (o) => C[key][o.i];
if (labelled) FIELDS.fkr = FIELDS.false_killing_rate = (o) => S.fkr(o);
if (FIELDS.f1_baseline) FIELDS.f1_chance = FIELDS.f1_baseline;
FIELDS.zeros = S.zeros;
FIELDS.neuron = (o) => typeof o.neuron === "number" ? o.neuron : NaN;
const TESTS = {"<": (a, b) => a < b, ">": (a, b) => a > b,
  "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "==": (a, b) => a === b, "!=": (a, b) => a !== b};
const COMPARISON =
  /([A-Za-z_]\w*)\s*(<=|>=|!=|==|<|>|=)\s*(-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(%)?/gi;
const words = [];
const wordsOf = (o) => words[o.i] ??= [o.layer, o.neuron, S.labelName(o),
  ...flags(o), S.weak(o) ? "" : S.direction(o) > 0 ? "fires" : "silent"]
  .join(" ").toLowerCase();

function parse(text) {
  const found = [];
  text = text.replace(COMPARISON, (all, name, sign, value, percent) => {
    const get = FIELDS[name.toLowerCase()];
    const limit = Number(value) / (percent ? 100 : 1);
    found.push(get ? {text: all.trim(), keep: (o) => {
      const own = get(o);
      return !Number.isNaN(own) && TESTS[sign](own, limit);
    }} : {text: all.trim(),
      bad: `no column “${name}”; there are ${Object.keys(FIELDS).join(", ")}`});
    return " ";
  });
  for (const word of text.match(/-?(?:label:)?"[^"]*"|\S+/g) ?? []) {
    const not = word.startsWith("-") && word.length > 1;
    const plain = (not ? word.slice(1) : word).replaceAll('"', "").toLowerCase();
    const jump = plain.match(/^(.*):(\d+(?:,\d+)*)$/);
    const label = plain.match(/^label:(.+)$/);
    let keep = (o) => wordsOf(o).includes(plain);
    if (!word.includes('"') && /[<>=]/.test(plain)) {
      found.push({text: word,
        bad: "write column, sign, number: roc_auc > 0.9"});
      continue;
    }
    if (jump && !(label && LABELS.some((l) => l.toLowerCase() === label[1])))
      keep = (o) => String(o.neuron) === jump[2]
        && (["", "layer"].includes(jump[1])
          || o.layer.toLowerCase().includes(jump[1]));
    else if (label) keep = (o) => S.labelName(o).toLowerCase() === label[1];
    found.push({text: word, keep: not ? (o) => !keep(o) : keep});
  }
  return found;
}

// Names in the order of the alphabet, numbers within them by size.
const collator = new Intl.Collator(undefined, {numeric: true});
const ranksOf = (names) => {
  const sorted = names.map((_, k) => k)
    .sort((a, b) => collator.compare(names[a], names[b]));
  const found = [];
  sorted.forEach((k, rank) => { found[k] = rank; });
  return found;
};
const ranks = {layer: ranksOf(A.layers.map((L) => L.path)),
  label: ranksOf(LABELS), label_a: ranksOf(LABELS),
  label_b: ranksOf(B ? B.labels : [])};

function list() {
  const terms = parse($("search").value);
  const good = terms.filter((term) => term.keep);
  const column = columns().find((c) => c.key === sortKey) ?? columns().at(-1);
  const own = ranks[column.key];
  const values = Float64Array.from(N, (o) => {
    const value = column.get(o);
    return own && !Number.isNaN(value) ? own[value] : value;
  });
  order = [];
  for (const o of N) if (good.every((term) => term.keep(o))) order.push(o.i);
  const sign = down ? -1 : 1;
  order.sort((a, b) => {
    const x = values[a], y = values[b];
    const no = Number.isNaN(x) - Number.isNaN(y);
    return no || (Number.isNaN(x) ? 0 : sign * (x - y)) || a - b;
  });
  $("chips").replaceChildren(
    el("span", {id: "found", text: `${order.length.toLocaleString("en")} of `
      + many(N.length, "neuron")}),
    ...terms.map((term) => term.bad
      ? el("span", {cls: "chip bad", role: "alert",
        text: `⚠ ${term.text}: ${term.bad}`})
      : el("button", {cls: "chip", text: `${term.text} ✕`,
        "aria-label": `remove ${term.text}`, onclick: () => {
          $("search").value = $("search").value.replace(term.text, "")
            .replace(/\s+/g, " ").trim();
          list();
          $("search").focus();
        }})),
    ...(terms.length ? [] : examplesOf().map((text, k) => el("button", {
      cls: "chip", text: (k ? "" : "try ") + text,
      onclick: () => { $("search").value = text; list(); }}))));
  head();
  $("rows").replaceChildren(...(order.length ? [] : [el("tr", {}, el("td",
    {colspan: 9}, el("div", {cls: "empty"}, "No neuron matches. ",
      el("button", {cls: "b", text: "Clear the search", onclick: () => {
        $("search").value = "";
        list();
      }}))))]));
  shown = 0;
  $("scroll").scrollTop = 0;
  more();
}
const examplesOf = () => [...(labelled ? ["roc_auc > 0.9", "silent"]
  : ["ms_99 > 9"]), "dead", `layer:${N.length ? N.at(-1).neuron : 0}`];

// A hundred rows at a time: the browser lays out what is looked at.
function more() {
  $("rows").append(...order.slice(shown, shown + 100).map((i) => line(N[i])));
  shown = Math.min(order.length, shown + 100);
  mark();
}
$("scroll").onscroll = ({target}) => {
  if (target.scrollTop + target.clientHeight > target.scrollHeight - 500
    && shown < order.length) more();
};

function head() {
  $("head").replaceChildren(...columns().map((c) => el("th", {scope: "col",
    cls: c.n && !c.bar ? "num" : "",
    "aria-sort": c.key !== sortKey ? undefined
      : down ? "descending" : "ascending"},
  c.get ? el("button", {title: "sort", onclick: () => sort(c),
    text: c.head + (c.key === sortKey ? (down ? " ▼" : " ▲") : "")})
    : el("button", {text: c.head, disabled: true, cls: "still"}),
  el("button", {cls: "help", "aria-label": `what is ${c.head}?`,
    text: `${c.key === "false_killing_rate" ? `at ${pct(RATES[rate])}`
      : c.unit} ?`, onclick: (event) => help(event.target, c)}))));
  $("sortby").replaceChildren(...columns().filter((c) => c.get).map((c) =>
    el("option", {value: c.key, text: `sort: ${c.head}`,
      selected: c.key === sortKey})));
}
function sort(c) {
  down = c.key === sortKey ? !down : Boolean(c.n && c.key !== "neuron");
  sortKey = c.key;
  list();
  say(`sorted by ${c.head}, ${down ? "descending" : "ascending"}`);
  $("head").children[columns().indexOf(c)].firstChild.focus();
}
$("sortby").onchange = ({target}) => {
  const c = columns().find((one) => one.key === target.value);
  [sortKey, down] = [c.key, Boolean(c.n && c.key !== "neuron")];
  list();
};
function help(target, c) {
  const box = $("help");
  const filter = {roc_auc: "roc_auc > 0.9", f1: "f1 > 0.5", ms_99: "ms_99 > 9",
    false_killing_rate: "fkr < 5%", neuron: ":77", label: "label:money",
    flags: "-dead"}[c.key];
  box.replaceChildren(el("h3", {text: c.head}),
    el("p", {text: c.help ?? HELP[c.key], style: "margin:4px 0 8px"}),
    c.key in C || c.key === "layer" || c.key === "neuron"
      ? el("p", {cls: "small quiet"}, "In Python ",
        el("code", {text: `to_dataframe()["${c.key}"]`})) : null,
    filter ? el("p", {cls: "small quiet"}, "Filter ",
      el("code", {text: filter})) : null);
  box.showPopover();
  const from = target.getBoundingClientRect(), own = box.getBoundingClientRect();
  box.style.left =
    `${Math.max(8, Math.min(from.left, innerWidth - own.width - 8))}px`;
  box.style.top =
    `${Math.max(8, Math.min(from.bottom + 4, innerHeight - own.height - 8))}px`;
}

// ---- rows
const arrow = (o) => el("span", {cls: S.direction(o) > 0 ? "up" : "down"},
  el("span", {"aria-hidden": "true", text: S.direction(o) > 0 ? "▲ " : "▼ "}),
  el("span", {cls: "sr", text: S.direction(o) > 0 ? "fires on " : "silent on "}));
const labelOf = (o) => {
  if (S.dead(o)) return [el("span", {cls: "quiet", text: "dead"})];
  if (S.label(o) < 0) return [el("span", {cls: "quiet", text: "no label"})];
  return S.weak(o) ? [el("span", {cls: "quiet", text: `(${S.labelName(o)})`,
    title: "ROC-AUC below 0.6: the neuron does not detect this label"})]
    : [arrow(o), S.labelName(o)];
};
const meter = (o, v, from, chance) => el("span", {cls: "meter"},
  el("span", {cls: "num", text: S.dead(o) ? "–" : two(v)}),
  bar(v, from, chance));
function bar(v, from, chance) {
  const w = 44, rect = (x, width, color) => sv("rect",
    {x, y: 4, width, height: 6, rx: 1, fill: `var(--${color})`});
  const out = sv("svg", {width: w, height: 14, "aria-hidden": "true"},
    rect(0, w, "line"));
  if (!Number.isNaN(v))
    out.append(rect(Math.min(v, from) * w, Math.abs(v - from) * w, "neg"));
  if (!Number.isNaN(chance)) out.append(sv("line", {x1: chance * w,
    x2: chance * w, y1: 0, y2: 14, stroke: "var(--ink)", "stroke-width": 1.5}));
  return out;
}
const cell = (area, name, head, ...kids) => el("td", {cls: name,
  role: "gridcell", "data-h": head, style: area && `grid-area:${area}`}, ...kids);
// A name may go on in the next line after these signs, not before them.
const breakable = (name) => name.split(/(?<=[/_.])/)
  .flatMap((part) => [part, el("wbr")]);
function line(o) {
  const path = cell("path", "path", undefined, ...breakable(o.layer),
    el("span", {cls: "fold", text: `:${o.neuron}`}));
  const index = cell("", "num index", undefined, String(o.neuron));
  const cells = view === "compare" ? pairCells(o) : [
    ...(labelled ? [cell("lab", "lab", undefined, ...labelOf(o)),
      cell("auc", "", "AUC", meter(o, S.auc(o), 0.5, 0.5)),
      cell("f1", "", "F1", meter(o, at(o, "f1"), 0, at(o, "f1_baseline")))]
      : []),
    cell("ms", "num", "MS 99 %", S.dead(o) ? "–" : num(at(o, "ms_99"))),
    ...(labelled ? [cell("fkr", "num", "FKR",
      S.dead(o) ? "–" : pct(S.fkr(o)))] : []),
    cell("flags", "fl", undefined, ...flags(o).map((flag) =>
      el("span", {cls: `flag ${flag}`, text: flag}))),
    cell("spark", "sp", undefined, spark(o))];
  return el("tr", {role: "row", "data-i": o.i, tabindex: -1,
    onclick: () => pick(o.i)}, path, index, ...cells);
}
function pairCells(o) {
  const other = otherOf(o), found = [];
  if (labelled) {
    const w = 60, x = (v) => 4 + Math.max(0, v - 0.4) / 0.6 * (w - 8);
    const d = difference(o, "roc_auc"), a = S.auc(o);
    const pair = sv("svg", {width: w, height: 14, "aria-hidden": "true"},
      sv("line", {x1: 0, x2: w, y1: 7, y2: 7, stroke: "var(--line)"}));
    if (!Number.isNaN(d)) pair.append(
      sv("line", {x1: x(a), x2: x(a + d), y1: 7, y2: 7, stroke: "var(--edge)",
        "stroke-width": 2}),
      sv("circle", {cx: x(a), cy: 7, r: 3.4, fill: "var(--bg)",
        stroke: "var(--neg)", "stroke-width": 1.6}),
      sv("circle", {cx: x(a + d), cy: 7, r: 4, fill: "var(--pos)"}));
    const differs = other && S.labelName(o) !== S.labelName(other);
    found.push(cell("", "lab", "A", ...labelOf(o)),
      cell("", "", "B", ...(other ? labelOf(other)
        : [el("span", {cls: "quiet", text: "not in B"})]),
      differs ? el("span", {cls: "flag", text: "other",
        title: "differs from A", style: "margin-left:5px"}) : null),
      cell("", "num", "ROC-AUC", el("span", {cls: "dumbbell"}, pair,
        el("span", {text: Number.isNaN(d) ? "NaN"
          : sgn(Number(d.toFixed(2)), 2)}))));
  }
  return [...found, cell("", "num", "MS 99 % B:A", num(ratio(o), 2))];
}
function mark() {
  let any = false;
  for (const tr of $("rows").children) {
    const on = Number(tr.dataset.i) === chosen;
    tr.setAttribute("aria-selected", on);
    tr.tabIndex = on ? 0 : -1;
    any ||= on;
  }
  if (!any && $("rows").firstChild) $("rows").firstChild.tabIndex = 0;
}

// ---- CSV, which a spreadsheet may open: no cell begins a formula
const escaped = (value) => {
  let text = value === null || Number.isNaN(value) ? "" : String(value);
  if (/^[=+@\t\r]/.test(text) || /^-[^\d.]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
function csv() {
  const names = view === "compare" ? PAIRS.map((c) => c.key)
    : Object.keys(C);
  const get = view === "compare" ? (o, key) => {
    if (key === "layer" || key === "neuron") return o[key];
    if (key === "label_a") return S.labelName(o);
    if (key === "label_b") return otherOf(o) ? S.labelName(otherOf(o)) : "";
    return PAIRS.find((c) => c.key === key).get(o);
  } : (o, key) => {
    if (key === "layer" || key === "neuron") return o[key];
    const column = C[key];
    if (column.texts) return column.texts[column.codes[o.i]] ?? "";
    return D.booleans.includes(key) ? (column[o.i] ? "True" : "False")
      : column[o.i];
  };
  return [names.join(","), ...order.map((i) =>
    names.map((name) => escaped(get(N[i], name))).join(","))].join("\n");
}
$("csv").onclick = async ({target}) => {
  await copy(csv());
  flash(target, `Copied ${many(order.length, "row")}`);
};
