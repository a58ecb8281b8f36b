// Runs in the audio thread: passes blocks of the microphone's samples on, the mean of its channels.

registerProcessor("recorder", class extends AudioWorkletProcessor {
  process([channels]) {
    if (channels.length) {
      this.port.postMessage(channels[0].map((_, k) => channels.reduce((sum, one) => sum + one[k], 0) / channels.length));
    }
    return true;
  }
});
