// SHA-256. Browsers compute it only on pages from https or localhost; elsewhere, such as on a phone that opens a page of
// a laptop by its address, this function does.

const ROUNDS = [], START = [];
for (let n = 2; ROUNDS.length < 64; n++) {
  let prime = true;
  for (let k = 2; k * k <= n; k++) prime &&= n % k !== 0;
  if (!prime) continue;
  if (START.length < 8) START.push(fraction(Math.sqrt(n)));
  ROUNDS.push(fraction(Math.cbrt(n)));
}

/** The first 32 bits of a number's fraction. */
function fraction(value) {
  return ((value - Math.floor(value)) * 2 ** 32) | 0;
}

/**
 * @param {Uint8Array} bytes
 * @returns {Promise<string>} 64 hexadecimal digits.
 */
export async function sha256(bytes) {
  const digest = globalThis.crypto?.subtle
    ? new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)) : computed(bytes);
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The same where the browser does not compute it. */
export function computed(bytes) {
  const whole = bytes.length - (bytes.length % 64), state = Int32Array.from(START), words = new Int32Array(64);
  const rest = new Uint8Array(bytes.length % 64 < 56 ? 64 : 128);
  rest.set(bytes.subarray(whole));
  rest[bytes.length - whole] = 0x80;
  new DataView(rest.buffer).setBigUint64(rest.length - 8, 8n * BigInt(bytes.length));
  const main = new DataView(bytes.buffer, bytes.byteOffset, whole), last = new DataView(rest.buffer);
  for (let at = 0; at < whole; at += 64) block(state, words, main, at);
  for (let at = 0; at < rest.length; at += 64) block(state, words, last, at);
  const out = new DataView(new ArrayBuffer(32));
  state.forEach((word, k) => out.setInt32(4 * k, word));
  return new Uint8Array(out.buffer);
}

const turned = (x, n) => (x >>> n) | (x << (32 - n));

function block(state, w, view, at) {
  for (let t = 0; t < 16; t++) w[t] = view.getInt32(at + 4 * t);
  for (let t = 16; t < 64; t++) {
    const low = turned(w[t - 15], 7) ^ turned(w[t - 15], 18) ^ (w[t - 15] >>> 3);
    w[t] = w[t - 16] + low + w[t - 7] + (turned(w[t - 2], 17) ^ turned(w[t - 2], 19) ^ (w[t - 2] >>> 10));
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t++) {
    const choice = (e & f) ^ (~e & g), majority = (a & b) ^ (a & c) ^ (b & c);
    const first = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + choice + ROUNDS[t] + w[t]) | 0;
    const second = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + majority) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, k) => (state[k] = (state[k] + word) | 0));
}
