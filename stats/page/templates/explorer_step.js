// One step: each member's attention as a strip of tokens, and all of them as a heatmap that is a real table.

const rowsBehind = new WeakMap(); // strip or table row -> what it shows
const MOST_COLUMNS = 500; // of a table: beyond, a key press would take seconds
const DECADES = 4; // below the largest weight, for shading by the logarithm

function strength(weight, most) {
  if (!(weight > 0)) return 0;
  if (state.shade === "linear") return weight / most;
  if (state.shade === "log") return Math.max(0, 1 + Math.log10(weight / most) / DECADES);
  return Math.sqrt(weight / most);
}

// Whether these tokens are siblings: those of the prompt are none.
const isSet = (experiment, set) => set.length > 1 && experiment.step[set[0]] >= 0;

function rowsOfStep(experiment) {
  const set = experiment.sets.get(state.step) ?? [];
  const map = mapName(state.layer, state.head);
  const rows = set.map((slot) => ({ slot, codes: rowOf(data, experiment, map, slot) }));
  return { experiment, set, rows, some: rows.find((row) => row.codes) };
}

function largest(groups) {
  let most = 0;
  for (const { rows } of groups)
    for (const { codes } of rows) codes?.forEach((code) => (most = data.table[code] > most ? data.table[code] : most));
  return most || 1;
}

function shadeInto(element, code, most) {
  const strong = strength(data.table[code], most);
  if (strong) element.style.background = `rgb(var(--xp-shade) / ${strong.toFixed(3)})`;
  if (code === CODE.hidden) element.classList.add("hidden");
  contrast(element, strong);
}

// From where on text needs the other colour depends on light or dark: the style sheet knows.
function contrast(element, strong) {
  if (strong > 0.6) element.classList.add("mid");
  if (strong > 0.88) element.classList.add("deep");
}

// The mean share of attention that the members of a set give each kind of key.
function meanShares({ experiment, set, rows }) {
  const all = rows.filter((row) => row.codes).map((row) => shares(data, experiment, row.codes, row.slot, set));
  const mean = (kind) => all.reduce((sum, each) => sum + each[kind], 0) / all.length;
  return all.length ? Object.fromEntries(Object.keys(all[0]).map((kind) => [kind, mean(kind)])) : null;
}

function summary() {
  if (!data.maps.length || state.step < 0) return "";
  const said = shown().map((experiment) => {
    const group = rowsOfStep(experiment);
    const mean = meanShares(group);
    if (!mean) return `${experiment.mode}: no rows captured`;
    return group.set.length > 1 ? `${experiment.mode}: siblings get ${told(mean.siblings)}` : `${experiment.mode}: one token, no siblings`;
  });
  return `${said.join("; ")}.`;
}

// Strips

function contextChips({ experiment, set }, length) {
  const strip = el("div", { class: "xp-strip", role: "group" });
  for (let slot = 0; slot < length; slot++) {
    const kind = kindOf(experiment, slot, set);
    const own = experiment.sets.get(experiment.step[slot]);
    const edge = kind === "parallel" ? `${slot === own[0] ? " first" : ""}${slot === own.at(-1) ? " last" : ""}` : "";
    strip.append(token(experiment.token[slot], `xp-t ${kind}${edge}`, slot));
  }
  return strip;
}

function sharesText({ experiment, set }, { slot, codes }) {
  const kinds = Object.entries(shares(data, experiment, codes, slot, set)).filter(([kind, sum]) => sum > 0 || (kind === "siblings" && isSet(experiment, set)));
  return kinds.map(([kind, sum]) => `${kind} ${sum ? told(sum) : "0"}`).join(" · ");
}

function stripRow(group, row, chips, most) {
  const { experiment } = group;
  const p = experiment.p[row.slot];
  const name = el("div", { class: "xp-query" }, token(experiment.token[row.slot], "xp-name", row.slot),
    el("small", {}, p === null ? "" : `p ${told(p)}`));
  if (!row.codes) return el("div", { class: "xp-row" }, name, el("p", {}, "no row of attention was captured"));
  const strip = chips.cloneNode(true);
  while (strip.childElementCount > row.codes.length) strip.lastChild.remove();
  strip.setAttribute("aria-label", `${experiment.mode}: what ${label(experiment.token[row.slot])} attends to`);
  [...strip.children].forEach((chip, key) => shadeInto(chip, row.codes[key], most));
  strip.children[row.slot]?.classList.add("self");
  rowsBehind.set(strip, { ...group, ...row });
  name.append(el("small", { class: "xp-shares" }, sharesText(group, row)));
  if (strip.firstChild) offer(strip.firstChild);
  return el("div", { class: "xp-row" }, name, strip);
}

function modeTitle(group) {
  const { experiment, set } = group;
  const sees = { isolated: "siblings do not see each other", causal: "siblings see those ranked above", visible: "siblings see each other", single: "one token a step" };
  const away = parted(leader(), experiment);
  const path = away >= 0 && away <= state.step ? `; its own path from step ${away} on` : "";
  const mean = meanShares(group);
  const given = mean && set.length > 1 && state.step >= 0 ? `siblings get ${mean.siblings ? told(mean.siblings) : "0"} on average` : "";
  const seen = state.step < 0 ? "tokens of the prompt see those before them" : sees[experiment.mode];
  return [el("b", {}, experiment.mode), el("span", {}, `${seen}${path}`), el("em", {}, given)];
}

function stripBlock(group, most) {
  const title = el("h4", {}, ...modeTitle(group));
  if (!group.set.length) return el("div", { class: "xp-mode" }, title, el("p", {}, "this experiment had ended by then"));
  const chips = contextChips(group, Math.max(...group.set.map((slot) => group.experiment.ends[slot])));
  return el("div", { class: "xp-mode" }, title, ...group.rows.map((row) => stripRow(group, row, chips, most)));
}

// Heatmap

function columnHead(experiment, set, slot) {
  const made = token(experiment.token[slot], `xp-c ${kindOf(experiment, slot, set)}`, slot);
  return el("th", { scope: "col", class: edges(set, slot) }, made);
}

// Siblings are framed: the columns of the own set, from its first member to its last.
function edges(set, slot) {
  if (!set.includes(slot) || state.step < 0) return null;
  return `own${slot === set[0] ? " first" : ""}${slot === set.at(-1) ? " last" : ""}`;
}

function heatRow(group, row, length, most) {
  const { experiment, set } = group;
  const line = el("tr", {}, el("th", { scope: "row" }, token(experiment.token[row.slot], "xp-name", row.slot)));
  for (let key = 0; key < length; key++) {
    const code = row.codes?.[key];
    const cell = el("td", { class: edges(set, key) }, code === undefined ? "" : data.words[code]);
    if (code !== undefined) shadeInto(cell, code, most);
    line.append(cell);
  }
  rowsBehind.set(line, { ...group, ...row });
  return line;
}

function heatTable(group, most) {
  const { experiment, set, rows } = group;
  const length = Math.max(...set.map((slot) => experiment.ends[slot]));
  if (length > MOST_COLUMNS) return el("p", {}, `${experiment.mode}: a table of ${length} columns is not drawn; the strips have every weight.`);
  const heads = Array.from({ length }, (_, slot) => columnHead(experiment, set, slot));
  const table = el("table", {},
    el("caption", {}, el("span", {}, `${experiment.mode}: ${state.step < 0 ? "prompt" : "set"} (rows), context (columns)`)),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "from \\ to"), ...heads)),
    el("tbody", {}, ...rows.map((row) => heatRow(group, row, length, most))));
  table.style.setProperty("--cell", `${Math.max(13, Math.min(26, Math.floor(440 / length)))}px`);
  return el("div", { class: "xp-scroll", role: "region", tabindex: 0, "aria-label": `${experiment.mode}: table of weights` }, table);
}

function drawScale(most) {
  const stops = [0.01, 0.1, 0.5, 1].map((share) => {
    const box = el("span", { class: "xp-stop" }, told(share * most));
    const strong = strength(share * most, most);
    box.style.background = `rgb(var(--xp-shade) / ${strong.toFixed(3)})`;
    contrast(box, strong);
    return box;
  });
  part("scale").replaceChildren("weight ", ...stops);
}

function drawStep() {
  part("tip").textContent = "";
  if (!data.maps.length) return;
  const groups = shown().map(rowsOfStep);
  const most = largest(groups);
  part("strips").replaceChildren(...groups.map((group) => stripBlock(group, most)));
  const drawn = groups.filter((group) => group.some);
  part("heat").replaceChildren(...drawn.map((group) => heatTable(group, most)));
  for (const each of part("heat").children) each.scrollLeft = each.scrollWidth; // siblings stand last
  drawScale(most);
  drawMaps();
}

// A closer look

function named(experiment, slot) {
  const where = experiment.step[slot] < 0 ? "prompt" : `step ${experiment.step[slot]}`;
  return `“${label(experiment.token[slot])}” (slot ${slot}, position ${experiment.logical[slot]}, ${where})`;
}

function sentence({ experiment, slot, codes }, key) {
  const gone = experiment.gone[key] >= 0 ? `, pruned at step ${experiment.gone[key]}` : "";
  return `${named(experiment, slot)} gives ${named(experiment, key)} ${toldCode(data, codes[key])}${gone}: ${experiment.mode}, ${mapWords()}`;
}

// A strip has one stop for the tab key; its name is made when it is reached.
function offer(chip) {
  const behind = rowsBehind.get(chip.parentElement);
  chip.tabIndex = 0;
  chip.setAttribute("role", "img");
  chip.setAttribute("aria-label", sentence(behind, Number(chip.dataset.key)));
}

function lookAt(target) {
  const cell = target.closest?.("td, .xp-strip .xp-t");
  const behind = cell && rowsBehind.get(cell.parentElement);
  for (const lit of root.querySelectorAll(".lit")) lit.classList.remove("lit");
  if (!behind) return;
  const key = cell.cellIndex > 0 ? cell.cellIndex - 1 : Number(cell.dataset.key);
  if (!behind.codes || !(key < behind.codes.length)) return;
  part("tip").textContent = sentence(behind, key);
  const near = behind.experiment === leader() ? root : cell.closest(".xp-mode, .xp-scroll");
  for (const each of near.querySelectorAll(`[data-key="${key}"]`)) each.classList.add("lit");
}

part("right").addEventListener("pointerover", (event) => lookAt(event.target));
part("right").addEventListener("focusin", (event) => lookAt(event.target));

part("strips").addEventListener("click", (event) => {
  const chip = event.target.closest(".xp-strip .xp-t");
  if (!chip) return;
  for (const was of chip.parentElement.querySelectorAll("[tabindex='0']")) was.tabIndex = -1;
  offer(chip);
  chip.focus({ preventScroll: true });
});

part("strips").addEventListener("keydown", (event) => {
  const chip = event.target.closest(".xp-strip .xp-t");
  const ends = { Home: 0, End: -1 };
  if (!chip || event.altKey || event.ctrlKey || event.metaKey) return;
  const strips = [...part("strips").querySelectorAll(".xp-strip")];
  const [across, down] = ARROWS[event.key] ?? [0, 0];
  const strip = moved(strips, chip.parentElement, down);
  const chips = [...strip.children];
  const here = Number(chip.dataset.key);
  const next = event.key in ends ? chips.at(ends[event.key]) : chips[Math.max(0, Math.min(here + across, chips.length - 1))];
  if (!(event.key in ARROWS || event.key in ends) || !next) return;
  event.preventDefault();
  chip.tabIndex = -1;
  offer(next);
  next.focus();
});

start();
