// kdcmae: runs an engine folder of kdcmae-compile inside a C++17 app.
//
//   #include <kdcmae.hpp>
//
//   kdcmae::Engine engine("out/openvino");
//   if (!engine.self_test().passed()) return 1;
//   for (const auto& [label, score] : engine.classify(samples, 48000, {pixels, height, width}))
//     std::cout << label << " " << score << "\n";
//
// Engines of OpenVINO need KDCMAE_OPENVINO defined and OpenVINO's headers and library; engines of ONNX Runtime need
// KDCMAE_ONNXRUNTIME defined, and find the library at run time. The CMake targets kdcmae::openvino and
// kdcmae::onnxruntime do that. Both need nlohmann-json and zlib.
//
// What goes wrong is a kdcmae::Error. Digests tell a damaged folder from a whole one before a library reads it; they do
// not prove who made it: load engines from sources that you trust.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kdcmae/array.hpp"
#include "kdcmae/backend.hpp"
#include "kdcmae/error.hpp"
#include "kdcmae/feeding.hpp"
#include "kdcmae/manifest.hpp"
#include "kdcmae/picture.hpp"
#include "kdcmae/selftest.hpp"
#include "kdcmae/sound.hpp"
#ifdef KDCMAE_OPENVINO
#include "kdcmae/openvino.hpp"
#endif
#ifdef KDCMAE_ONNXRUNTIME
#include "kdcmae/onnxruntime.hpp"
#endif

namespace kdcmae {

// One class of a clip and its score: a probability.
struct Prediction {
  std::string label;
  double score = 0.0;
};

struct Options {
  std::string device = "";  // another one than the engine was compiled for, in the library's own words
  int threads = 0;          // CPU threads; 0 for what the manifest says, or else the library's choice
};

// A compiled model on its device.
//
// An engine may have variants: the same model for a clip without sound or without picture. They are loaded when they are
// first needed, and infer() and classify() take the one that fits what they are given. Threads may share one engine:
// their calls run at the same time.
class Engine {
 public:
  // Loads an engine folder, after checking every file in it.
  explicit Engine(const std::filesystem::path& folder, const Options& options = {})
      : folder_(folder), options_{options.device, options.threads} {
    manifests_[""] = detail::read_manifest(folder_);
    const detail::Identities before = state();
    detail::verify_files(folder_, manifest());
    for (const std::string& variant : manifest().variants) manifests_[variant] = detail::read_manifest(folder_, variant);
    backend("");
    // Libraries open their files by path, so that a folder which was replaced meanwhile may have given files of two.
    if (state() != before) detail::fail(ErrorKind::engine, folder_.string(), " was replaced while it was loaded; load it again");
  }

  const Manifest& manifest() const { return manifests_.at(""); }
  // Class names, in the order of the logits.
  const std::vector<std::string>& labels() const { return manifest().labels; }

  // Runs one batch.
  //   feed: one array per input of the manifest, or of a variant's, of exactly its type and shape. A `waveform` may be
  //     shorter than its input, and comes with `samples` or counts as sound from end to end.
  // Returns one float32 array per output.
  Arrays infer(const Arrays& feed) {
    std::vector<std::string> names;
    for (const auto& [name, array] : feed) names.push_back(name);
    const std::string variant = fitting([&](const Manifest& manifest) {
      return detail::needed(detail::names_of(manifest.inputs)) == detail::needed(names);
    });
    return infer_variant(variant, feed);
  }

  // Labels one clip.
  //   waveform: without samples for an engine, or a variant of it, without an audio input.
  //   sample_rate_hz: of the waveform, 1000 to 768000.
  //   frame: without pixels for an engine, or a variant of it, without an image input.
  //   top: how many labels to return.
  // Returns the best labels and their scores, best first.
  std::vector<Prediction> classify(const Waveform& waveform, int sample_rate_hz, const Frame& frame, std::size_t top = 5) {
    if (labels().empty())
      detail::fail(ErrorKind::engine, "engine ", folder_.string(), " has no labels, so it cannot classify; use infer()");
    if (top < 1) detail::fail(ErrorKind::input, "top=", top, " must be at least 1");
    const std::string variant = fitting([&](const Manifest& manifest) {
      return std::all_of(manifest.inputs.begin(), manifest.inputs.end(), [&](const TensorSpec& spec) {
        return detail::made_of_sound(spec.name) ? waveform.given() : detail::made_of_picture(spec.name) && frame.given();
      });
    });
    const Manifest& fit = manifests_.at(variant);
    Arrays feed = detail::inputs_of(fit, waveform, sample_rate_hz, frame);
    for (auto& [name, array] : feed) array = array.repeated(static_cast<std::size_t>(fit.batch.min));
    const detail::Row logits = detail::rows_of(infer_variant(variant, feed).at(fit.outputs[0].name))[0];
    if (!detail::all_finite(logits))
      detail::fail(ErrorKind::engine, "engine ", folder_.string(), " gave logits that are not finite; run its self_test()");
    const detail::Row likelihood = detail::scores_of(logits, fit.scores);
    std::vector<Prediction> predictions;
    for (std::size_t i = 0; i < likelihood.size(); ++i) predictions.push_back({labels()[i], likelihood[i]});
    std::stable_sort(predictions.begin(), predictions.end(),
                     [](const Prediction& one, const Prediction& other) { return one.score > other.score; });
    predictions.resize(std::min(top, predictions.size()));
    return predictions;
  }

  // Runs the inputs and clips stored beside the engine, and compares with the reference outputs stored there too.
  SelfTest self_test() {
    SelfTest test;
    for (const auto& [variant, manifest] : manifests_) {
      const detail::Backend& loaded = backend(variant);
      std::map<std::string, int> products = loaded.products();
      if (products.empty()) products = manifest.precision.value("products", std::map<std::string, int>());
      const std::string library = manifest.target == "onnx" ? "onnxruntime" : manifest.target;
      const std::map<std::string, std::string> here = {{library, loaded.version()}};
      const auto run = [this, name = variant](const Arrays& feed) { return infer_variant(name, feed); };
      detail::examine({manifest, variant, run, products, manifest.libraries == here, options_.device.empty()},
                      detail::read_golden(folder_ / detail::file_name("golden.npz", variant), manifest), test);
    }
    return test;
  }

 private:
  detail::Identities state() const {
    std::vector<std::string> names = {detail::manifest_file};
    for (const auto& [name, digest] : manifest().files) names.push_back(name);
    return detail::identities(folder_, names);
  }

  // The first that fits of the engine and its variants; the engine itself, which then says what is wrong.
  template <typename Fits>
  std::string fitting(const Fits& fits) const {
    for (const auto& [variant, manifest] : manifests_)
      if (fits(manifest)) return variant;
    return "";
  }

  Arrays infer_variant(const std::string& variant, const Arrays& feed) {
    const Manifest& manifest = manifests_.at(variant);
    const Arrays whole = detail::completed(feed, manifest);
    detail::check_feed(whole, manifest);
    Arrays outputs = backend(variant).infer(whole);
    detail::check_outputs(outputs, whole, manifest);
    return outputs;
  }

  detail::Backend& backend(const std::string& variant) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<detail::Backend>& loaded = backends_[variant];
    if (!loaded) {
      if (!variant.empty()) detail::verify_files(folder_, manifests_.at(variant));
      loaded = load(manifests_.at(variant));
    }
    return *loaded;
  }

  std::unique_ptr<detail::Backend> load(const Manifest& manifest) const {
#ifdef KDCMAE_OPENVINO
    if (manifest.target == "openvino") return std::make_unique<detail::OpenVinoBackend>(folder_, manifest, options_);
#endif
#ifdef KDCMAE_ONNXRUNTIME
    if (manifest.target == "onnx") return std::make_unique<detail::OnnxRuntimeBackend>(folder_, manifest, options_);
#endif
    detail::fail(ErrorKind::missing_dependency, folder_.string(), " is an engine of target ", manifest.target,
                 ", which this app was built without; link kdcmae::openvino or kdcmae::onnxruntime");
  }

  std::filesystem::path folder_;
  detail::BackendOptions options_;
  std::map<std::string, Manifest> manifests_;
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<detail::Backend>> backends_;
};

}  // namespace kdcmae
