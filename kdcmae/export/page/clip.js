// A clip that was chosen or dropped: the browser decodes it, the page takes its samples and frames.

import { describe } from "./containers.js";

const LARGEST_BYTES = 1e9; // the whole file and its sound are in memory at once
const [SMALLEST_SIDE, LARGEST_SIDE] = [16, 1920]; // of a frame that an engine takes, in pixels
const FREQUENT_RATE = 48000;

/** A clip that cannot be used, in words for people. */
export class ClipError extends Error {}

/**
 * @param {File} file
 * @param {{sound: boolean, frame: boolean}} needed - what the engine takes of it.
 * @returns {Promise<{channels: Float32Array[], rate: number, duration: number, frameAt: (seconds: number) => Promise}>}
 */
export async function openClip(file, needed) {
  if (file.size > LARGEST_BYTES) throw new ClipError(`${file.name} is larger than 1 GB. Cut it first.`);
  const sound = needed.sound ? await decodedSound(file) : { channels: [], rate: 16000 };
  if (!needed.frame) return { ...sound, duration: sound.channels[0].length / sound.rate, frameAt: async () => undefined };
  const video = await openVideo(file);
  const duration = sound.channels.length ? sound.channels[0].length / sound.rate : video.duration;
  if (!Number.isFinite(duration)) throw new ClipError(`${file.name} does not say how long it is. Convert it to MP4 first.`);
  let before = Promise.resolve(); // a video seeks to one place at a time
  const inTurn = (seconds) => (before = before.catch(() => {}).then(() => frameAt(video, seconds, file.name)));
  return { ...sound, duration, frameAt: inTurn };
}

async function decodedSound(file) {
  const buffer = await file.arrayBuffer();
  const { sound, rate = FREQUENT_RATE } = describe(buffer);
  if (sound === false) throw new ClipError(`${file.name} has no sound, which this engine needs.`);
  try {
    // A context of the file's own rate decodes without resampling.
    const decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(buffer);
    const channels = Array.from({ length: decoded.numberOfChannels }, (_, n) => decoded.getChannelData(n));
    return { channels, rate: decoded.sampleRate };
  } catch {
    const cause = sound ? "in a codec that this browser does not know" : "missing, or in a codec that this browser does not know";
    throw new ClipError(`The sound of ${file.name} is ${cause}. Convert the clip to MP4 with H.264 and AAC, or to WebM.`);
  }
}

function openVideo(file) {
  const video = document.createElement("video");
  Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: URL.createObjectURL(file) });
  return new Promise((resolve, reject) => {
    const refuse = () => reject(new ClipError(
      `The picture of ${file.name} is missing, or in a codec that this browser does not know. Convert the clip to MP4 with H.264 and AAC, or to WebM.`));
    video.onerror = refuse;
    video.onloadeddata = () => (video.videoWidth ? resolve(video) : refuse());
  });
}

function frameAt(video, seconds, name) {
  return new Promise((resolve, reject) => {
    video.onerror = () => reject(new ClipError(`${name} cannot be decoded at ${seconds.toFixed(1)} s.`));
    video.onseeked = () => resolve(pixels(video));
    video.currentTime = Math.min(seconds, Math.max(0, video.duration - 0.001) || seconds);
  });
}

/**
 * @param {HTMLVideoElement} video - which shows a frame.
 * @returns {{data: Uint8Array, width: number, height: number, image: ImageData}} the frame, RGB, and as it is drawn.
 */
export function pixels(video) {
  const [w, h] = [video.videoWidth, video.videoHeight];
  const scale = Math.min(1, LARGEST_SIDE / Math.max(w, h));
  const [width, height] = [w, h].map((side) => Math.max(SMALLEST_SIDE, Math.round(side * scale)));
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(video, 0, 0, width, height);
  const image = context.getImageData(0, 0, width, height), data = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < data.length; from += 4, to += 3) {
    data[to] = image.data[from];
    data[to + 1] = image.data[from + 1];
    data[to + 2] = image.data[from + 2];
  }
  return { data, width, height, image };
}
