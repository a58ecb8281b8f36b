// Camera and microphone: the last seconds of sound, and the frame of this moment.

import { ClipError, pixels } from "./clip.js";

const AS_IT_IS = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

export class Live {
  /**
   * @param {HTMLVideoElement} video - shows the camera.
   * @param {{sound: boolean, frame: boolean}} needed - what the engine takes.
   * @param {number} seconds - of sound that are kept.
   */
  static async start(video, needed, seconds) {
    if (!navigator.mediaDevices) {
      throw new ClipError("Browsers give camera and microphone only to pages from https or localhost. Choose a clip instead.");
    }
    const live = new Live();
    live.video = video;
    live.stream = await navigator.mediaDevices.getUserMedia({
      audio: needed.sound && AS_IT_IS,
      video: needed.frame && { width: { ideal: 640 }, facingMode: "environment" },
    }).catch((error) => {
      throw new ClipError(error.name === "NotAllowedError"
        ? "Camera and microphone were not allowed. Allow them in the browser's settings of this page, or choose a clip."
        : "No camera or microphone can be used here. Choose a clip instead.");
    });
    if (needed.frame) {
      video.srcObject = live.stream;
      await video.play();
    }
    if (needed.sound) await live.listen(seconds);
    return live;
  }

  async listen(seconds) {
    this.audio = new AudioContext();
    this.rate = this.audio.sampleRate;
    this.kept = new Float32Array(Math.ceil(seconds * this.rate));
    this.count = 0;
    await this.audio.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
    const recorder = new AudioWorkletNode(this.audio, "recorder");
    recorder.port.onmessage = ({ data }) => {
      for (const sample of data) this.kept[this.count++ % this.kept.length] = sample;
    };
    this.audio.createMediaStreamSource(this.stream).connect(recorder);
  }

  /** The last seconds as a clip of client.js; undefined before there is half a second of sound. */
  now() {
    const clip = { rate: this.rate };
    if (this.audio) {
      if (this.count < this.rate / 2) return undefined;
      const next = this.count % this.kept.length, older = this.count < this.kept.length ? 0 : this.kept.length - next;
      clip.sound = new Float32Array(older + next);
      clip.sound.set(this.kept.subarray(next, next + older));
      clip.sound.set(this.kept.subarray(0, next), older);
    }
    if (this.video.srcObject) clip.frame = pixels(this.video);
    return clip;
  }

  stop() {
    for (const track of this.stream.getTracks()) track.stop();
    this.video.srcObject = null;
    this.audio?.close();
  }
}
