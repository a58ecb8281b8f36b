// Does an engine compute here what its model computes? The same questions as the Python package's self-test.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "feeding.hpp"
#include "golden.hpp"
#include "metrics.hpp"

namespace kdcmae {

struct SelfTest {
  std::map<std::string, double> max_error;  // per output, relative to the largest value of a sample's reference
  std::map<std::string, double> tolerance;  // per output, the largest error allowed
  std::vector<std::string> problems;        // what differs by more than is allowed, in words
  std::size_t clips = 0, decided = 0;       // that went through classify(), and those that must keep their class

  bool passed() const {
    return problems.empty() && std::all_of(max_error.begin(), max_error.end(), [this](const auto& found) {
             return std::isfinite(found.second) && found.second <= tolerance.at(found.first);
           });
  }

  // What differs, or how exactly the engine computes.
  std::string text() const {
    if (!problems.empty()) return separated(problems);
    std::vector<std::string> parts;
    for (const auto& [name, error] : max_error)
      parts.push_back(name + " differs by " + detail::scientific(error, 1) + " of its largest value, allowed " +
                      detail::scientific(tolerance.at(name), 0));
    if (clips)
      parts.push_back(detail::text(clips, " clips as an app has them",
                                   decided ? detail::text(", ", decided, " keep their class") : ""));
    return separated(parts);
  }

 private:
  static std::string separated(const std::vector<std::string>& parts) {
    std::string result;
    for (const std::string& part : parts) result += (result.empty() ? "" : "; ") + part;
    return result;
  }
};

namespace detail {

// What the self-test needs of an engine or a variant of it.
struct Tested {
  const Manifest& manifest;
  std::string variant;
  std::function<Arrays(const Arrays&)> infer;
  std::map<std::string, int> products;  // as they execute here
  bool same_libraries;                  // as where it was built
  bool own_device;                      // that of the manifest
};

// Logits that have these scores: of a softmax but for a constant, and finite where a score is 0 or 1.
inline Row log_odds(const Row& likelihood, const std::string& kind) {
  Row result;
  for (const double value : likelihood) {
    const double bounded = std::clamp(value, std::numeric_limits<double>::min(), 1.0 - std::pow(2.0, -53));
    result.push_back(std::log(bounded) - (kind == "sigmoid" ? std::log1p(-bounded) : 0.0));
  }
  return result;
}

// An output as it is compared: logits through their scores.
inline Rows comparable(const Array& output, const std::string& kind) {
  Rows rows = rows_of(output);
  for (Row& row : rows)
    if (kind != "features" && all_finite(row)) row = log_odds(scores_of(row, kind), kind);
  return rows;
}

inline std::string kind_of(const Manifest& manifest, const std::string& output) {
  return !manifest.labels.empty() && output == manifest.outputs[0].name ? manifest.scores : "features";
}

// Whether no output within the limits gives a clip another first class.
inline bool is_decided(const Row& logits, const Limits& limits) {
  if (logits.size() < 2) return true;
  const Row centred = moved(logits, mean_of(logits));
  const double length = spread_of(centred) * std::sqrt(static_cast<double>(centred.size()));
  const double by_error = 2.0 * limits.tolerance() * std::max(largest_of(centred), flat);
  const double turned =
      std::sqrt(2.0 * std::max(1.0 - limits.min_cosine * limits.min_cosine, 0.0)) * std::hypot(length, flat);
  Row sorted(logits);
  std::sort(sorted.rbegin(), sorted.rend());
  return sorted[0] - sorted[1] > std::min(by_error, turned);
}

inline std::size_t best_of(const Row& row) {
  return static_cast<std::size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

// The limits of a batch of stored inputs, half of which may be such samples as the limits let a few be.
inline Limits but_for_outliers(const Limits& limits, std::size_t samples) {
  if (limits.outliers == 0.0) return limits;
  Limits loose;
  loose.min_cosine = samples > 1 ? limits.min_cosine : -1.0;
  loose.outliers = 0.5;
  loose.tie = limits.tie;
  return loose;
}

// The largest error of an output; what is out of the limits is added to the problems.
inline double held(const Rows& ours, const Rows& reference, const std::string& kind, const Limits& limits,
                   const std::string& name, std::vector<std::string>& problems, const std::string& before = "") {
  const Comparison compared = compare(ours, reference, kind, limits.tie);
  const bool finite = std::isfinite(compared.error());
  const std::string problem =
      finite ? problem_of(compared, limits, name, kind) : name + ": not finite, or not of the shape of its reference";
  if (!problem.empty()) problems.push_back(before + problem);
  return finite ? compared.error() : infinity;
}

// What an app gets for the clips, by output; rows that are not finite where the engine gave none.
inline std::map<std::string, Rows> outputs_of_clips(const Tested& tested, const Clips& clips,
                                                    std::vector<std::string>& problems) {
  const Manifest& manifest = tested.manifest;
  if (clips.labels != manifest.labels) problems.push_back("the labels are not the model's");
  std::map<std::string, Rows> found;
  for (std::size_t number = 0; number < clips.size(); ++number) {
    Waveform waveform;
    Frame frame;
    if (clips.waveforms) {
      const auto length = static_cast<std::size_t>(clips.waveforms->shape()[1]);
      waveform = Waveform(clips.waveforms->data<std::int16_t>() + number * length, length);
    }
    if (clips.frames) {
      const std::int64_t height = clips.frames->shape()[1], width = clips.frames->shape()[2];
      frame = {clips.frames->data<std::uint8_t>() + static_cast<std::int64_t>(number) * height * width * 3, height, width};
    }
    try {
      Arrays feed = inputs_of(manifest, waveform, model_rate_hz, frame);
      for (auto& [name, array] : feed) array = array.repeated(static_cast<std::size_t>(manifest.batch.min));
      const Arrays results = tested.infer(feed);
      for (const TensorSpec& spec : manifest.outputs)
        found[spec.name].push_back(comparable(results.at(spec.name), kind_of(manifest, spec.name))[0]);
    } catch (const Error& error) {
      problems.push_back(text("clip ", number + 1, ": ", error.what()));
      for (const TensorSpec& spec : manifest.outputs) found[spec.name].push_back({std::nan("")});
    }
  }
  return found;
}

// The test of folders that have no clips.
inline void by_largest_value(const Tested& tested, const Golden& golden, const Arrays& results, SelfTest& test) {
  for (const auto& [output, result] : results) {
    const Row ours = result.wide(), reference = golden.reference.at(output).wide();
    const std::string name = file_name(output, tested.variant);
    double error = infinity;
    if (result.shape() == golden.reference.at(output).shape() && all_finite(ours)) {
      double apart = 0.0;
      for (std::size_t i = 0; i < ours.size(); ++i) apart = std::max(apart, std::abs(ours[i] - reference[i]));
      error = apart / (largest_of(reference) ? largest_of(reference) : 1.0);
    }
    test.max_error[name] = error;
    test.tolerance[name] = golden.tolerance.at(output);
    if (!(error <= golden.tolerance.at(output)))
      test.problems.push_back(name + " differs by " + scientific(error, 1) + " of its largest value, allowed " +
                              scientific(golden.tolerance.at(output), 0));
  }
}

inline void check_classes(const Rows& found, const Clips& clips, const Array& reference, const Limits& limits,
                          SelfTest& test) {
  const Rows wanted = rows_of(reference);
  for (std::size_t number = 0; number < wanted.size(); ++number) {
    if (!is_decided(wanted[number], limits)) continue;
    ++test.decided;
    if (!all_finite(found[number])) continue;
    const std::size_t ours = best_of(found[number]), theirs = best_of(wanted[number]);
    if (ours != theirs && ours < clips.labels.size() && theirs < clips.labels.size())
      test.problems.push_back(text("clip ", number + 1, " is '", clips.labels[theirs], "' by the model, here '",
                                   clips.labels[ours], "'"));
  }
}

// Tests an engine, or a variant of it, and adds what it found.
inline void examine(const Tested& tested, const Golden& golden, SelfTest& test) {
  const Manifest& manifest = tested.manifest;
  const Arrays results = tested.infer(golden.inputs);
  if (!golden.clips) return by_largest_value(tested, golden, results, test);
  const Clips& clips = *golden.clips;
  const Limits& limits = clips.limits_of_executed(tested.products);
  const Limits* again =
      tested.own_device ? clips.limits_of_repeating(tested.products, this_cpu(), tested.same_libraries) : nullptr;
  const std::map<std::string, Rows> found = outputs_of_clips(tested, clips, test.problems);
  test.clips += clips.size();
  for (const TensorSpec& spec : manifest.outputs) {
    const std::string name = file_name(spec.name, tested.variant), kind = kind_of(manifest, spec.name);
    const Rows reference = comparable(golden.reference.at(spec.name), kind);
    const double stored = held(comparable(results.at(spec.name), kind), reference, kind,
                               but_for_outliers(limits, reference.size()), name + " of the stored inputs", test.problems);
    const Rows& ours = found.at(spec.name);
    const double clip = held(ours, comparable(clips.reference.at(spec.name), kind), kind, limits,
                             name + " of the clips", test.problems);
    test.max_error[name] = std::max(clip, limits.outliers == 0.0 || !std::isfinite(stored) ? stored : 0.0);
    test.tolerance[name] = limits.tolerance();
    const auto built = clips.built.find(spec.name);
    if (again != nullptr && built != clips.built.end())
      held(ours, rows_of(built->second), kind, *again, name + " of the clips", test.problems,
           "it gave something else where it was built: ");
  }
  const std::string& logits = manifest.outputs[0].name;
  if (!clips.labels.empty()) check_classes(found.at(logits), clips, clips.reference.at(logits), limits, test);
}

}  // namespace detail
}  // namespace kdcmae
