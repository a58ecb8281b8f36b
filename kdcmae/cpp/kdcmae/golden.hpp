// golden.npz: what an engine is tested with on a device.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backend.hpp"
#include "files.hpp"
#include "manifest.hpp"
#include "metrics.hpp"
#include "npz.hpp"

namespace kdcmae::detail {

// Clips as an app has them, and what the model makes of them.
struct Clips {
  std::optional<Array> waveforms;  // (N, S) int16, mono at 16 kHz
  std::optional<Array> frames;     // (N, H, W, 3) uint8
  Arrays reference, built;         // (N, ...) by output: of the model, and of the engine where it was built
  std::vector<std::string> labels, precisions;
  std::vector<std::pair<std::string, Limits>> limits;  // of every precision, the narrowest first
  std::map<std::string, int> products;                 // as they executed where it was built
  std::string cpu_class;                               // of the processor there

  std::size_t size() const { return reference.begin()->second.rows(); }

  const Limits& limits_named(const std::string& precision) const {
    for (const auto& [name, found] : limits)
      if (name == precision) return found;
    throw BadArchive("it has no limits of " + precision);
  }

  // The widest limits of the precisions that the engine is held to and of those that execute.
  const Limits& limits_of_executed(const std::map<std::string, int>& executed) const {
    const Limits* widest = nullptr;
    for (const auto& [name, found] : limits)
      if (std::count(precisions.begin(), precisions.end(), name) || executed.count(name)) widest = &found;
    return *widest;
  }

  // How closely the engine must give again what it gave where it was built; null where that says nothing. One release
  // of a library executes an engine alike on processors of one class.
  const Limits* limits_of_repeating(const std::map<std::string, int>& executed, const Cpu& cpu, bool same_libraries) const {
    if (built.empty() || executed != products) return nullptr;
    for (const CpuClass& known : cpu_classes()) {
      if (known.name != cpu_class) continue;
      if (cpu_class == cpu.class_name() && same_libraries) return &limits_named("fp16");
      if (known.machine == cpu.machine) return &limits_named("bf16");
    }
    return nullptr;
  }
};

struct Golden {
  Arrays inputs, reference;
  std::map<std::string, double> tolerance;
  std::optional<Clips> clips;  // none in a folder that was built before there were any
};

inline Clips clips_of(const Npz& arrays, const Manifest& manifest) {
  const Json facts = parsed(arrays.string("facts"));
  Clips clips;
  if (arrays.has("clip.waveform")) clips.waveforms = arrays.array("clip.waveform");
  if (arrays.has("clip.frame")) clips.frames = arrays.array("clip.frame");
  for (const TensorSpec& spec : manifest.outputs) {
    clips.reference[spec.name] = arrays.array("clip.output." + spec.name);
    if (arrays.has("clip.built." + spec.name)) clips.built[spec.name] = arrays.array("clip.built." + spec.name);
  }
  clips.labels = facts.at("labels").get<std::vector<std::string>>();
  clips.precisions = facts.at("precisions").get<std::vector<std::string>>();
  clips.products = facts.at("products").get<std::map<std::string, int>>();
  clips.cpu_class = facts.at("cpu_class").get<std::string>();
  // The order matters, and nlohmann's plain objects do not keep it.
  const auto ordered = parsed<nlohmann::ordered_json>(arrays.string("facts"));
  for (const auto& [name, limits] : ordered.at("limits").items()) clips.limits.emplace_back(name, limits_of(Json(limits)));
  std::set<std::size_t> counts;
  for (const auto& [name, array] : clips.reference) counts.insert(array.rows());
  for (const auto* raw : {&clips.waveforms, &clips.frames})
    if (raw->has_value()) counts.insert((*raw)->rows());
  if (counts.size() != 1 || *counts.begin() == 0) throw BadArchive("its arrays hold several numbers of clips, or none");
  const bool sound = !clips.waveforms || (clips.waveforms->dtype() == "int16" && clips.waveforms->shape().size() == 2);
  const bool picture = !clips.frames || (clips.frames->dtype() == "uint8" && clips.frames->shape().size() == 4 &&
                                         clips.frames->shape()[3] == 3);
  if (!sound || !picture) throw BadArchive("its clips are neither 16-bit sound nor 8-bit pictures");
  for (const char* needed : {"fp16", "bf16"}) clips.limits_named(needed);
  for (const std::string& precision : clips.precisions) clips.limits_named(precision);
  if (clips.precisions.empty()) throw BadArchive("it names no precision");
  return clips;
}

inline Golden read_golden(const std::filesystem::path& path, const Manifest& manifest) {
  const std::string name = path.filename().string();
  const auto digest = manifest.files.find(name);
  if (digest == manifest.files.end())
    fail(ErrorKind::engine, path.parent_path().string(), " has no ", name,
         " to test with; rebuild the engine with kdcmae-compile");
  const std::string content = content_of(path);
  if (sha256(content) != digest->second)
    fail(ErrorKind::integrity, path.string(), " has changed since the engine was loaded; load it again");
  try {
    const Npz arrays(content);
    Golden golden;
    for (const TensorSpec& spec : manifest.inputs) golden.inputs[spec.name] = arrays.array("input." + spec.name);
    for (const TensorSpec& spec : manifest.outputs) {
      golden.reference[spec.name] = arrays.array("output." + spec.name);
      golden.tolerance[spec.name] = arrays.array("tolerance." + spec.name).wide().at(0);
    }
    if (arrays.has("facts")) golden.clips = clips_of(arrays, manifest);
    return golden;
  } catch (const std::exception& error) {
    fail(ErrorKind::engine, path.string(), " is not a self-test of this engine: ", error.what(), "; rebuild the engine");
  }
}

}  // namespace kdcmae::detail
