// The neuron that is chosen.
const part = (title, right, ...kids) => el("section", {cls: "part"},
  el("div", {cls: "head"}, el("h3", {text: title}), right), ...kids);
const segment = (label, options, now, set) => el("span",
  {cls: "seg small", role: "group", "aria-label": label},
  ...Object.entries(options).map(([key, text]) => el("button", {text,
    "aria-pressed": String(key === now), onclick: () => set(key)})));
function ramp(o, mode) {
  const top = scaleOf(o), both = mode !== "value" || at(o, "minimum") < 0;
  const [from, to] = mode === "value"
    ? [both ? `−${num(top, 2)}` : "0", `+${num(top, 2)}`] : ["−4 σ", "+4 σ"];
  return el("span", {cls: `ramp${both ? "" : " one"}`}, from, el("i"), to);
}
const card = (title, value, said) => el("div", {cls: "card"},
  el("div", {text: title}), el("b", {text: value}), el("div", {text: said}));
function cards(o) {
  const chance = at(o, "roc_auc_null");
  return el("div", {cls: "cards"}, ...(labelled ? [
    card("ROC-AUC", two(S.auc(o)), Number.isNaN(chance) ? "chance 0.5"
      : `chance 0.5, 95 % below ${two(chance)}`),
    card("F1", two(at(o, "f1")), `chance ${two(at(o, "f1_baseline"))}`)] : []),
  card("MS 99 %", num(at(o, "ms_99")), "Gaussian 6.63"),
  ...(labelled ? [card(`FKR at ${pct(RATES[rate])}`, pct(S.fkr(o)),
    `blind ${pct(1 - S.share(o))}`)]
    : [card("MS max", num(at(o, "ms_max")), "highest value")]));
}
function says(o) {
  if (at(o, "count") === 0)
    return el("p", {cls: "says", text: "No values: all are masked or not "
      + "finite."});
  if (S.dead(o)) return el("p", {cls: "says", text: `Dead: all `
    + `${at(o, "count").toLocaleString("en")} values are `
    + `${num(at(o, "minimum"))}.`});
  if (!labelled) return null;
  const p = el("p", {cls: "says"});
  if (S.label(o) < 0) p.append("No label: none occurs in both halves of the "
    + "inputs.");
  else if (S.weak(o)) p.append(at(o, "p_corrected") < 0.05
    ? "Detects no label well: the best, " : "Detects no label: the best, ",
    el("b", {text: S.labelName(o)}), `, has ROC-AUC ${two(S.auc(o))}.`);
  else p.append(arrow(o), S.direction(o) > 0 ? "Fires on " : "Silent on ",
    el("b", {text: S.labelName(o)}), `: mean ${num(o.L.there[o.r])} there, `
    + `${num(o.L.elsewhere[o.r], 2)} elsewhere.`);
  const chance = at(o, "p_corrected");
  if (!S.weak(o) && chance >= 0.05)
    p.append(` It may be chance (corrected p = ${num(chance, 2)}).`);
  return p;
}
function facts(o) {
  const count = at(o, "count"), zeros = S.zeros(o);
  return `${many(count, "value")}: mean ${num(at(o, "mean"))}, σ `
    + `${num(S.sd(o))}, ${num(at(o, "minimum"))} to ${num(at(o, "maximum"))}`
    + (Number.isNaN(zeros) ? "" : `, ${pct(zeros)} exactly 0`);
}
const note = (bold, rest) => el("p", {cls: "note"}, el("b", {text: bold}), rest);
function notes(o) {
  const found = [], bad = at(o, "nonfinite"), count = at(o, "count");
  if (bad) found.push(note(`${many(bad, "value")} NaN or infinite`,
    ` (${pct(bad / (bad + count))}). They are left out of every figure`
    + `${isText ? ", and hatched in the texts" : ""}.`));
  if (S.dead(o)) {
    found.push(el("p", {cls: "note", text: "There is nothing to rank, so no "
      + "label, no figures and no examples are shown. "
      + (at(o, "minimum") === 0 ? "A ReLU neuron that is always 0 gets no "
        + "gradient: look at its bias and the learning rate."
        : "A constant that is not 0 is often a bias without input.")}));
    return found;
  }
  if (at(o, "rare") > 0) found.push(note(
    `Rare: ${pct(at(o, "activity"))} of the values leave the median. `,
    "The figures rest on a handful of values: read the top examples first."));
  if (o.L.ranked[o.r] < count) found.push(note("Sampled. ",
    `Quantiles, the chart by label and all scores rest on a uniform sample of `
    + `${many(o.L.ranked[o.r], "value")}.`));
  if (!A.split && labelled) found.push(note("An old file. ",
    "Labels and scores come from the same inputs: scores are too high by "
    + "chance."));
  if (o.L.first0 && o.L.first0[o.r] > 0.8 * o.L.firstOf) found.push(note(
    `The peak is the first position in ${o.L.first0[o.r]} of ${o.L.firstOf} `
    + "examples. ", "This neuron may mark a position and not a label: mask the "
    + "first position and analyze again."));
  return found;
}
const backButton = () => el("button", {cls: "b back", text: "↑ table",
  onclick: () => {
    scrollTo(0, 0);
    $("rows").querySelector("[tabindex='0']")?.focus();
  }});

function density_part(o, width) {
  const box = el("div", {id: "density"}), known = o.L.zeros;
  const show = (all) => {
    const svg = density(o, width, all);
    box.replaceChildren(svg, ...(svg.left ? [el("button", {cls: "b small",
      text: `show ${many(svg.left, "other label")}`,
      onclick: () => show(true)})] : []));
  };
  show(false);
  return part(labelled ? `Values by label${known ? ", without zeros" : ""}`
    : `Values${known ? ", without zeros" : ""}`, el("span",
    {cls: "quiet small", text: "height: share within the row"}), box);
}

function example(o, item, group, mode, width) {
  const low = item.low ?? group === "Bottom";
  const input = D.inputs[item.input];
  const name = isText && Array.isArray(input) && o.L.sizes.length === 1
    && item.at < input.length ? ` on “${visible(input[item.at]).trim() || "␣"}”`
    : o.L.sizes.length ? ` at ${placeOf(o, item.at)}` : "";
  const meta = el("div", {cls: "meta"}, el("span", {text:
    `${low ? "lowest" : "peak"} ${item.value ? sgn(item.value) : "0"}${name}, `
    + `MS ${num(S.ms(o, item.value), 2)} · input ${item.input}`}));
  if (input === undefined) return el("div", {cls: "ex"}, meta);
  if (D.kind === "image") return imageTile(o, item, low);
  if (D.kind === "series") return el("div", {cls: "ex"},
    seriesPlot(o, item, low, width - 22), meta);
  const prompt = D.prompts.findIndex((p) => p.input === item.input);
  if (prompt >= 0) meta.append(el("button", {text: "all neurons on this text",
    onclick: () => { promptAt = prompt; go("prompt"); }}));
  return el("article", {cls: "ex"}, tokens(o, item, mode), meta);
}
const placeOf = (o, at) => o.L.sizes.length < 2 ? at
  : `(${o.L.sizes.reduceRight(([rest, out], size) => [Math.floor(rest / size),
    [rest % size, ...out]], [at, []])[1].join(", ")})`;
function examples(o, width) {
  const mode = isText ? modeOf(o) : "value";
  const tools = D.kind ? el("span", {cls: "tools"}, ramp(o, mode), isText
    ? segment("shade by", {value: "value", deviation: "deviation"}, mode,
      (key) => { shade = key; draw(); }) : null) : null;
  const box = part("Examples", tools);
  box.id = "examples";
  const {field} = o.L;
  if (D.kind === "image") box.append(el("p", {cls: "small quiet", text:
    `${D.channels === 3 ? "RGB" : "Gray"} from ${num(D.range[0])} to `
    + `${num(D.range[1])} for all images.` + (o.L.sizes.length !== 2 ? ""
      : field ? ` The box is the receptive field, ${field.size.join(" × ")} `
        + "pixels; right, the activation map." : " Right, the activation map.")
  }));
  if (D.kind === "series") box.append(legend(o));
  if (isText && o.L.sizes.length === 1
    && Object.values(D.inputs).every((text) => !Array.isArray(text)))
    box.append(el("p", {cls: "small quiet"}, "The texts are not shaded, since "
      + "their tokens are unknown: pass lists of tokens, or ",
    el("code", {text: "to_html(path, tokenize=...)"}), "."));
  if (!D.kind) box.append(el("p", {cls: "small quiet"}, "The page holds no "
    + "inputs: ", el("code", {text: "to_html(path, inputs=x)"}),
  " or ", el("code", {text: 'analyze(…, keep="inputs")'}), " shows them."));
  const floor = at(o, "minimum") === 0 && !S.silent(o) && S.zeros(o) > 0;
  for (const [name, what, items] of groupsOf(o)) {
    const group = el("div", {cls: "group"}, el("h4", {}, name,
      el("span", {text: what})));
    if (name === "Bottom" && floor) group.append(el("p",
      {cls: "quiet small", text: "No bottom: the lowest value is 0, as are "
        + `${pct(S.zeros(o))} of the values.`}));
    else if (!items.length) group.append(el("p",
      {cls: "quiet small", text: "none"}));
    else group.append(el("div", {cls: D.kind === "image" ? "tiles" : ""},
      ...items.map((item) => example(o, item, name, mode, width))));
    box.append(group);
  }
  return box;
}
function legend(o) {
  const lines = Array.from({length: D.channels}, (_, k) => [
    sv("svg", {width: 24, height: 10, "aria-hidden": "true"}, sv("line",
      {x1: 0, x2: 22, y1: 6, y2: 6, stroke: TONE[k % TONE.length],
        "stroke-width": 2, "stroke-dasharray": DASH[k % DASH.length]})),
    ` ${k}  `]).flat();
  const placed = o.L.sizes.length === 1;
  return el("p", {cls: "small quiet legend"}, ...(D.channels > 1
    ? ["Channels ", ...lines, "· "] : []), "One axis for all inputs."
    + (placed && o.L.field ? " The band is the receptive field, "
      + `${many(o.L.field.size[0], "step")}; below, the activation per `
      + "position." : placed ? " Below, the activation per position." : ""));
}

function draw() {
  const pane = $("pane");
  hide();
  if (view === "prompt") return drawPrompt(pane);
  if (chosen < 0) return pane.replaceChildren(el("div",
    {cls: "empty", text: "Choose a neuron in the table."}));
  if (view === "compare") return drawCompare(pane);
  const o = N[chosen], place = order.indexOf(chosen), width = wide();
  const step = (d, text) => el("button", {cls: "b", text, "aria-label":
    d < 0 ? "previous neuron" : "next neuron",
  disabled: order[place + d] === undefined, onclick: () =>
    pick(order[place + d], true, false)});
  const out = [el("div", {cls: "title"}, el("h2", {}, ...breakable(o.name)),
    el("div", {cls: "tools"}, ...flags(o).map((flag) => el("span",
      {cls: `flag ${flag}`, text: flag})), step(-1, "←"), step(1, "→"),
    linkButton()))];
  out.push(says(o), el("p", {cls: "quiet small", text: facts(o)}), ...notes(o));
  if (!S.dead(o) && at(o, "count") > 0) {
    const half = width >= 560 ? Math.floor((width - 22) / 2) : width;
    const choice = el("select", {"aria-label": "rate",
      onchange: ({target}) => setRate(Number(target.value))},
    ...RATES.map((v, k) => el("option", {value: k, text: pct(v),
      selected: k === rate})));
    out.push(cards(o), density_part(o, width), examples(o, width),
      labelled ? part("Scale and False Killing Rate",
        el("label", {cls: "small"}, "FKR at ", choice),
        el("div", {cls: "charts"}, el("div", {}, msChart(o, half)),
          el("div", {}, fkrChart(o, half))))
        : part("Scale", null, msChart(o, half)));
  }
  out.push(backButton());
  const same = pane.dataset.at === String(chosen);
  const top = same ? pane.scrollTop : 0;
  pane.dataset.at = chosen;
  pane.replaceChildren(...out.filter(Boolean));
  pane.scrollTop = top;
  return undefined;
}
const linkButton = () => el("button", {cls: "b", text: "Copy link",
  onclick: async ({target}) => {
    await copy(location.href);
    flash(target, "Copied");
  }});
