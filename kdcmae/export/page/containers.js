// What a media file says of its sound, without decoding it: browsers resample what they decode to a rate that has to be
// named before, and kdcmae resamples by its own filter, from the rate of the file.

const ascii = (view, at) => String.fromCharCode(...[0, 1, 2, 3].map((k) => view.getUint8(at + k)));

/**
 * @param {ArrayBuffer} buffer - the whole file.
 * @returns {{sound: boolean|undefined, rate: number|undefined}} whether there is a sound track and its sample rate in
 *   Hz, as far as MP4, WebM and WAV files say; undefined if unknown.
 */
export function describe(buffer) {
  const view = new DataView(buffer);
  try {
    if (ascii(view, 0) === "RIFF" && ascii(view, 8) === "WAVE") return { sound: true, rate: wavRate(view) };
    if (view.getUint32(0) === 0x1a45dfa3) return webm(view);
    if (ascii(view, 4) === "ftyp") return mp4(view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // a file that ends early: the decoder says what is wrong
  }
  return { sound: undefined, rate: undefined };
}

function wavRate(view) {
  for (let at = 12; ; at += 8 + view.getUint32(at + 4, true)) {
    if (ascii(view, at) === "fmt ") return view.getUint32(at + 12, true);
  }
}

/** The boxes of an MP4 file in a range of bytes, as [type, start of the content, end]. */
function* boxes(view, start, end) {
  for (let at = start; at + 8 <= end; ) {
    let size = view.getUint32(at), head = 8;
    if (size === 1) [size, head] = [Number(view.getBigUint64(at + 8)), 16];
    if (size === 0) size = end - at;
    if (size < head) return;
    yield [ascii(view, at + 4), at + head, Math.min(end, at + size)];
    at += size;
  }
}

function find(view, [start, end], ...path) {
  for (const [type, from, to] of boxes(view, start, end)) {
    if (type === path[0]) return path.length === 1 ? [from, to] : find(view, [from, to], ...path.slice(1));
  }
  return null;
}

function mp4(view) {
  const movie = find(view, [0, view.byteLength], "moov");
  if (!movie) return { sound: undefined, rate: undefined };
  for (const [type, from, to] of boxes(view, ...movie)) {
    if (type !== "trak") continue;
    const handler = find(view, [from, to], "mdia", "hdlr");
    if (!handler || ascii(view, handler[0] + 8) !== "soun") continue;
    const entry = find(view, [from, to], "mdia", "minf", "stbl", "stsd")[0] + 8; // after its version and count
    return { sound: true, rate: ascii(view, entry + 4) === "Opus" ? 48000 : view.getUint16(entry + 32) || undefined };
  }
  return { sound: false, rate: undefined };
}

const [SEGMENT, TRACKS, TRACK, TYPE, CODEC, AUDIO, RATE, DECODED_RATE] =
  [0x18538067, 0x1654ae6b, 0xae, 0x83, 0x86, 0xe1, 0xb5, 0x78b5];

/** The elements of a WebM or Matroska file in a range of bytes, as [id, start of the content, end]. */
function* elements(view, start, end) {
  const number = (at, keepMarker) => {
    const length = Math.clz32(view.getUint8(at)) - 23;
    let value = keepMarker ? view.getUint8(at) : view.getUint8(at) & (0xff >> length);
    let unknown = value === 0xff >> length;
    for (let k = 1; k < length; k++) {
      unknown &&= view.getUint8(at + k) === 0xff;
      value = value * 256 + view.getUint8(at + k);
    }
    return [value, length, unknown];
  };
  for (let at = start; at < end; ) {
    const [id, idLength] = number(at, true);
    const [size, sizeLength, unknown] = number(at + idLength, false);
    const from = at + idLength + sizeLength;
    at = unknown ? end : Math.min(end, from + size);
    yield [id, from, at];
  }
}

function child(view, range, id) {
  for (const [found, from, to] of elements(view, ...range)) if (found === id) return [from, to];
  return null;
}

function webm(view) {
  const segment = child(view, [0, view.byteLength], SEGMENT);
  const tracks = segment && child(view, segment, TRACKS);
  if (!tracks) return { sound: undefined, rate: undefined };
  for (const [id, from, to] of elements(view, ...tracks)) {
    const type = id === TRACK && child(view, [from, to], TYPE);
    if (!type || view.getUint8(type[0]) !== 2) continue;
    const codec = child(view, [from, to], CODEC), audio = child(view, [from, to], AUDIO);
    if (codec && ascii(view, codec[0] + 2) === "OPUS") return { sound: true, rate: 48000 };
    const rate = audio && (child(view, audio, DECODED_RATE) ?? child(view, audio, RATE));
    if (!rate) return { sound: true, rate: undefined };
    return { sound: true, rate: rate[1] - rate[0] === 8 ? view.getFloat64(rate[0]) : view.getFloat32(rate[0]) };
  }
  return { sound: false, rate: undefined };
}
