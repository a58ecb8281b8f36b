// What the engine libraries share: their interface, and the checks that each gets the same way.
#pragma once

#include <algorithm>
#include <cctype>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "array.hpp"
#include "cpu.hpp"
#include "error.hpp"
#include "manifest.hpp"

namespace kdcmae::detail {

// A loaded engine of one library; calls may come from several threads at once.
class Backend {
 public:
  virtual ~Backend() = default;
  // Runs checked inputs; the outputs are float32.
  virtual Arrays infer(const Arrays& feed) = 0;
  // Matrix products by the precision that they execute in, as far as the library tells at once.
  virtual std::map<std::string, int> products() const { return {}; }
  // Release of the library, without its build.
  virtual std::string version() const = 0;
};

struct BackendOptions {
  std::string device;  // empty for the manifest's
  int threads = 0;     // 0 for what the manifest says, or the library's choice
};

// Element type, and axis sizes with -1 for a free one.
struct TensorType {
  std::string dtype;
  std::vector<std::int64_t> shape;
};

inline std::vector<int> release_of(const std::string& version) {
  std::vector<int> parts;
  for (std::size_t place = 0; parts.size() < 3 && place < version.size();) {
    const std::size_t end = std::min(version.find_first_not_of("0123456789", place), version.size());
    if (end == place || end - place > 9) break;
    parts.push_back(std::stoi(version.substr(place, end - place)));
    if (end == version.size() || version[end] != '.') break;
    place = end + 1;
  }
  if (parts.empty()) fail(ErrorKind::engine, "'", version, "' is not a library version", rebuild);
  parts.resize(3);
  return parts;
}

// For formats that every later release reads.
inline void require_same_or_newer(const Manifest& manifest, const std::string& library, const std::string& installed) {
  const auto built = manifest.libraries.find(library);
  if (built == manifest.libraries.end()) fail(ErrorKind::engine, "manifest field libraries.", library, " is missing", rebuild);
  if (release_of(installed) < release_of(built->second))
    fail(ErrorKind::version, "the engine was built with ", library, " ", built->second, ", installed is the older ",
         installed, "; rebuild it here with kdcmae-compile, or install ", built->second, " or newer");
}

inline int engine_threads(const Manifest& manifest, int threads) {
  if (threads < 0)
    fail(ErrorKind::config, "threads=", threads,
         " must be a positive whole number; leave it out for the library's choice");
  if (threads > 0) return threads;
  const auto said = manifest.engine.find("threads");
  if (said == manifest.engine.end() || said->is_null()) return 0;
  require(is_count(*said) && said->get<std::int64_t>() < (1 << 20), "engine.threads", "a positive whole number", *said);
  return said->get<int>();
}

inline std::string device_of(const Manifest& manifest, const BackendOptions& options) {
  std::string device = options.device.empty() ? manifest.engine.value("device", "CPU") : options.device;
  std::transform(device.begin(), device.end(), device.begin(), [](unsigned char c) { return std::toupper(c); });
  return device;
}

// Compares the tensors that the engine file really has with those that the manifest promises.
inline void check_tensors(const Manifest& manifest, const std::vector<TensorSpec>& promised,
                          const std::map<std::string, TensorType>& actual, const std::string& role) {
  const std::string file = manifest.engine.at("file");
  std::vector<std::string> names, wanted;
  for (const auto& [name, type] : actual) names.push_back(name);
  for (const TensorSpec& spec : promised) wanted.push_back(spec.name);
  std::sort(wanted.begin(), wanted.end());
  if (names != wanted)
    fail(ErrorKind::engine, file, " has the ", role, "s ", joined(names), ", but the manifest says ", joined(wanted),
         rebuild);
  for (const TensorSpec& spec : promised) {
    const TensorType& type = actual.at(spec.name);
    bool fits = type.dtype == spec.dtype && type.shape.size() == spec.shape.size();
    for (std::size_t axis = 0; fits && axis < spec.shape.size(); ++axis) {
      const std::int64_t found = type.shape[axis], size = spec.shape[axis];
      const bool one_batch = size == TensorSpec::batch && manifest.batch.min == manifest.batch.max;
      fits = found < 0 || found == size || (one_batch && found == manifest.batch.min);
    }
    if (!fits)
      fail(ErrorKind::engine, role, " ", spec.name, " of ", file, " is ", type.dtype, " ", in_brackets(type.shape),
           ", which is not what the manifest says", rebuild);
  }
}

}  // namespace kdcmae::detail
