// The log-mel spectrogram that the engine computes inside, once more for people to see.

const [LENGTH, SHIFT, FFT, BINS, RATE] = [400, 160, 512, 128, 16000];

const mel = (hertz) => 1127 * Math.log1p(hertz / 700);
const WINDOW = Float64Array.from({ length: LENGTH }, (_, k) => 0.5 - 0.5 * Math.cos((2 * Math.PI * k) / (LENGTH - 1)));
const corner = (number) => mel(20) + ((mel(RATE / 2) - mel(20)) * number) / (BINS + 1);

/**
 * @param {Float32Array} sound - mono at 16 kHz, at least 400 samples.
 * @returns {Float32Array[]} 128 natural logarithms per frame of 10 ms.
 */
export function spectrogram(sound) {
  const frames = [];
  for (let start = 0; start + LENGTH <= sound.length; start += SHIFT) {
    const real = new Float64Array(FFT), imaginary = new Float64Array(FFT);
    const part = sound.subarray(start, start + LENGTH), mean = part.reduce((sum, one) => sum + one, 0) / LENGTH;
    for (let k = 0; k < LENGTH; k++) {
      real[k] = (part[k] - mean - 0.97 * (part[Math.max(0, k - 1)] - mean)) * WINDOW[k];
    }
    transform(real, imaginary);
    frames.push(logMel(real, imaginary));
  }
  return frames;
}

function logMel(real, imaginary) {
  const energies = new Float64Array(BINS);
  for (let bin = 0; bin <= FFT / 2; bin++) {
    const power = real[bin] ** 2 + imaginary[bin] ** 2, place = mel((bin * RATE) / FFT);
    const above = (place - corner(0)) / (corner(1) - corner(0)), lower = Math.floor(above); // triangles overlap by half
    if (lower >= 1 && lower <= BINS) energies[lower - 1] += power * (1 - (above - lower));
    if (lower >= 0 && lower < BINS) energies[lower] += power * (above - lower);
  }
  return Float32Array.from(energies, (energy) => Math.log(Math.max(energy, 2 ** -23)));
}

/** A Fourier transform in place, of a power of two of samples. */
function transform(real, imaginary) {
  const count = real.length;
  for (let k = 1, other = 0; k < count; k++) {
    let bit = count >> 1;
    for (; other & bit; bit >>= 1) other ^= bit;
    other ^= bit;
    if (k < other) [real[k], real[other]] = [real[other], real[k]];
  }
  for (let size = 2; size <= count; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const [c, s] = [Math.cos((2 * Math.PI * k) / size), -Math.sin((2 * Math.PI * k) / size)];
      for (let a = k, b = k + size / 2; b < count; a += size, b += size) {
        const [x, y] = [c * real[b] - s * imaginary[b], c * imaginary[b] + s * real[b]];
        [real[b], imaginary[b]] = [real[a] - x, imaginary[a] - y];
        real[a] += x;
        imaginary[a] += y;
      }
    }
  }
}
