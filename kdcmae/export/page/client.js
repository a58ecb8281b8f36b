// Calls of the engine, which runs in a thread of its own.

// Bytes of the smallest module with an instruction on 128-bit vectors.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

/** Why this browser cannot run the engine; empty if it can. */
export function unfit() {
  if (typeof WebAssembly !== "object") return "This browser has no WebAssembly, which the engine needs.";
  if (!WebAssembly.validate(new Uint8Array(SIMD))) {
    return "This browser's WebAssembly has no SIMD, which the engine needs. Use a current Chrome, Firefox or Safari.";
  }
  return "";
}

export class Client {
  constructor() {
    // A worker of a blob inherits the policy of this page, whatever headers the server sends with worker.js.
    const start = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
    this.worker = new Worker(URL.createObjectURL(new Blob([start], { type: "text/javascript" })), { type: "module" });
    this.waiting = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data }) => this.answer(data);
    this.worker.onerror = (event) => {
      event.preventDefault();
      for (const { reject } of this.waiting.values()) reject(new Error("The engine's thread did not start. Copy the page's folder again."));
    };
  }

  answer({ id, progress, result, error }) {
    const call = this.waiting.get(id);
    if (progress !== undefined) return call.report(progress);
    this.waiting.delete(id);
    return error === undefined ? call.resolve(result) : call.reject(new Error(error));
  }

  /** The result of one of the calls of worker.js; `report` gets its progress. */
  call(name, given = {}, report = () => {}) {
    const id = this.count++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, report });
      this.worker.postMessage({ id, call: name, given });
    });
  }
}
