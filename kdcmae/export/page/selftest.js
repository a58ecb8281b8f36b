// Whether the engine computes here what the model computed where it was built: kdcmae/runtime/selftest.py with the same
// clips and limits. Two of its questions are left out: the order of all classes of a multi-label engine, and whether
// the outputs repeat those of the building machine, which had another library.

export const FLAT = 0.05; // root mean square of logits below which no class is more than a few per cent likelier
const CERTAIN = 1 - 2 ** -53; // the largest score below 1, whose logit is finite
const TINY = 2.2250738585072014e-308;

const sum = (values) => values.reduce((total, value) => total + value, 0);
const mean = (values) => sum(values) / values.length;
const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** Probabilities of the logits of one clip: a softmax over the classes, or a sigmoid of each. */
export function scores(logits, kind) {
  if (kind === "sigmoid") return logits.map((value) => 1 / (1 + Math.exp(-value)));
  const most = Math.max(...logits), exponentials = logits.map((value) => Math.exp(value - most));
  const total = sum(exponentials);
  return exponentials.map((value) => value / total);
}

/** Logits that have these scores, finite even for a score of 0 or 1. */
function logOdds(likelihood, kind) {
  return likelihood.map((value) => {
    const bounded = Math.min(Math.max(value, TINY), CERTAIN);
    return Math.log(bounded) - (kind === "sigmoid" ? Math.log1p(-bounded) : 0);
  });
}

/**
 * Compare the logits of clips with the reference, each relative to the spread of the clip's own logits.
 *
 * @param {number[][]} actual - (clips, classes).
 * @param {number[][]} expected - (clips, classes).
 * @param {string} kind - "softmax" or "sigmoid".
 * @returns {{error: number, cosines: number[], distance: number}} the largest error, cosines in ascending order, and
 *   the mean distance of the probabilities.
 */
export function compare(actual, expected, kind) {
  if (!actual.flat().every(Number.isFinite)) return { error: Infinity, cosines: [-1], distance: 1 };
  const overall = mean(expected.flat());
  const centred = (rows) => rows.map((row) => {
    const centre = kind === "softmax" ? mean(row) : overall;
    return row.map((value) => value - centre);
  });
  const values = centred(actual), reference = centred(expected);
  const spreads = reference.map((row) => Math.sqrt(mean(row.map((value) => value ** 2)))).sort((a, b) => a - b);
  const half = spreads.length / 2;
  const median = (spreads[Math.ceil(half) - 1] + spreads[Math.floor(half)]) / 2;
  const typical = Math.max(kind === "sigmoid" && expected[0].length === 1 ? 1 : FLAT, median);
  const errors = values.map((row, n) =>
    largest(row.map((value, k) => value - reference[n][k])) / Math.max(largest(reference[n]), typical));
  const more = (typical / 2) ** 2 * expected[0].length; // so that pure noise has no direction
  const product = (one, other) => sum(one.map((value, k) => value * other[k])) + more;
  const cosines = values.map((row, n) =>
    product(row, reference[n]) / Math.sqrt(product(row, row) * product(reference[n], reference[n])));
  const distances = actual.map((row, n) => {
    const other = scores(expected[n], kind), apart = scores(row, kind).map((value, k) => Math.abs(value - other[k]));
    return kind === "softmax" ? sum(apart) / 2 : largest(apart);
  });
  return { error: Math.max(...errors), cosines: cosines.sort((a, b) => a - b), distance: mean(distances) };
}

/** The first limit that a comparison exceeds, in words; empty if none is. */
export function problem(compared, limits, name) {
  if (!Number.isFinite(compared.error)) return `${name}: not finite`;
  if (limits.max_error !== null && !(compared.error <= limits.max_error)) {
    return `${name} differ by ${compared.error.toExponential(1)} of their spread, allowed ${limits.max_error}`;
  }
  const cosine = compared.cosines[Math.floor(limits.outliers * compared.cosines.length)];
  if (!(cosine >= limits.min_cosine)) {
    return `the cosine of ${name} is ${cosine.toFixed(6)}, at least ${limits.min_cosine} is needed`;
  }
  if (!(compared.distance <= limits.max_distance)) {
    return `the probabilities of ${name} differ by ${(100 * compared.distance).toFixed(2)} % on average`;
  }
  return "";
}

/** Whether a clip must keep its class, because no logits within the limits have another first class. */
export function isDecided(logits, limits) {
  if (logits.length < 2) return true;
  const centre = mean(logits), centred = logits.map((value) => value - centre);
  const [first, second] = [...logits].sort((a, b) => b - a);
  const byError = 2 * (limits.max_error ?? Infinity) * Math.max(largest(centred), FLAT);
  const turned = Math.sqrt(2 * Math.max(1 - limits.min_cosine ** 2, 0)) * Math.hypot(Math.hypot(...centred), FLAT);
  return first - second > Math.min(byError, turned);
}

/**
 * @param {object} facts - of page.json.
 * @param {(name: string) => number[][]} stored - a stored array, one row per sample.
 * @param {{stored: () => Promise<number[][]>, clip: (n: number) => Promise<number[]>}} engine - the logits of the stored
 *   inputs, and the scores of a stored clip.
 * @returns {Promise<{passed: boolean, clips: number, decided: number, error: number, problems: string[]}>}
 */
export async function selfTest(facts, stored, engine) {
  const { scores: kind, labels } = facts, { limits } = facts.selftest;
  const comparable = (rows) => rows.map((row) => logOdds(scores(row, kind), kind));
  const inputs = compare(comparable(await engine.stored()), comparable(stored("output.logits")), kind);
  const reference = stored("clip.output.logits"), outputs = [];
  for (let n = 0; n < reference.length; n++) outputs.push(logOdds(await engine.clip(n), kind));
  const clips = compare(outputs, comparable(reference), kind);
  // Half of the stored inputs may be outliers of an 8-bit model: they only show that samples are not mixed up.
  const smallest = inputs.cosines.length > 1 ? limits.min_cosine : -1;
  const loose = { ...limits, max_error: null, min_cosine: smallest, outliers: 0.5, max_distance: 1 };
  const problems = [
    problem(inputs, limits.outliers ? loose : limits, "outputs of the stored inputs"),
    problem(clips, limits, "outputs of the clips"),
  ].filter(Boolean);
  const decided = reference.map((row) => isDecided(row, limits));
  const best = (row) => row.indexOf(Math.max(...row));
  outputs.forEach((row, n) => {
    const [here, there] = [best(row), best(reference[n])];
    if (decided[n] && here !== there) {
      problems.push(`clip ${n + 1} is '${labels[there]}' by the model, here '${labels[here]}'`);
    }
  });
  const error = limits.outliers ? clips.error : Math.max(inputs.error, clips.error);
  return { passed: !problems.length, clips: outputs.length, decided: decided.filter(Boolean).length, error, problems };
}
