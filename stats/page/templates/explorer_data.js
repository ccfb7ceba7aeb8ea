// The experiments that the page carries: their sets, and weights out of bytes.

const CODE = { hidden: 254, missing: 255 };

function prepare(data) {
  for (const experiment of data.experiments) {
    const sets = new Map();
    experiment.step.forEach((step, slot) => sets.set(step, [...(sets.get(step) ?? []), slot]));
    experiment.sets = sets;
    experiment.steps = experiment.threshold.length;
    // A prompt row knew no later key; the members of a set existed for each other.
    experiment.ends = experiment.step.map((step, slot) => (step < 0 ? slot : sets.get(step).at(-1)) + 1);
    experiment.starts = new Map();
    let pairs = 0;
    for (let slot = data.prompt_rows ? 0 : sets.get(-1)?.length ?? 0; slot < experiment.ends.length; slot++) {
      experiment.starts.set(slot, pairs);
      pairs += experiment.ends[slot];
    }
    experiment.pairs = pairs;
  }
  data.order = new Map(data.maps.map(([layer, head], index) => [mapName(layer, head), index]));
  data.table = Float64Array.from({ length: 256 }, (_, code) => Math.exp(-code / data.codes_per_nat));
  data.table[CODE.hidden] = 0;
  data.table[CODE.missing] = NaN;
  data.least = data.table[CODE.hidden - 1];
  data.words = Array.from(data.table, (_, code) => (code === CODE.hidden ? "0" : toldCode(data, code)));
  return data;
}

const mapName = (layer, head) => `${layer ?? "mean"} ${head ?? "mean"}`;

function bytesOf(experiment) {
  if (!experiment.bytes) {
    const text = atob(experiment.attention ?? "");
    experiment.bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) experiment.bytes[i] = text.charCodeAt(i);
  }
  return experiment.bytes;
}

// The codes of one row of one map, one a key; null where the page has none.
function rowOf(data, experiment, map, slot) {
  const start = experiment.starts.get(slot);
  const index = data.order.get(map);
  if (start === undefined || index === undefined || !experiment.attention) return null;
  const from = index * experiment.pairs + start;
  const row = bytesOf(experiment).subarray(from, from + experiment.ends[slot]);
  return row.every((code) => code === CODE.missing) ? null : row;
}

function kindOf(experiment, slot, set) {
  const step = experiment.step[slot];
  if (step < 0) return "prompt";
  if (set.includes(slot)) return "own";
  return experiment.sets.get(step).length > 1 ? "parallel" : "single";
}

// Sums of a row: prompt, single and parallel keys of earlier sets, siblings, and the token itself.
function shares(data, experiment, row, slot, set) {
  const sums = { prompt: 0, single: 0, parallel: 0, siblings: 0, itself: 0 };
  row.forEach((code, key) => {
    const weight = data.table[code];
    if (Number.isNaN(weight)) return;
    const kind = kindOf(experiment, key, set);
    sums[key === slot ? "itself" : kind === "own" ? "siblings" : kind] += weight;
  });
  // Sums of rounded weights: a share is never more than all.
  for (const kind of Object.keys(sums)) sums[kind] = Math.min(1, sums[kind]);
  return sums;
}

// The first step at which two experiments took different sets; -1 if their paths are the same.
function parted(one, other) {
  const tokens = (experiment, step) =>
    (experiment.sets.get(step) ?? []).map((slot) => experiment.token[slot]).sort().join();
  for (let step = 0; step < Math.max(one.steps, other.steps); step++)
    if (tokens(one, step) !== tokens(other, step)) return step;
  return -1;
}

function told(weight) {
  if (weight >= 0.0995) return weight.toFixed(3);
  if (weight >= 0.001) return weight.toPrecision(3);
  return weight.toExponential(2).replace("e-", "e−");
}

function toldCode(data, code) {
  if (code === CODE.missing) return "not captured";
  if (code === CODE.hidden) return "0, hidden";
  return code === CODE.hidden - 1 ? `under ${told(data.least)}` : told(data.table[code]);
}
