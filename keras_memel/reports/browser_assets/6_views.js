// One text and all neurons; two reports side by side.
let promptAt = 0, promptSort = -1, promptShade = "deviation", promptRows = 20;

const promptNames = () => D.prompts.map((p, k) =>
  `${k}: ${shortened(p.pieces.join("").replace(/\s+/g, " "), 76)}`);
function drawPrompt(pane) {
  if (!D.prompts.length) return pane.replaceChildren(el("p", {cls: "empty"},
    "The page holds no prompts. To add texts of your own: ",
    el("code", {text: "report.to_html(path, prompts=[…])"}), "."));
  const p = D.prompts[promptAt], T = p.pieces.length;
  const cut = p.generated ?? -1;
  const found = p.neurons.map((i, k) => ({o: N[i],
    values: p.values.subarray(k * T, (k + 1) * T)}))
    .filter(({o}) => !S.dead(o));
  const z = (o, v) => (v - at(o, "mean")) / S.sd(o);
  for (const one of found) {
    const all = promptSort >= 0 ? [one.values[promptSort]] : one.values;
    one.strength = Math.max(0, ...Array.from(all,
      (v) => Math.abs(z(one.o, v)) || 0));
    one.most = Math.max(0, ...Array.from(one.values, (v) => Math.abs(v) || 0));
  }
  found.sort((a, b) => b.strength - a.strength);
  const rows = found.slice(0, promptRows);
  const choose = el("select", {id: "promptsel", "aria-label": "text",
    onchange: ({target}) => {
      [promptAt, promptSort] = [Number(target.value), -1];
      history.replaceState(null, "", `#prompt=${promptAt}`);
      draw();
      $("promptsel").focus();
    }}, ...promptNames().map((text, k) => el("option", {value: k, text,
    selected: k === promptAt})));
  const cw = Math.max(26, Math.min(52, Math.floor((pane.clientWidth - 330) / T)));
  const edge = (k) => k === cut ? " cut" : "";
  const top = el("tr", {}, el("th", {cls: "who", scope: "col",
    text: promptSort >= 0
      ? `neurons by |deviation| on “${p.pieces[promptSort].trim()}”`
      : "neurons by highest |deviation| in the text"}),
  ...p.pieces.map((piece, k) => el("th", {scope: "col",
    cls: `${cut >= 0 && k >= cut ? "made" : ""}${edge(k)}`,
    "aria-sort": k === promptSort ? "descending" : undefined},
  el("button", {text: piece.trim() ? visible(piece).trim() : "␣",
    title: `position ${k}: sort by it`, style: `width:${cw}px`, onclick: () => {
      promptSort = promptSort === k ? -1 : k;
      draw();
    }}))));
  const body = rows.map(({o, values, most}, r) => el("tr", {},
    el("th", {cls: "who", scope: "row"}, el("div", {},
      el("a", {href: link(o), text: o.name}),
      el("span", {}, ...(labelled ? labelOf(o) : [])))),
    ...Array.from(values, (v, k) => {
      const d = z(o, v), byValue = promptShade === "value";
      const strength = byValue ? v / (most || 1) : d / 6;
      const a = Math.min(1, Math.abs(strength)) || 0;
      const text = Number.isNaN(v) ? "×"
        : cw >= 40 ? (Math.abs(d) >= 1 ? sgn(byValue ? v : d, 2) : "")
        : Math.abs(d) >= 3 ? (d > 0 ? "+" : "−") : "";
      const cell = el("td", {cls: `${strength < 0 ? "neg" : "pos"}${edge(k)}`,
        tabindex: !r && !k ? 0 : -1, style: `--a:${a.toFixed(2)}`, text,
        "aria-label": `${o.name}, ${p.pieces[k].trim()}: ${sgn(d, 2)} σ`});
      hover(cell, () => [p.pieces[k].replace(/\n/g, "↵"), o.name, ...saidOf(o, v)]);
      return cell;
    })));
  const table = el("table", {role: "grid",
    "aria-label": "activation by neuron and token"},
  el("thead", {}, top), el("tbody", {}, ...body));
  table.onkeydown = (event) => {
    const cell = event.target.closest("td");
    const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
      ArrowDown: [1, 0]}[event.key];
    if (!cell) return;
    if (event.key === "Enter") cell.parentNode.querySelector("a").click();
    if (!move) return;
    event.preventDefault();
    const to = table.tBodies[0].rows[cell.parentNode.sectionRowIndex + move[0]]
      ?.cells[cell.cellIndex + move[1]];
    if (to?.tagName !== "TD") return;
    [cell.tabIndex, to.tabIndex] = [-1, 0];
    to.focus();
  };
  const left = p.left + p.neurons.length - found.length;
  pane.replaceChildren(
    el("div", {cls: "title start"}, el("h2", {text: "One text, all neurons"}),
      choose),
    el("div", {cls: "tools below"},
      segment("shade by", {deviation: "deviation", value: "value"}, promptShade,
        (key) => { promptShade = key; draw(); }),
      promptShade === "value" ? el("span", {cls: "small quiet",
        text: "each row to its own highest value"})
        : el("span", {cls: "ramp"}, "−6 σ", el("i"), "+6 σ"),
      segment("rows", {12: "12 rows", 20: "20", 200: "200"}, String(promptRows),
        (key) => { promptRows = Number(key); draw(); }),
      el("span", {cls: "small quiet", text: (cw >= 40
        ? "numbers from 1 σ on" : "+ and − mark |deviation| ≥ 3 σ")
        + (cut >= 0 ? "; after the bar, in italics: generated" : "")
        + (p.dead ? `; ${many(p.dead, "dead neuron")} left out` : "")
        + (left > 0 ? `; ${many(left, "neuron")} with a lower peak not kept`
          : "")})),
    el("div", {cls: "matrix"}, table),
    el("p", {cls: "small quiet", style: "margin-top:10px"}, "The page holds no "
      + "model. To add texts of your own: ",
    el("code", {text: "report.to_html(path, prompts=[…])"}),
    ". Choose a token to sort the neurons by it; choose a neuron to open it."));
  return undefined;
}

// Inputs of A that both reports keep activations of: [item of A, item of B].
function shared(o, other) {
  if (!D.same) return [];
  const itemsOf = (one) => groupsOf(one).flatMap(([name, , items]) =>
    items.map((item) => ({...item, low: name === "Bottom"})));
  const found = new Map(itemsOf(other).reverse()
    .map((item) => [item.input, item]));
  const all = [];
  for (const item of itemsOf(o))
    if (found.has(item.input) && !all.some(([a]) => a.input === item.input))
      all.push([item, found.get(item.input)]);
  return all.slice(0, 4);
}
function drawCompare(pane) {
  const o = N[chosen], other = otherOf(o), width = wide(), gap = 24;
  const w = width > 624 ? (width - gap) / 2 : width;
  const both = other && !S.dead(o) && !S.dead(other)
    ? [Math.min(span(o)[0], span(other)[0]),
      Math.max(span(o)[1], span(other)[1])] : null;
  const pairs = both ? shared(o, other) : [];
  const two = el("div", {cls: "two"});
  for (const [k, one, title] of [[0, o, D.title], [1, other, D.other.title]]) {
    const column = el("div", {}, el("h3", {text: `${"AB"[k]}: ${title}`}));
    two.append(column);
    if (!one) {
      column.append(el("p", {cls: "note", text: "Not in this report."}));
      continue;
    }
    column.append(says(one) ?? "", el("p", {cls: "quiet small",
      text: facts(one)}));
    if (S.dead(one) || at(one, "count") === 0) continue;
    column.append(cards(one), el("div", {cls: "below"},
      density(one, w, false, both)));
    if (pairs.length) column.append(
      el("h4", {text: k ? "The same inputs in B" : "Inputs that both keep"}),
      ...pairs.map((pair) => example({...one, L: {...one.L,
        full: {[one.r]: Math.max(scaleOf(o), scaleOf(other))}}},
      pair[k], "", "value", w)));
  }
  pane.replaceChildren(el("div", {cls: "title"}, el("h2", {}, ...breakable(o.name)),
    el("div", {cls: "tools"}, linkButton())),
  el("p", {cls: "quiet small", text: "Neurons are paired by layer and index. One "
    + "activation axis and one color scale for both. Pairs mean something only "
    + "if B started from the weights of A, or continues its training."
    + (D.same ? "" : " The reports saw different numbers of inputs: no examples "
      + "are shown.")}), two, backButton());
}
