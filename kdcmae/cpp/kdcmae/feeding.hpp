// From a clip, or from what a caller gave, to exactly the arrays that an engine takes.
#pragma once

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "array.hpp"
#include "manifest.hpp"
#include "picture.hpp"
#include "sound.hpp"

namespace kdcmae::detail {

constexpr std::int64_t smallest_side = 16, largest_side = 1920;

inline bool made_of_sound(const std::string& input) {
  return input == "audio" || input == "waveform" || input == "samples";
}
inline bool made_of_picture(const std::string& input) { return input == "image" || input == "frame"; }

// (1, audio_frames, 128) float32, normalised; what the sound does not fill is silence.
inline Array prepare_audio(const std::vector<float>& sound, const Preprocessing& facts) {
  const std::vector<float> features = fbank(sound);
  Array audio("float32", {1, facts.audio_frames, static_cast<std::int64_t>(mel_bins)});
  float* values = audio.data<float>();
  for (std::size_t i = 0; i < audio.size(); ++i)
    values[i] = ((i < features.size() ? features[i] : 0.0f) - facts.fbank_mean) / facts.fbank_std;
  return audio;
}

// The inputs of one clip, each of one row.
inline Arrays inputs_of(const Manifest& manifest, const Waveform& waveform, int rate_hz, const Frame& frame) {
  Arrays feed;
  const Preprocessing& facts = manifest.preprocessing;
  std::vector<float> sound;
  for (const TensorSpec& spec : manifest.inputs) {
    if (made_of_sound(spec.name)) {
      if (!waveform.given()) fail(ErrorKind::input, "input ", spec.name, " needs a waveform, got none");
      if (sound.empty()) sound = resample(waveform, rate_hz, facts.left, facts.audio_samples());
      if (sound.size() < frame_length)
        fail(ErrorKind::data, "waveform of ", sound.size(),
             " samples at 16 kHz is too short: the filterbank needs ", frame_length);
      if (spec.name == "audio") {
        feed[spec.name] = prepare_audio(sound, facts);
      } else if (spec.name == "samples") {
        const auto count = static_cast<std::int32_t>(sound.size());
        feed[spec.name] = Array::of(&count, {1});
      } else {
        Array room("float32", {1, static_cast<std::int64_t>(facts.audio_samples())});
        std::memcpy(room.bytes(), sound.data(), sound.size() * sizeof(float));
        feed[spec.name] = std::move(room);
      }
    } else if (made_of_picture(spec.name)) {
      if (!frame.given()) fail(ErrorKind::input, "input ", spec.name, " needs a frame, got none");
      check_frame(frame);
      feed[spec.name] = spec.name == "image" ? prepare_image(frame, facts)
                                             : Array::of(frame.rgb, {1, frame.height, frame.width, 3});
    } else {
      fail(ErrorKind::input, "the engine takes ", spec.name, ", which no clip becomes; use infer()");
    }
  }
  return feed;
}

inline std::vector<std::string> names_of(const std::vector<TensorSpec>& specs) {
  std::vector<std::string> names;
  for (const TensorSpec& spec : specs) names.push_back(spec.name);
  return names;
}

// Those that a caller must give: `samples` is added.
inline std::set<std::string> needed(const std::vector<std::string>& names) {
  std::set<std::string> result(names.begin(), names.end());
  result.erase("samples");
  return result;
}

// Fills up a waveform that is shorter than its input, and says in `samples` how much of it is sound.
inline Arrays completed(Arrays feed, const Manifest& manifest) {
  const auto given = feed.find("waveform");
  for (const TensorSpec& spec : manifest.inputs) {
    if (spec.name != "waveform" || spec.shape.size() != 2 || given == feed.end()) continue;
    const Array& sound = given->second;
    if (sound.dtype() != "float32" || sound.shape().size() != 2) continue;
    const std::int64_t batch = sound.shape()[0], length = sound.shape()[1], room = spec.shape[1];
    if (!feed.count("samples")) {
      const std::vector<std::int32_t> counts(static_cast<std::size_t>(batch), static_cast<std::int32_t>(length));
      feed["samples"] = Array::of(counts.data(), {batch});
    }
    if (length < room) {
      Array padded("float32", {batch, room});
      for (std::int64_t row = 0; row < batch; ++row)
        std::memcpy(padded.data<float>() + row * room, sound.data<float>() + row * length,
                    static_cast<std::size_t>(length) * sizeof(float));
      feed["waveform"] = std::move(padded);
    }
  }
  return feed;
}

inline void check_array(const Array& array, const TensorSpec& spec) {
  if (array.dtype() != spec.dtype)
    fail(ErrorKind::input, "input ", spec.name, " must be ", spec.dtype, ", got ", array.dtype());
  if (array.shape().size() != spec.shape.size())
    fail(ErrorKind::input, "input ", spec.name, " must have ", spec.shape.size(), " axes, got ", array.shape().size(),
         " axes ", in_brackets(array.shape()));
  for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
    const std::int64_t size = array.shape()[axis], wanted = spec.shape[axis];
    if (wanted == TensorSpec::side && (size < smallest_side || size > largest_side))
      fail(ErrorKind::input, "axis ", axis, " of input ", spec.name, " must be ", smallest_side, " to ", largest_side,
           ", got ", size, "; resize the frame first");
    if (wanted >= 0 && size != wanted)
      fail(ErrorKind::input, "axis ", axis, " of input ", spec.name, " must be ", wanted, ", got ", size);
  }
}

// Refuses what the engine does not take.
inline void check_feed(const Arrays& feed, const Manifest& manifest) {
  const std::vector<std::string> names = names_of(manifest.inputs);
  for (const auto& [name, array] : feed)
    if (std::find(names.begin(), names.end(), name) == names.end())
      fail(ErrorKind::input, "unexpected input '", name, "'; the engine takes ", joined(names));
  std::int64_t batch = 0;
  for (const TensorSpec& spec : manifest.inputs) {
    const auto given = feed.find(spec.name);
    if (given == feed.end())
      fail(ErrorKind::input, "input ", spec.name, " is missing; the engine takes ", joined(names),
           "; to leave it out, rebuild the engine with --modalities");
    check_array(given->second, spec);
    if (spec.shape[0] != TensorSpec::batch) continue;
    const std::int64_t size = given->second.shape()[0];
    if (batch != 0 && size != batch) fail(ErrorKind::input, "all inputs must have one batch size, got ", batch, " and ", size);
    batch = size;
    if (size < manifest.batch.min || size > manifest.batch.max)
      fail(ErrorKind::input, "input ", spec.name, " has batch size ", size, ", the engine takes ", manifest.batch.min,
           " to ", manifest.batch.max, "; rebuild it with --batch for more");
  }
  const auto samples = feed.find("samples"), waveform = feed.find("waveform");
  if (samples == feed.end() || waveform == feed.end() || waveform->second.shape().size() != 2) return;
  // Values are checked here because no engine would: they only decide where the padding starts.
  const std::int64_t room = waveform->second.shape()[1];
  for (std::size_t row = 0; row < samples->second.size(); ++row) {
    const std::int64_t count = samples->second.data<std::int32_t>()[row];
    if (count < static_cast<std::int64_t>(frame_length) || count > room)
      fail(ErrorKind::input, "input samples must be ", frame_length, " to ", room, ", the length of waveform; got ", count);
  }
}

// Refuses outputs of other sizes than the manifest says: a graph may leave the sizes of its outputs open.
inline void check_outputs(const Arrays& outputs, const Arrays& feed, const Manifest& manifest) {
  std::int64_t batch = 0;
  for (const TensorSpec& spec : manifest.inputs)
    if (spec.shape[0] == TensorSpec::batch) batch = feed.at(spec.name).shape()[0];
  for (const TensorSpec& spec : manifest.outputs) {
    const std::vector<std::int64_t>& found = outputs.at(spec.name).shape();
    bool fits = found.size() == spec.shape.size();
    for (std::size_t axis = 0; fits && axis < found.size(); ++axis)
      fits = found[axis] == (spec.shape[axis] == TensorSpec::batch && batch > 0 ? batch : spec.shape[axis]);
    if (!fits)
      fail(ErrorKind::engine, "output ", spec.name, " has the shape ", in_brackets(found),
           ", which is not what the manifest says", rebuild);
  }
}

}  // namespace kdcmae::detail
