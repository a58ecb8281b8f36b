// Any waveform -> 16 kHz mono -> log-mel filterbank, as the Python package computes them.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <vector>

#include "error.hpp"

namespace kdcmae {

// A view of samples with their channels interleaved, as audio interfaces give them. Floating point is in [-1, 1],
// 16-bit integers are at full scale. A waveform without samples stands for a clip without sound.
class Waveform {
 public:
  Waveform() = default;
  // samples: per channel.
  Waveform(const float* values, std::size_t samples, std::size_t channels = 1)
      : floats_(values), samples_(samples), channels_(channels) {}
  Waveform(const std::int16_t* values, std::size_t samples, std::size_t channels = 1)
      : integers_(values), samples_(samples), channels_(channels) {}
  Waveform(const std::vector<float>& mono) : Waveform(mono.data(), mono.size()) {}

  bool given() const { return floats_ != nullptr || integers_ != nullptr; }
  std::size_t samples() const { return samples_; }

  // The first samples as mono: the left channel, or the mean.
  std::vector<float> mono(bool left, std::size_t wanted) const {
    std::vector<float> mixed(std::min(wanted, samples_));
    for (std::size_t i = 0; i < mixed.size(); ++i) {
      float sum = at(i, 0);
      for (std::size_t channel = 1; channel < channels_ && !left; ++channel) sum += at(i, channel);
      mixed[i] = left ? sum : sum / static_cast<float>(channels_);
    }
    return mixed;
  }

  // Refuses what is no waveform; all of it is looked at, because its start alone may be silent.
  void check() const {
    if (samples_ == 0 || channels_ == 0)
      detail::fail(ErrorKind::data, "waveform of ", samples_, " samples and ", channels_, " channels is empty");
    float largest = 0.0f;
    bool finite = true;
    for (std::size_t i = 0; floats_ != nullptr && i < samples_ * channels_; ++i) {
      finite = finite && std::isfinite(floats_[i]);
      largest = std::max(largest, std::abs(floats_[i]));
    }
    if (!finite) detail::fail(ErrorKind::data, "waveform holds NaN or infinite samples");
    if (largest > 16.0f)  // decoders overshoot 1.0 a little; far beyond it the waveform is in integer units
      detail::fail(ErrorKind::data, "waveform reaches ", largest,
                   " but must be in [-1, 1]; divide 16-bit samples by 32768");
  }

 private:
  float at(std::size_t sample, std::size_t channel) const {
    const std::size_t place = sample * channels_ + channel;
    return floats_ != nullptr ? floats_[place] : static_cast<float>(integers_[place]) / 32768.0f;
  }

  const float* floats_ = nullptr;
  const std::int16_t* integers_ = nullptr;
  std::size_t samples_ = 0, channels_ = 1;
};

namespace detail {

constexpr int model_rate_hz = 16000, lowest_rate_hz = 1000, highest_rate_hz = 768000;
constexpr std::size_t frame_length = 400, frame_shift = 160, fft_length = 512, mel_bins = 128;
constexpr double pi = 3.14159265358979323846;

// Modified Bessel function of the first kind and order 0, by its power series; libc++ has no std::cyl_bessel_i.
inline double bessel_i0(double x) {
  double term = 1.0, sum = 1.0;
  for (int k = 1; term > 1e-18 * sum; ++k) {
    term *= (x / (2.0 * k)) * (x / (2.0 * k));
    sum += term;
  }
  return sum;
}

// The filter of ffmpeg's libswresample with its default settings, one exact set of taps per phase: a sinc of 32 taps at
// the lower rate under a Kaiser window of beta 9, cut off at 0.97 of the lower Nyquist frequency.
class Filter {
 public:
  explicit Filter(int rate_hz) {
    const int divisor = std::gcd(rate_hz, model_rate_hz);
    up = model_rate_hz / divisor;
    down = rate_hz / divisor;
    bandwidth_ = std::min(1.0, 0.97 * static_cast<double>(up) / static_cast<double>(down));
    side = static_cast<std::int64_t>(std::ceil(std::ceil(32.0 / bandwidth_) / 2.0));
    if (up == down) return;
    double scale = 0.0;
    for (std::int64_t tap = 0; tap < 2 * side; ++tap) scale += unscaled(tap, 0.0);
    taps_.resize(static_cast<std::size_t>(up * 2 * side));
    for (std::int64_t phase = 0; phase < up; ++phase)
      for (std::int64_t tap = 0; tap < 2 * side; ++tap)
        taps_[static_cast<std::size_t>(phase * 2 * side + tap)] =
            static_cast<float>(unscaled(tap, static_cast<double>(phase) / static_cast<double>(up)) / scale);
  }

  const float* taps(std::int64_t phase) const { return taps_.data() + phase * 2 * side; }

  std::int64_t up = 1, down = 1, side = 0;  // side: taps on each side of a sample of the result

 private:
  double unscaled(std::int64_t tap, double delay) const {
    const double distance = static_cast<double>(tap + 1 - side) - delay;
    const double share = distance / static_cast<double>(side);
    const double angle = pi * distance * bandwidth_;
    const double sinc = angle == 0.0 ? 1.0 : std::sin(angle) / angle;
    return sinc * bessel_i0(9.0 * std::sqrt(std::max(0.0, 1.0 - share * share)));
  }

  double bandwidth_ = 1.0;
  std::vector<float> taps_;
};

// The filter of a rate, computed once: an app has one or two rates.
inline std::shared_ptr<const Filter> filter_of(int rate_hz) {
  if (rate_hz < lowest_rate_hz || rate_hz > highest_rate_hz)
    fail(ErrorKind::data, "sample rate ", rate_hz, " must be an integer from ", lowest_rate_hz, " to ", highest_rate_hz,
         " (Hz)");
  static std::mutex mutex;
  static std::map<int, std::shared_ptr<const Filter>> filters;
  const std::lock_guard<std::mutex> lock(mutex);
  if (filters.size() > 8) filters.clear();
  auto& filter = filters[rate_hz];
  if (!filter) filter = std::make_shared<const Filter>(rate_hz);
  return filter;
}

// The sample at any place: before the start the sound mirrors what follows, without the first sample twice.
inline float mirrored(const std::vector<float>& sound, std::int64_t place) {
  const auto length = static_cast<std::int64_t>(sound.size());
  if (place >= length) place = 2 * length - 1 - place;  // after the end what precedes it, the last sample twice
  if (place < 0) {
    const std::int64_t period = std::max<std::int64_t>(1, 2 * (length - 1));
    place = -place % period;
    if (place >= length) place = period - place;
  }
  return sound[static_cast<std::size_t>(place)];
}

// Samples of the result that the whole of a sound gives, as ffmpeg does: it may be one less than the rates say.
inline std::int64_t resampled_length(const Filter& filter, std::int64_t given) {
  const auto until = [&](std::int64_t position) { return (position * filter.up + filter.down - 1) / filter.down; };
  const std::int64_t decided = given < filter.side ? 0 : std::max<std::int64_t>(0, until(given - filter.side));
  const std::int64_t held = given - decided * filter.down / filter.up + filter.side - 1;
  const std::int64_t added = (std::min(2 * filter.side, held) + 1) / 2;
  return std::max(decided, until(std::max<std::int64_t>(1, given - filter.side + added)));
}

// Any waveform -> at most `samples` samples of 16 kHz mono, from its start.
inline std::vector<float> resample(const Waveform& waveform, int rate_hz, bool left, std::size_t samples) {
  waveform.check();
  const std::shared_ptr<const Filter> filter = filter_of(rate_hz);
  if (filter->up == filter->down) return waveform.mono(left, samples);
  const auto given = static_cast<std::int64_t>(waveform.samples());
  const std::int64_t count = std::min(static_cast<std::int64_t>(samples), resampled_length(*filter, given));
  // Nothing is read that no wanted sample sees.
  const std::int64_t needed = count * filter->down / filter->up + filter->side + 1;
  const std::vector<float> sound = waveform.mono(left, static_cast<std::size_t>(std::min(given, needed)));
  std::vector<float> result(static_cast<std::size_t>(count));
  const std::int64_t width = 2 * filter->side;
  for (std::int64_t n = 0; n < count; ++n) {
    const std::int64_t start = n * filter->down / filter->up - (filter->side - 1);
    const float* taps = filter->taps(n * filter->down % filter->up);
    float sum = 0.0f;
    if (start >= 0 && start + width <= static_cast<std::int64_t>(sound.size())) {
      const float* seen = sound.data() + start;
      for (std::int64_t tap = 0; tap < width; ++tap) sum += seen[tap] * taps[tap];
    } else {
      for (std::int64_t tap = 0; tap < width; ++tap) sum += mirrored(sound, start + tap) * taps[tap];
    }
    result[static_cast<std::size_t>(n)] = sum;
  }
  return result;
}

// In-place radix-2 transform of `fft_length` values.
inline void fft(std::vector<std::complex<double>>& values) {
  static const std::vector<std::complex<double>> turns = [] {
    std::vector<std::complex<double>> roots(fft_length / 2);
    for (std::size_t k = 0; k < roots.size(); ++k)
      roots[k] = std::polar(1.0, -2.0 * pi * static_cast<double>(k) / static_cast<double>(fft_length));
    return roots;
  }();
  for (std::size_t i = 1, j = 0; i < fft_length; ++i) {
    std::size_t bit = fft_length >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) std::swap(values[i], values[j]);
  }
  for (std::size_t length = 2; length <= fft_length; length *= 2)
    for (std::size_t start = 0; start < fft_length; start += length)
      for (std::size_t k = 0; k < length / 2; ++k) {
        const std::complex<double> even = values[start + k];
        const std::complex<double> odd = values[start + k + length / 2] * turns[k * (fft_length / length)];
        values[start + k] = even + odd;
        values[start + k + length / 2] = even - odd;
      }
}

inline double mel_of(double frequency_hz) { return 1127.0 * std::log1p(frequency_hz / 700.0); }

// (257, 128) triangles of the HTK mel scale from 20 Hz to 8 kHz.
inline const std::vector<double>& mel_triangles() {
  static const std::vector<double> triangles = [] {
    const double low = mel_of(20.0), step = (mel_of(8000.0) - low) / static_cast<double>(mel_bins + 1);
    std::vector<double> weights((fft_length / 2 + 1) * mel_bins);
    for (std::size_t bin = 0; bin <= fft_length / 2; ++bin) {
      const double position = mel_of(static_cast<double>(bin) * model_rate_hz / static_cast<double>(fft_length));
      for (std::size_t mel = 0; mel < mel_bins; ++mel) {
        const double left = low + step * static_cast<double>(mel);
        const double rising = (position - left) / step, falling = (left + 2.0 * step - position) / step;
        weights[bin * mel_bins + mel] = std::max(0.0, std::min(rising, falling));
      }
    }
    return weights;
  }();
  return triangles;
}

// Kaldi's log-mel filterbank of 16 kHz mono: (frames, 128), neither normalised nor padded.
inline std::vector<float> fbank(const std::vector<float>& sound) {
  const std::size_t frames = 1 + (sound.size() - frame_length) / frame_shift;
  std::vector<float> features(frames * mel_bins);
  std::vector<std::complex<double>> spectrum(fft_length);
  const std::vector<double>& triangles = mel_triangles();
  for (std::size_t frame = 0; frame < frames; ++frame) {
    const float* samples = sound.data() + frame * frame_shift;
    const double mean = std::accumulate(samples, samples + frame_length, 0.0) / static_cast<double>(frame_length);
    for (std::size_t i = 0; i < fft_length; ++i) spectrum[i] = 0.0;
    for (std::size_t i = 0; i < frame_length; ++i) {
      const double emphasised = (samples[i] - mean) - 0.97 * (samples[i == 0 ? 0 : i - 1] - mean);
      const double angle = 2.0 * pi * static_cast<double>(i) / static_cast<double>(frame_length - 1);
      spectrum[i] = emphasised * (0.5 - 0.5 * std::cos(angle));
    }
    fft(spectrum);
    double energies[mel_bins] = {};
    for (std::size_t bin = 0; bin <= fft_length / 2; ++bin) {
      const double power = std::norm(spectrum[bin]);
      for (std::size_t mel = 0; mel < mel_bins; ++mel) energies[mel] += power * triangles[bin * mel_bins + mel];
    }
    for (std::size_t mel = 0; mel < mel_bins; ++mel)
      features[frame * mel_bins + mel] = static_cast<float>(
          std::log(std::max(energies[mel], static_cast<double>(std::numeric_limits<float>::epsilon()))));
  }
  return features;
}

}  // namespace detail
}  // namespace kdcmae
