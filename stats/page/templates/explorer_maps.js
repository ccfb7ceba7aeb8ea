// Which layer and head to look at: what the members of the set give each other, in every map there is.

function toSiblings(experiment, set, map) {
  let sum = 0;
  let rows = 0;
  for (const slot of set) {
    const codes = rowOf(data, experiment, map, slot);
    if (!codes) continue;
    rows += 1;
    for (const key of set) if (key !== slot) sum += data.table[codes[key]] || 0;
  }
  return rows ? sum / rows : NaN;
}

function drawMaps() {
  const experiment = shown().find((each) => each.mode === "visible") ?? shown()[0];
  const set = experiment.sets.get(state.step) ?? [];
  const columns = [null, ...new Set(data.maps.map(([, head]) => head).filter((head) => head !== null))];
  columns.sort((one, other) => (one ?? -1) - (other ?? -1));
  const rows = layers().filter((layer) => layer !== null);
  part("maps").hidden = !rows.length;
  if (!rows.length) return;
  const wide = set.length > 1 && state.step >= 0;
  const values = rows.map((layer) => columns.map((head) => (wide ? toSiblings(experiment, set, mapName(layer, head)) : NaN)));
  const most = Math.max(...values.flat().filter((value) => value >= 0), 0);
  const grid = el("div", { class: "xp-grid", "aria-hidden": true });
  grid.style.gridTemplateColumns = `auto repeat(${columns.length}, minmax(4px, 26px))`;
  grid.append(el("span", {}, ""), ...columns.map((head) => el("span", {}, head === null ? "mean" : columns.length < 16 || head % 4 === 0 ? String(head) : "")));
  rows.forEach((layer, i) => grid.append(el("span", { class: "row" }, String(layer)), ...columns.map((head, j) => mapCell(layer, head, values[i][j], most))));
  const words = state.step < 0 ? "tokens of the prompt have none" : !wide ? "one token here: it has no siblings" : most ? `0 to ${told(most)}` : "0 everywhere";
  part("maps").replaceChildren(el("p", {}, `What siblings give each other, by layer (rows) and head (${experiment.mode}): ${words}`), grid);
}

function mapCell(layer, head, value, most) {
  const there = data.order.has(mapName(layer, head));
  const words = `layer ${layer}, ${head === null ? "mean" : `head ${head}`}${value >= 0 ? `: ${told(value)}` : ""}`;
  const chosen = layer === state.layer && head === state.head;
  const cell = el("button", { type: "button", tabindex: -1, title: there ? words : `${words} left out`, disabled: !there, class: chosen ? "chosen" : null,
    on: { click: () => change({ layer, head }) } });
  if (value > 0) cell.style.background = `rgb(var(--xp-shade) / ${(value / most).toFixed(3)})`;
  return cell;
}
