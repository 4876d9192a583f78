// Header, navigation and keys.
for (const [key, value] of D.facts)
  $("facts").append(el("div", {}, el("dt", {text: key}), el("dd", {text: value})));
const VIEWS = {neurons: "Neurons",
  ...(D.prompts.length ? {prompt: "Prompt"} : {}),
  ...(B ? {compare: "Side by side"} : {})};
if (Object.keys(VIEWS).length > 1) for (const [key, text] of
  Object.entries(VIEWS)) $("views").append(el("button", {text, "data-v": key,
  onclick: () => go(key)}));
else $("views").remove();
for (const p of D.prompts) p.values = arr(p.values);
$("search").placeholder = [`${shortened(A.layers.at(-1).path, 20)}:7`,
  ...(labelled ? [shortened(LABELS[0], 14), "roc_auc > 0.9"] : ["ms_99 > 9"]),
  "-dead"].join("   ");

const setTheme = (value) => {
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
  $("theme").value = value;
};
setTheme(ask.get("theme") ?? store.get("theme") ?? "");
$("theme").onchange = ({target}) => {
  setTheme(target.value);
  store.set("theme", target.value);
};

const hashOf = (o) => (view === "compare" ? "#compare=" : "#")
  + `${o.layer}/${o.neuron}`;
const showHash = () => history.replaceState(null, "",
  view === "prompt" ? `#prompt=${promptAt}` : hashOf(N[chosen]));
function pick(i, focus, intoTable = true) {
  chosen = i;
  showHash();
  while (shown < order.length && order.indexOf(i) >= shown) more();
  mark();
  draw();
  const tr = $("rows").querySelector("[aria-selected=true]");
  if (focus) {
    if (intoTable) tr?.focus();
    tr?.scrollIntoView({block: "nearest"});
  } else if (innerWidth <= 760) $("pane").scrollIntoView();
}
function go(next, i) {
  view = next;
  $("main").dataset.view = next;
  $("table").className = next === "compare" ? "c" : labelled ? "n" : "n plain";
  for (const button of $("views")?.children ?? [])
    if (button.dataset.v === next) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  if (next === "compare" && !PAIRS.some((c) => c.key === sortKey))
    [sortKey, down] = ["ms_99_ratio", false];
  if (next === "neurons" && !COLUMNS.some((c) => c.key === sortKey))
    [sortKey, down] = [labelled ? "roc_auc" : "ms_99", true];
  if (next !== "prompt") list();
  if (i !== undefined) chosen = i;
  if (chosen < 0) chosen = order[0] ?? 0;
  if (!N.length) return;
  if (next !== "prompt") while (shown < order.length
    && order.indexOf(chosen) >= shown) more();
  mark();
  showHash();
  draw();
  if (next !== "prompt") $("rows").querySelector("[aria-selected=true]")
    ?.scrollIntoView({block: "nearest"});
}
function route() {
  let hash = location.hash.slice(1), next = "neurons";
  try { hash = decodeURIComponent(hash); } catch { /* a path may hold a % */ }
  const prompt = hash.match(/^prompt=(\d+)$/);
  if (prompt && D.prompts.length) {
    promptAt = Math.min(Number(prompt[1]), D.prompts.length - 1);
    promptSort = -1;
    return go("prompt");
  }
  if (hash.startsWith("compare=") && B) {
    next = "compare";
    hash = hash.slice("compare=".length);
  }
  const i = byLink.get(hash);
  go(next, i);
  if (hash && i === undefined && hash !== "pane") $("pane").prepend(el("p",
    {cls: "note", role: "alert", text: `This report has no neuron ${hash}.`}));
  return undefined;
}
addEventListener("hashchange", route);
let last = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== last) {
    last = innerWidth;
    draw();
  }
});

// ---- keys
$("search").oninput = list;
$("search").onkeydown = (event) => {
  if (event.key === "Enter" && order.length) pick(order[0], true);
  if (event.key === "ArrowDown" && order.length) {
    event.preventDefault();
    $("rows").querySelector("[tabindex='0']")?.focus();
  }
  if (event.key === "Escape") {
    $("search").value = "";
    list();
  }
};
$("rows").onkeydown = (event) => {
  const place = order.indexOf(Number(event.target.closest("tr")?.dataset.i));
  if (place < 0) return;
  const to = {ArrowDown: place + 1, ArrowUp: place - 1, Home: 0,
    End: order.length - 1, PageDown: Math.min(place + 10, order.length - 1),
    PageUp: Math.max(place - 10, 0)}[event.key];
  if (to !== undefined) {
    event.preventDefault();
    if (order[to] !== undefined) pick(order[to], true);
  } else if (event.key === "Enter") {
    event.preventDefault();
    $("pane").focus();
    if (innerWidth <= 1180) $("pane").scrollIntoView();
  }
};
const single = () => store.get("single") !== "off";
$("keydialog").append(el("h2", {id: "kh", text: "Keys"}),
  el("table", {style: "margin:10px 0"}, ...[
    ["/", "go to the search"],
    ["↑ ↓ Home End PgUp PgDn", "in the table: another neuron"],
    ["Enter", "in the search: open the first; in the table: go to the neuron"],
    ["[ ]", "previous, next neuron"],
    ["← →", "in a text: token by token, the value read aloud"],
    ["1 2 3", "another view"],
    ["arrows, Enter", "in the prompt view: another cell; open its neuron"],
    ["Escape", "clear the search, close a help"]].map(([key, what]) =>
    el("tr", {}, el("td", {}, el("kbd", {text: key})), el("td", {text: what})))),
  el("label", {}, el("input", {type: "checkbox", id: "single",
    onchange: ({target}) => store.set("single", target.checked ? "on" : "off")}),
  " single-key shortcuts (/ ? 1 2 3 [ ])"),
  el("div", {style: "margin-top:12px"}, el("button", {cls: "b", text: "Close",
    onclick: () => $("keydialog").close()})));
$("keys").onclick = () => {
  $("single").checked = single();
  $("keydialog").showModal();
};
addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
  if (!single() || event.ctrlKey || event.metaKey || event.altKey
    || event.target.matches("input, select, textarea")
    || $("keydialog").open) return;
  const place = order.indexOf(chosen);
  const to = {"[": order[place - 1], "]": order[place + 1]}[event.key];
  if (to !== undefined && view !== "prompt") pick(to, true, false);
  else if (event.key === "/") {
    event.preventDefault();
    if (view === "prompt") go("neurons");
    $("search").focus();
  } else if (event.key === "?") $("keys").click();
  else {
    const next = Object.keys(VIEWS)["123".indexOf(event.key)];
    if (next && "123".includes(event.key)) go(next);
  }
});

if (ask.get("q")) $("search").value = ask.get("q");
route();
document.body.dataset.ready = "yes";
