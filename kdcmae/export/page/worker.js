// The engine's thread: answers the calls of client.js, so that the page stays alive while the engine works.

import { loadEngine } from "./engine.js";
import { resample, toMono } from "./resampling.js";

let engine;

const CALLS = {
  async load(_, report) {
    engine = await loadEngine(report);
    return { facts: engine.facts, selfTest: engine.selfTest };
  },
  /** Mono sound at the engine's rate. */
  prepare: ({ channels, rate }) => resample(toMono(channels, engine.facts.mono), rate),
  async classify(clip) {
    const start = performance.now();
    const scores = await engine.classify(clip);
    return { scores, ms: performance.now() - start };
  },
  explain: (clip, report) => engine.explain(clip, report),
};

onmessage = async ({ data: { id, call, given } }) => {
  try {
    const result = await CALLS[call](given, (progress) => postMessage({ id, progress }));
    postMessage({ id, result });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
};
