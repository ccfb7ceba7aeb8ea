// What is shown and what happens on a key, a click or a glance. No network, no library.

const root = document.currentScript.closest(".explorer");
const data = prepare(JSON.parse(root.querySelector(".xp-data").textContent));
const part = (name) => root.querySelector(`.xp-${name}`);
const label = (token) => data.labels[token] ?? `#${token}`;
const AXES = Object.keys(data.experiments[0].at);
const state = { at: { ...data.experiments[0].at }, step: 0, layer: null, head: null, shade: "root" };

function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") made.className = value;
    else if (name === "on") for (const [event, call] of Object.entries(value)) made.addEventListener(event, call);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// A token's text; the blank before a word is drawn by the style sheet.
function token(number, kind, slot) {
  const words = label(number);
  const blank = words.startsWith("␣") && words.length > 1;
  return el("span", { class: blank ? `${kind} blank` : kind, "data-key": slot ?? null }, blank ? words.slice(1) : words);
}

// Which experiments

const inGroup = () => data.experiments.filter((each) => AXES.every((axis) => each.at[axis] === state.at[axis]));

function choices(axis) {
  const before = AXES.slice(0, AXES.indexOf(axis));
  const fit = data.experiments.filter((each) => before.every((name) => each.at[name] === state.at[name]));
  return [...new Set(fit.map((each) => each.at[axis]))];
}

function settle() {
  for (const axis of AXES) {
    const there = choices(axis);
    if (!there.includes(state.at[axis])) state.at[axis] = there[0];
  }
  const modes = inGroup().map((each) => each.mode);
  const usual = ["isolated", "visible"].filter((mode) => modes.includes(mode));
  const kept = (state.modes ?? usual).filter((mode) => modes.includes(mode));
  state.modes = kept.length ? kept : usual.length ? usual : modes.slice(0, 1);
  if (!modes.includes(state.mode)) state.mode = modes.includes("visible") ? "visible" : modes[0];
  const first = data.prompt_rows ? -1 : 0;
  state.step = Math.max(first, Math.min(state.step, leader().steps - 1));
  if (!data.order.has(mapName(state.layer, state.head))) state.head = null;
}

const leader = () => inGroup().find((each) => each.mode === state.mode);
const shown = () => inGroup().filter((each) => state.modes.includes(each.mode));
const layers = () => [...new Set(data.maps.map(([layer]) => layer))];
const heads = () => data.maps.filter(([layer]) => layer === state.layer).map(([, head]) => head);

function change(values) {
  Object.assign(state, values);
  settle();
  drawBar();
  drawTree();
  drawHead();
  // Keys that repeat faster than a large step is drawn must not queue up.
  drawing ||= requestAnimationFrame(drawRest);
}

function moved(list, value, by) {
  return list[Math.max(0, Math.min(list.indexOf(value) + by, list.length - 1))];
}

const stepBy = (by) => change({ step: state.step + by });
const layerBy = (by) => change({ layer: moved(layers(), state.layer, by) });
const headBy = (by) => change({ head: moved(heads(), state.head, by) });

// The bar of choices

function choice(name, values, value, words, call) {
  const id = `xp-${name.replace(" ", "-")}`;
  const select = el("select", { id, on: { change: (event) => call(values[event.target.selectedIndex]) } });
  for (const each of values) select.append(el("option", { selected: each === value }, words(each)));
  return el("label", { for: id }, el("span", {}, name), select);
}

function promptName(id) {
  const words = data.prompts[id] ?? "";
  return `${id} · ${words.length > 48 ? `${words.slice(0, 47)}…` : words}`;
}

function drawBar() {
  const focus = document.activeElement?.id;
  const group = inGroup();
  const bar = part("bar");
  bar.replaceChildren();
  for (const axis of AXES) {
    const words = axis === "prompt" ? promptName : (value) => value;
    const set = (value) => change({ at: { ...state.at, [axis]: value } });
    bar.append(choice(axis, choices(axis), state.at[axis], words, set));
  }
  const modes = group.map((each) => each.mode);
  bar.append(choice("tree of", modes, state.mode, (mode) => mode, (mode) => change({ mode })));
  if (data.maps.length) {
    const mean = (value) => (value === null ? "mean" : String(value));
    bar.append(choice("layer", layers(), state.layer, mean, (layer) => change({ layer })));
    bar.append(choice("head", heads(), state.head, mean, (head) => change({ head })));
    const shades = { root: "square root", linear: "linear", log: "logarithm" };
    const names = (shade) => shades[shade];
    bar.append(choice("shade by", Object.keys(shades), state.shade, names, (shade) => change({ shade })));
    bar.append(el("fieldset", {}, el("legend", {}, "attention in"), ...modes.map(modeBox)));
  }
  if (focus) root.querySelector(`[id="${CSS.escape(focus)}"]`)?.focus();
}

function modeBox(mode) {
  const flip = (event) => {
    const kept = inGroup().map((each) => each.mode)
      .filter((each) => (each === mode ? event.target.checked : state.modes.includes(each)));
    change({ modes: kept.length ? kept : state.modes });
  };
  const box = el("input", { type: "checkbox", id: `xp-mode-${mode}`, on: { change: flip } });
  box.checked = state.modes.includes(mode);
  return el("label", { class: "xp-check" }, box, mode);
}

// The token tree

let treeOf = null;

function drawTree() {
  const experiment = leader();
  if (treeOf !== experiment) {
    const columns = [promptColumn(experiment)];
    for (let step = 0; step < experiment.steps; step++) columns.push(column(experiment, step));
    part("tree").replaceChildren(...columns);
    part("tree").scrollLeft = 0;
    treeOf = experiment;
  }
  for (const each of part("tree").querySelectorAll("[role=option]")) {
    const chosen = Number(each.dataset.step) === state.step;
    each.setAttribute("aria-selected", String(chosen));
    each.tabIndex = chosen ? 0 : -1;
    if (chosen) bringIntoView(each);
  }
}

// Scrolls the tree alone: scrollIntoView would move the page as well.
function bringIntoView(option) {
  const tree = part("tree");
  const before = tree.querySelector(".xp-start")?.offsetWidth ?? 0;
  const left = option.offsetLeft - tree.offsetLeft;
  if (left - 8 < tree.scrollLeft) tree.scrollLeft = left - Math.min(before, 24) - 8;
  const over = left + option.offsetWidth + 24 - tree.clientWidth;
  if (over > tree.scrollLeft) tree.scrollLeft = over;
}

function promptColumn(experiment) {
  const slots = experiment.sets.get(-1) ?? [];
  const tokens = slots.map((slot) => token(experiment.token[slot], "xp-t prompt", slot));
  const chosen = { role: "option", "aria-label": `prompt: ${slots.length} tokens`, "data-step": -1 };
  const props = { class: "xp-column xp-start", ...(data.prompt_rows ? chosen : { role: "presentation" }) };
  return el("div", props, el("b", {}, "prompt"), el("div", { class: "xp-words" }, ...tokens));
}

function column(experiment, step) {
  const slots = experiment.sets.get(step) ?? [];
  const spoken = slots.map((slot) => `${label(experiment.token[slot])} ${told(experiment.p[slot] ?? 0)}`);
  const props = {
    class: `xp-column${slots.length > 1 ? " wide" : ""}`,
    role: "option",
    "data-step": step,
    "aria-label": `step ${step}: ${spoken.join(", ")}`,
  };
  const others = experiment.others[step].map(([number, p]) => branch(number, p, "xp-other", "not taken"));
  return el("div", props, el("b", {}, String(step)), ...slots.map((slot) => member(experiment, slot)), ...others);
}

function member(experiment, slot) {
  const gone = experiment.gone[slot];
  const made = branch(experiment.token[slot], experiment.p[slot], gone < 0 ? "xp-taken" : "xp-gone",
    gone < 0 ? "taken" : `pruned at step ${gone}`);
  made.dataset.key = slot;
  return made;
}

function branch(number, p, kind, words) {
  const title = `${label(number)}, probability ${told(p ?? 0)}, ${words}`;
  const made = el("div", { class: `xp-branch ${kind}`, title }, token(number, "xp-label"), el("small", {}, p === null ? "" : p < 0.005 ? "<0.01" : p.toFixed(2)));
  made.style.setProperty("--p", `${100 * (p ?? 0)}%`);
  return made;
}

// What is said of it

function heading() {
  const experiment = leader();
  const slots = experiment.sets.get(state.step) ?? [];
  const at = experiment.logical[slots[0]];
  const facts = state.step < 0 ? [`${slots.length} tokens of the prompt`] : [
    `${slots.length} ${slots.length > 1 ? "parallel tokens" : "token"} at position ${at}`,
    `threshold ${experiment.threshold[state.step] ?? "none"}`,
    `entropy ${experiment.entropy[state.step]?.toPrecision(3) ?? "unknown"} nat`,
    ...(experiment.capped[state.step] ? ["capped: more tokens passed"] : []),
  ];
  return { name: state.step < 0 ? "Prompt" : `Step ${state.step} / ${experiment.steps - 1}`, facts: facts.join(" · ") };
}

function mapWords() {
  if (!data.maps.length) return "no attention";
  if (state.layer === null) return "mean over layers and heads";
  return `layer ${state.layer}, ${state.head === null ? "mean over heads" : `head ${state.head}`}`;
}

function drawHead() {
  const { name, facts } = heading();
  const first = data.prompt_rows ? -1 : 0;
  const turn = (by, words, sign, off) =>
    el("button", { type: "button", id: `xp-turn${by}`, "aria-label": words, disabled: off, on: { click: () => stepBy(by) } }, sign);
  const focus = document.activeElement?.id;
  part("head").replaceChildren(
    turn(-1, "step before", "‹", state.step <= first),
    el("h3", {}, name),
    turn(1, "next step", "›", state.step >= leader().steps - 1),
    el("p", {}, `${facts} · ${mapWords()}`),
  );
  if (focus?.startsWith("xp-turn")) root.querySelector(`[id="${focus}"]`)?.focus();
}

let drawing = 0;

function drawRest() {
  drawing = 0;
  drawStep();
  const { name, facts } = heading();
  part("said").textContent = `${name}: ${facts}. ${mapWords()}. ${summary()}`;
  const at = AXES.map((axis) => state.at[axis]);
  root.dataset.drawn = [...at, state.mode, state.step, state.layer ?? "mean", state.head ?? "mean"].join(" ");
}

// Keys and clicks

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

part("tree").addEventListener("click", (event) => {
  const option = event.target.closest("[role=option]");
  if (!option) return;
  change({ step: Number(option.dataset.step) });
  option.focus({ preventScroll: true });
});

function steer(event) {
  const ends = { Home: -Infinity, End: Infinity };
  if (event.altKey || event.ctrlKey || event.metaKey || !(event.key in ARROWS || event.key in ends)) return false;
  event.preventDefault();
  const [across, down] = ARROWS[event.key] ?? [ends[event.key], 0];
  if (across) stepBy(across);
  else if (event.shiftKey) headBy(down);
  else layerBy(down);
  return true;
}

part("tree").addEventListener("keydown", (event) => {
  if (steer(event)) part("tree").querySelector("[aria-selected=true]")?.focus({ preventScroll: true });
});

part("head").addEventListener("keydown", steer);

// The last script calls it.
function start() {
  const wide = data.experiments[0].sets;
  state.step = Math.max(0, [...wide.keys()].find((step) => step >= 0 && wide.get(step).length > 1) ?? 0);
  change({});
  drawRest();
}
