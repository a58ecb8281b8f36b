// What the page shows: labels with bars, the frame, the spectrogram, the heatmap and the facts of the engine.

import { spectrogram } from "./spectrogram.js";

const TOP = 5;
const VEIL = 215; // its darkest, of 255
const MAP = [[0, 0, 4], [80, 18, 123], [182, 54, 121], [251, 136, 97], [252, 253, 191]]; // from quiet to loud

export const $ = (id) => document.getElementById(id);

const short = (value, digits) => value.toExponential(digits).replace("-", "\u2011"); // which no line ends at
const percent = (score) => `${(100 * score).toFixed(score < 0.0995 ? 1 : 0)} %`;

/** The best labels, best first, as [index, score]. */
const best = (scores) => [...scores.entries()].sort(([, a], [, b]) => b - a).slice(0, TOP);

/** Show the best labels with bars, and return the first one in words. */
export function showLabels(scores, labels) {
  $("labels").replaceChildren(...best(scores).map(([index, score]) => {
    const item = document.createElement("li"), bar = document.createElement("progress");
    const name = document.createElement("span"), value = document.createElement("span");
    name.textContent = labels[index];
    Object.assign(value, { textContent: percent(score), className: "score" });
    bar.value = score;
    bar.setAttribute("aria-label", labels[index]);
    item.append(name, value, bar);
    return item;
  }));
  const [[first, score]] = best(scores);
  return `${labels[first]}, ${percent(score)}`;
}

export function showFrame(frame) {
  for (const canvas of [$("frame"), $("heat")]) Object.assign(canvas, { width: frame.width, height: frame.height });
  $("frame").getContext("2d").putImageData(frame.image, 0, 0);
}

/** The picture under a veil that is thin where hiding it lets the score fall most; `side` cells a side. */
export function showHeat(falls, side) {
  const canvas = $("heat"), square = Math.min(canvas.width, canvas.height), most = Math.max(...falls, 1e-6);
  const cells = new OffscreenCanvas(side, side), context = canvas.getContext("2d"), image = new ImageData(side, side);
  falls.forEach((fall, n) => image.data.set([0, 0, 0, VEIL * (1 - Math.max(0, fall) / most)], 4 * n));
  cells.getContext("2d").putImageData(image, 0, 0);
  const place = [(canvas.width - square) / 2, (canvas.height - square) / 2, square, square];
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = `rgb(0 0 0 / ${VEIL / 255})`; // what is not in the square, the engine does not see
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(...place);
  context.imageSmoothingQuality = "high";
  context.drawImage(cells, ...place);
}

/** The log-mel spectrogram of mono sound at 16 kHz: time to the right, pitch upwards. */
export function showSound(sound, { fbank_mean: mean, fbank_std: std }) {
  const frames = spectrogram(sound), canvas = $("spectrogram");
  if (!frames.length) return;
  const bins = frames[0].length, image = new ImageData(frames.length, bins);
  frames.forEach((bands, x) => bands.forEach((value, band) => {
    const level = Math.min(0.9999, Math.max(0, ((value - mean) / std + 1.6) / 3.6)) * (MAP.length - 1);
    const [low, high] = [MAP[Math.floor(level)], MAP[Math.ceil(level)]], part = level % 1;
    const colour = low.map((one, k) => one + (high[k] - one) * part);
    image.data.set([...colour, 255], 4 * ((bins - 1 - band) * frames.length + x));
  }));
  Object.assign(canvas, { width: frames.length, height: bins });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The facts of an engine and of its self-test, as a list of terms. */
export function showFacts(facts, test) {
  const tested = test.passed
    ? `passed: ${test.clips} clips, ${test.decided} must keep their class; largest difference ${short(test.error, 1)} of the logits' spread` +
      (facts.selftest.limits.max_error === null ? "" : `, allowed ${short(facts.selftest.limits.max_error, 0)}`)
    : `failed: ${test.problems.join("; ")}`;
  const rows = {
    Model: `${facts.name}, ${(facts.parameters / 1e6).toFixed(2)} million parameters, ${facts.labels.length} labels`,
    "Made by": `kdcmae ${facts.kdcmae_version}, ${facts.created.slice(0, 10)}, ${facts.precision}`,
    Hears: facts.inputs.includes("waveform") ? `${(facts.window / facts.rate).toFixed(2)} s at a time` : "nothing",
    "Self-test": tested,
    "Runs on": `ONNX Runtime Web ${facts.onnxruntime_web}, on the CPU`,
  };
  $("facts").replaceChildren(...Object.entries(rows).flatMap(([term, text]) =>
    [["dt", term], ["dd", text]].map(([tag, content]) => {
      const element = document.createElement(tag);
      element.textContent = content;
      if (term === "Self-test" && tag === "dd") element.className = test.passed ? "good" : "bad";
      return element;
    })));
}
