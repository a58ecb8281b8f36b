// The engine: its files are checked against their digests, ONNX Runtime runs it, and its self-test decides whether
// it is used.

import { resample } from "./resampling.js";
import { scores, selfTest } from "./selftest.js";
import { sha256 } from "./sha256.js";

const ARRAYS = { float32: Float32Array, int32: Int32Array, int16: Int16Array, uint8: Uint8Array };

/**
 * @param {(text: string) => void} report - called with what is being done.
 * @returns {Promise<Engine>} the engine, after its self-test.
 */
export async function loadEngine(report) {
  const facts = await (await fetched("page.json")).json();
  const files = {};
  for (const [name, { sha256: expected, bytes }] of Object.entries(facts.files)) {
    report(`Loading ${name} (${(bytes / 1e6).toFixed(1)} MB)`);
    files[name] = new Uint8Array(await (await fetched(name)).arrayBuffer());
    if ((await sha256(files[name])) !== expected) {
      throw new Error(`${name} is damaged: it is not the file that was exported. Copy the page's folder again.`);
    }
  }
  report("Starting the engine");
  const ort = await import("./onnxruntime/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1; // more would need a server that isolates the page by its headers
  ort.env.wasm.wasmBinary = files[facts.wasm].buffer;
  ort.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;
  const session = await ort.InferenceSession.create(files[facts.model], {
    executionProviders: ["wasm"],
    logSeverityLevel: 3, // errors; its warnings are about graph clean-up
    externalData: facts.weights.map((path) => ({ path, data: files[path] })),
  });
  const engine = new Engine(facts, ort, session);
  report("Testing the engine on its stored clips");
  engine.selfTest = await engine.test(files[facts.selftest.file]);
  return engine;
}

async function fetched(name) {
  const response = await fetch(new URL(name, import.meta.url), { cache: "no-cache" }).catch(() => null);
  if (!response?.ok) throw new Error(`${name} cannot be loaded. Copy the page's folder again.`);
  return response;
}

class Engine {
  constructor(facts, ort, session) {
    Object.assign(this, { facts, ort, session });
  }

  /** Outputs of one batch; `feed` holds a typed array per input, and its shape. */
  async infer(feed) {
    const tensors = Object.entries(feed).map(([name, [dtype, data, shape]]) => [name, new this.ort.Tensor(dtype, data, shape)]);
    const logits = (await this.session.run(Object.fromEntries(tensors)))[this.facts.output];
    const classes = this.facts.labels.length, data = Array.from(logits.data);
    return Array.from({ length: data.length / classes }, (_, n) => data.slice(n * classes, (n + 1) * classes));
  }

  /**
   * @param {{sound?: Float32Array, rate?: number, frame?: {data: Uint8Array, width: number, height: number}}} clip -
   *   mono sound of any rate, of which what the engine hears is used, and an RGB frame.
   * @returns {Promise<number[]>} a score per label.
   */
  async classify({ sound, rate, frame }) {
    const feed = {}, { window, shortest, batch } = this.facts;
    if (this.facts.inputs.includes("waveform")) {
      const heard = resample(sound, rate).subarray(0, window);
      if (heard.length < shortest) throw new Error(`This sound is too short: ${heard.length} samples at 16 kHz, ${shortest} are needed.`);
      const waveform = new Float32Array(window);
      waveform.set(heard);
      feed.waveform = ["float32", repeated(waveform, batch), [batch, window]];
      feed.samples = ["int32", new Int32Array(batch).fill(heard.length), [batch]];
    }
    if (this.facts.inputs.includes("frame")) {
      feed.frame = ["uint8", repeated(frame.data, batch), [batch, frame.height, frame.width, 3]];
    }
    return scores((await this.infer(feed))[0], this.facts.scores);
  }

  /**
   * The part of the score of a label that each place of the picture carries: how much it falls where the place is grey.
   *
   * @returns {Promise<number[]>} side * side values of the square in the middle of the picture, row by row.
   */
  async explain({ sound, rate, frame, label, side }, report) {
    const { data, width, height } = frame, square = Math.min(width, height);
    const [left, top] = [(width - square) / 2, (height - square) / 2];
    const whole = (await this.classify({ sound, rate, frame }))[label], falls = [];
    for (let place = 0; place < side * side; place++) {
      const column = place % side, row = Math.floor(place / side), hidden = data.slice();
      const edge = (from, step) => Math.round(from + (step * square) / side);
      for (let y = edge(top, row); y < edge(top, row + 1); y++) {
        hidden.fill(128, 3 * (y * width + edge(left, column)), 3 * (y * width + edge(left, column + 1)));
      }
      const without = await this.classify({ sound, rate, frame: { data: hidden, width, height } });
      falls.push(whole - without[label]);
      report((place + 1) / (side * side));
    }
    return falls;
  }

  /** The self-test, from the bytes of the stored arrays. */
  test(bytes) {
    const { arrays } = this.facts.selftest, rate = this.facts.rate;
    const whole = (name) => {
      const { dtype, shape, offset } = arrays[name], size = shape.reduce((product, axis) => product * axis, 1);
      return new ARRAYS[dtype](bytes.buffer, offset, size);
    };
    const rows = (name) => {
      const data = whole(name), count = arrays[name].shape[0], size = data.length / count;
      return Array.from({ length: count }, (_, n) => data.subarray(n * size, (n + 1) * size));
    };
    const inputs = this.facts.inputs.map((name) => {
      const { dtype, shape } = arrays[`input.${name}`];
      return [name, [dtype, whole(`input.${name}`), shape]];
    });
    const clip = (n) => {
      const given = {};
      if (arrays["clip.waveform"]) {
        Object.assign(given, { rate, sound: Float32Array.from(rows("clip.waveform")[n], (value) => value / 32768) });
      }
      if (arrays["clip.frame"]) {
        const [, height, width] = arrays["clip.frame"].shape;
        given.frame = { data: rows("clip.frame")[n], width, height };
      }
      return this.classify(given);
    };
    return selfTest(this.facts, (name) => rows(name).map((row) => Array.from(row)), {
      stored: () => this.infer(Object.fromEntries(inputs)),
      clip,
    });
  }
}

function repeated(array, times) {
  const all = new array.constructor(times * array.length);
  for (let n = 0; n < times; n++) all.set(array, n * array.length);
  return all;
}
