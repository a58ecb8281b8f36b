// Any waveform to 16 kHz mono, as kdcmae/media/resampling.py does it: the filter, its edges and the number of samples
// are those of ffmpeg, with which the models were trained.

const RATE = 16000;
const [FILTER_SIZE, KAISER_BETA, CUTOFF] = [32, 9, 0.97]; // the defaults of ffmpeg's libswresample

const gcd = (a, b) => (b ? gcd(b, a % b) : a);

/** Modified Bessel function of order 0. */
function i0(x) {
  let term = 1, sum = 1;
  for (let k = 1; term > 1e-17 * sum; k++) sum += term *= (x / 2 / k) ** 2;
  return sum;
}

function unscaledTaps(delay, side, bandwidth) {
  return Float64Array.from({ length: 2 * side }, (_, number) => {
    const distance = number + 1 - side - delay, angle = Math.PI * distance * bandwidth;
    const envelope = i0(KAISER_BETA * Math.sqrt(Math.max(0, 1 - (distance / side) ** 2)));
    return (angle === 0 ? 1 : Math.sin(angle) / angle) * envelope;
  });
}

const cached = new Map();

function filter(up, down) {
  const key = `${up}/${down}`;
  if (!cached.has(key)) {
    const bandwidth = Math.min(1, (CUTOFF * up) / down), side = Math.ceil(Math.ceil(FILTER_SIZE / bandwidth) / 2);
    const scale = unscaledTaps(0, side, bandwidth).reduce((sum, tap) => sum + tap, 0);
    const phases = [];
    const taps = (phase) => (phases[phase] ??= Float32Array.from(
      unscaledTaps(phase / up, side, bandwidth), (tap) => tap / scale));
    cached.set(key, { side, taps });
  }
  return cached.get(key);
}

/**
 * @param {Float32Array} sound - mono samples.
 * @param {number} rate - their sample rate in Hz.
 * @returns {Float32Array} the same sound at 16 kHz.
 */
export function resample(sound, rate) {
  const divisor = gcd(rate, RATE), up = RATE / divisor, down = rate / divisor, count = sound.length;
  if (up === down || count === 0) return sound;
  const { side, taps } = filter(up, down);
  const padded = mirrored(sound, side);
  // ffmpeg mirrors only the samples that it still holds, so its result may be one sample shorter.
  const next = count < side ? 0 : Math.max(0, Math.ceil(((count - side) * up) / down));
  const held = count - Math.floor((next * down) / up) + side - 1;
  const end = count - side + Math.floor((Math.min(2 * side, held) + 1) / 2);
  const out = new Float32Array(Math.max(next, Math.ceil((Math.max(1, end) * up) / down)));
  for (let number = 0; number < out.length; number++) {
    const first = Math.floor((number * down) / up), row = taps((number * down) % up);
    let sum = 0;
    for (let tap = 0; tap < row.length; tap++) sum += row[tap] * padded[first + tap];
    out[number] = sum;
  }
  return out;
}

/** The sound with what mirrors it: before the start without its first sample, after the end with its last one. */
function mirrored(sound, side) {
  const count = sound.length, before = side - 1, padded = new Float32Array(before + count + side);
  padded.set(sound, before);
  const period = 2 * (count - 1) || 1;
  for (let k = 1; k <= before; k++) {
    const place = k % period;
    padded[before - k] = sound[place < count ? place : period - place];
  }
  for (let k = 0; k < side; k++) padded[before + count + k] = padded[Math.max(0, before + count - 1 - k)];
  return padded;
}

/**
 * @param {Float32Array[]} channels - of one length.
 * @param {string} mono - "mean" of the channels, or the "left" one.
 * @returns {Float32Array} one channel.
 */
export function toMono(channels, mono) {
  if (mono === "left" || channels.length === 1) return channels[0];
  return Float32Array.from(channels[0], (_, k) => channels.reduce((sum, one) => sum + one[k], 0) / channels.length);
}

/** Start samples of the windows of a sound, as kdcmae/media/windows.py cuts it: half a window apart. */
export function windowStarts(total, length) {
  const hop = Math.max(1, Math.floor(length / 2)), starts = [0];
  while (starts.at(-1) + hop + length <= total) starts.push(starts.at(-1) + hop);
  if (starts.at(-1) + length < total) starts.push(total - length);
  return starts;
}
