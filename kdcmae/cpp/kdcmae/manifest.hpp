// manifest.json: the facts of an engine folder, and the digests of its files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "error.hpp"
#include "files.hpp"

namespace kdcmae {

// One input or output of an engine. An axis of the batch is -1, a side of a frame of any size from 16 to 1920 is -2.
struct TensorSpec {
  static constexpr std::int64_t batch = -1, side = -2;

  std::string name;
  std::vector<std::int64_t> shape;
  std::string dtype;
  std::string description;
};

struct BatchRange {
  std::int64_t min = 1, opt = 1, max = 1;
};

// How a clip becomes the inputs; the fields of the Python package's Preprocessing that vary from model to model.
struct Preprocessing {
  bool left = false;  // of several channels the left one alone; else their mean
  std::int64_t audio_frames = 1024;
  float fbank_mean = -5.081f, fbank_std = 4.4849f;
  std::int64_t image_size = 224;
  std::vector<float> image_mean = {0.485f, 0.456f, 0.406f}, image_std = {0.229f, 0.224f, 0.225f};

  // Samples at 16 kHz that `audio_frames` frames of 400 samples, 160 apart, see.
  std::size_t audio_samples() const { return static_cast<std::size_t>(400 + 160 * (audio_frames - 1)); }
};

struct Manifest {
  std::string target;
  std::string scores;  // "softmax" or "sigmoid"
  std::vector<std::string> labels;
  std::vector<TensorSpec> inputs, outputs;
  BatchRange batch;
  Preprocessing preprocessing;
  std::map<std::string, std::string> libraries;
  std::vector<std::string> variants;
  std::map<std::string, std::string> files;  // SHA-256 by name
  nlohmann::json engine, precision;          // the target's own options; what was asked for and what was executed
};

namespace detail {

using Json = nlohmann::json;

constexpr const char* rebuild = "; rebuild the engine with kdcmae-compile";

// Parses JSON of a file; values nested deeper than any that a build writes would overflow the stack when they are copied.
template <typename Document = Json>
Document parsed(const std::string& content) {
  return Document::parse(content, [](int depth, typename Document::parse_event_t, Document&) {
    if (depth > 100) fail(ErrorKind::engine, "JSON is nested deeper than 100 levels", rebuild);
    return true;
  });
}

constexpr const char* manifest_file = "manifest.json";

// What a file is called in the folder: a variant's start with its name.
inline std::string file_name(const std::string& name, const std::string& variant) {
  return variant.empty() ? name : variant + "-" + name;
}

inline std::string shown(const Json& value) {
  const std::string whole = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return whole.size() <= 60 ? whole : whole.substr(0, 57) + "...";
}

inline void require(bool condition, const std::string& field, const std::string& expected, const Json& value) {
  if (!condition) fail(ErrorKind::engine, "field ", field, " must be ", expected, ", got ", shown(value));
}

inline const Json& field_of(const Json& object, const std::string& name, const std::string& where = "") {
  require(object.is_object(), where.empty() ? "the whole file" : where, "an object", object);
  const auto found = object.find(name);
  if (found == object.end())
    fail(ErrorKind::engine, "field ", where.empty() ? "" : where + ".", name, " is missing", rebuild);
  return *found;
}

inline bool is_count(const Json& value) { return value.is_number_integer() && value.get<std::int64_t>() > 0; }

inline std::string text_field(const std::string& field, const Json& value) {
  require(value.is_string() && value.get<std::string>().find_first_not_of(" \t\r\n") != std::string::npos, field,
          "a text that is not empty", value);
  return value.get<std::string>();
}

inline std::string choice(const std::string& field, const Json& value, const std::vector<std::string>& choices) {
  const bool known =
      value.is_string() && std::find(choices.begin(), choices.end(), value.get<std::string>()) != choices.end();
  require(known, field, "one of " + joined(choices), value);
  return value.get<std::string>();
}

// Only a bare name is safe to join to the folder, on any operating system.
inline std::string plain_name(const std::string& field, const Json& value) {
  bool plain = value.is_string();
  if (plain) {
    const std::string name = value.get<std::string>();
    plain = !name.empty() && name != "." && name != ".." && name != manifest_file &&
            std::none_of(name.begin(), name.end(), [](unsigned char character) {
              return character == '/' || character == '\\' || character == ':' || character < 32;
            });
  }
  require(plain, field, "the plain name of a file in the folder", value);
  return value.get<std::string>();
}

inline TensorSpec tensor_spec(const std::string& field, const Json& value, bool input) {
  static const std::vector<std::string> taken = {"float32", "float16", "uint8", "int8", "int16", "int32", "int64"};
  static const std::vector<std::string> given = {"float32", "float16", "bfloat16"};
  TensorSpec spec;
  spec.name = text_field(field + ".name", field_of(value, "name", field));
  spec.dtype = choice(field + ".dtype", field_of(value, "dtype", field), input ? taken : given);
  const Json& shape = field_of(value, "shape", field);
  bool good = shape.is_array() && !shape.empty();
  for (std::size_t axis = 0; good && axis < shape.size(); ++axis) {
    const Json& size = shape[axis];
    if (is_count(size)) {
      spec.shape.push_back(size.get<std::int64_t>());
    } else if (size == "batch" && axis == 0) {
      spec.shape.push_back(TensorSpec::batch);
    } else if (size == "height" || size == "width") {
      spec.shape.push_back(TensorSpec::side);
    } else {
      good = false;
    }
  }
  require(good, field + ".shape", "positive sizes, \"batch\" first or nowhere", shape);
  const Json& description = field_of(value, "description", field);
  require(description.is_string(), field + ".description", "a text", description);
  spec.description = description.get<std::string>();
  return spec;
}

inline std::vector<TensorSpec> tensor_specs(const std::string& role, const Json& list) {
  require(list.is_array() && !list.empty(), role, "one tensor or more", list);
  std::vector<TensorSpec> specs;
  for (std::size_t index = 0; index < list.size(); ++index) {
    specs.push_back(tensor_spec(text(role, "[", index, "]"), list[index], role == "inputs"));
    for (std::size_t other = 0; other < index; ++other)
      require(specs[other].name != specs[index].name, role, "tensors of different names", list[index]["name"]);
  }
  return specs;
}

inline float number_fact(const std::string& name, const Json& value, bool positive) {
  // The smallest normal float32: everything is computed in it.
  const bool good = value.is_number() && std::abs(value.get<double>()) <= 3.4028234663852886e38 &&
                    (!positive || value.get<double>() >= 1.1754943508222875e-38);
  if (!good)
    fail(ErrorKind::engine, "preprocessing ", name, "=", shown(value), " is not supported; it must be ",
         positive ? "a positive number" : "a number");
  return value.get<float>();
}

// What any engine of this preprocessing says; another value is refused, because nothing here computes it.
inline const Json& fixed_facts() {
  static const Json facts = {
      {"sample_rate_hz", 16000}, {"frame_length", 400},       {"frame_shift", 160},
      {"fft_length", 512},       {"window", "hann"},          {"preemphasis", 0.97},
      {"mel_bins", 128},         {"low_frequency_hz", 20.0},  {"high_frequency_hz", 8000.0},
      {"log_floor", 1.1920928955078125e-07}, {"interpolation", "bicubic"},
  };
  return facts;
}

inline Preprocessing preprocessing_of(const Json& facts) {
  require(facts.is_object(), "preprocessing", "an object", facts);
  Preprocessing result;
  for (const auto& [name, value] : facts.items()) {
    if (fixed_facts().contains(name)) {
      if (value != fixed_facts()[name])
        fail(ErrorKind::engine, "preprocessing ", name, "=", shown(value), " is not supported; it must be ",
             shown(fixed_facts()[name]));
    } else if (name == "mono") {
      result.left = choice("preprocessing.mono", value, {"mean", "left"}) == "left";
    } else if (name == "audio_frames" || name == "image_size") {
      require(is_count(value) && value.get<std::int64_t>() < (1 << 20), "preprocessing." + name, "a positive integer",
              value);
      (name == "audio_frames" ? result.audio_frames : result.image_size) = value.get<std::int64_t>();
    } else if (name == "fbank_mean" || name == "fbank_std") {
      (name == "fbank_mean" ? result.fbank_mean : result.fbank_std) = number_fact(name, value, name == "fbank_std");
    } else if (name == "image_mean" || name == "image_std") {
      require(value.is_array() && value.size() == 3, "preprocessing." + name, "three numbers", value);
      for (std::size_t channel = 0; channel < 3; ++channel)
        (name == "image_mean" ? result.image_mean : result.image_std)[channel] =
            number_fact(name, value[channel], name == "image_std");
    } else {
      fail(ErrorKind::engine, "unknown preprocessing fact ", name, "; update kdcmae");
    }
  }
  return result;
}

// Refuses sizes that the inputs do not have, before anything of such a size is made.
inline void check_fits(const Manifest& manifest) {
  const auto check = [](const TensorSpec& spec, std::size_t axis, std::int64_t size, const char* fact) {
    if (axis < spec.shape.size() && spec.shape[axis] != size)
      fail(ErrorKind::engine, "preprocessing ", fact, " makes axis ", axis, " of input ", spec.name, " ", size,
           " long, the engine takes ", spec.shape[axis]);
  };
  const Preprocessing& facts = manifest.preprocessing;
  for (const TensorSpec& spec : manifest.inputs) {
    if (spec.name == "audio") check(spec, 1, facts.audio_frames, "audio_frames");
    if (spec.name == "waveform") check(spec, 1, static_cast<std::int64_t>(facts.audio_samples()), "audio_frames");
    if (spec.name == "image") check(spec, 2, facts.image_size, "image_size"), check(spec, 3, facts.image_size, "image_size");
  }
}

// Every file that gets opened must be under a digest; OpenVINO opens the weights beside its .xml by itself.
inline void check_listed(const Manifest& manifest) {
  std::vector<std::string> needed = {"labels.txt"};
  for (const char* role : {"file", "frontend"}) {
    if (!manifest.engine.contains(role)) continue;
    const std::string name = manifest.engine[role];
    needed.push_back(name);
    if (manifest.target == "openvino" && !manifest.engine.contains("weights"))
      needed.push_back(std::filesystem::path(name).stem().string() + ".bin");
  }
  if (manifest.engine.contains("weights")) needed.push_back(manifest.engine["weights"]);
  for (const std::string& name : needed)
    if (!manifest.files.count(name)) fail(ErrorKind::engine, "field files does not list ", name, rebuild);
}

inline void check_schema_version(const Json& content) {
  const Json& version = field_of(content, "schema_version");
  require(is_count(version), "schema_version", "a positive whole number", version);
  if (version != 1)
    fail(ErrorKind::version, "the manifest has schema version ", version.dump(), ", this kdcmae reads version 1; ",
         version > 1 ? "update kdcmae" : "rebuild the engine with kdcmae-compile");
}

inline std::vector<std::string> labels_of(const Json& list, const TensorSpec& logits) {
  require(list.is_array(), "labels", "a list of texts", list);
  std::vector<std::string> labels;
  for (std::size_t index = 0; index < list.size(); ++index)
    labels.push_back(text_field(text("labels[", index, "]"), list[index]));
  const std::int64_t classes = logits.shape.back();
  if (!labels.empty() && static_cast<std::int64_t>(labels.size()) != classes)
    fail(ErrorKind::engine, "field labels has ", labels.size(), " labels, but output ", logits.name, " has ", classes,
         " classes");
  return labels;
}

inline void read_files(const Json& files, Manifest& manifest) {
  require(files.is_object(), "files", "an object", files);
  for (const auto& [name, value] : files.items()) {
    plain_name("files", name);
    const bool digest = value.is_string() && value.get<std::string>().size() == 64 &&
                        value.get<std::string>().find_first_not_of("0123456789abcdef") == std::string::npos;
    require(digest, "files." + name, "64 lower-case hexadecimal digits", value);
    manifest.files[name] = value.get<std::string>();
  }
}

inline Manifest manifest_of(const Json& content) {
  check_schema_version(content);
  Manifest manifest;
  manifest.target = choice("target", field_of(content, "target"), {"openvino", "trt", "torch-trt", "onnx", "aoti"});
  manifest.scores = choice("scores", field_of(content, "scores"), {"softmax", "sigmoid"});
  manifest.inputs = tensor_specs("inputs", field_of(content, "inputs"));
  manifest.outputs = tensor_specs("outputs", field_of(content, "outputs"));
  manifest.labels = labels_of(field_of(content, "labels"), manifest.outputs[0]);
  const Json& batch = field_of(content, "batch");
  for (auto [bound, size] : {std::pair{"min", &manifest.batch.min}, {"opt", &manifest.batch.opt}, {"max", &manifest.batch.max}}) {
    const Json& value = field_of(batch, bound, "batch");
    require(is_count(value), text("batch.", bound), "a positive whole number", value);
    *size = value.get<std::int64_t>();
  }
  require(manifest.batch.min <= manifest.batch.opt && manifest.batch.opt <= manifest.batch.max, "batch",
          "ordered as min <= opt <= max", batch);
  manifest.preprocessing = preprocessing_of(field_of(content, "preprocessing"));
  const Json& libraries = field_of(content, "libraries");
  require(libraries.is_object(), "libraries", "an object", libraries);
  for (const auto& [name, version] : libraries.items())
    manifest.libraries[name] = text_field("libraries." + name, version);
  for (const char* section : {"engine", "precision"})
    require(field_of(content, section).is_object(), section, "an object", content[section]);
  manifest.engine = content["engine"];
  manifest.precision = content["precision"];
  if (manifest.engine.contains("device")) text_field("engine.device", manifest.engine["device"]);
  if (manifest.precision.contains("products")) {
    const Json& products = manifest.precision["products"];
    const bool counts = products.is_object() && std::all_of(products.begin(), products.end(), [](const Json& count) {
                          return count.is_number_integer();
                        });
    require(counts, "precision.products", "an object of counts", products);
  }
  if (manifest.engine.contains("parts"))
    fail(ErrorKind::engine, "the engine is in parts, which Python runs and this header does not; build it without --split");
  plain_name("engine.file", field_of(manifest.engine, "file", "engine"));
  for (const char* role : {"frontend", "weights"})
    if (manifest.engine.contains(role)) plain_name(text("engine.", role), manifest.engine[role]);
  for (const Json& variant : content.value("variants", Json::array()))
    manifest.variants.push_back(choice("variants", variant, {"audiovisual", "audio", "video"}));
  read_files(field_of(content, "files"), manifest);
  check_listed(manifest);
  check_fits(manifest);
  return manifest;
}

inline Manifest read_manifest(const std::filesystem::path& folder, const std::string& variant = "") {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored))
    fail(ErrorKind::engine, folder.string(), fs::exists(folder, ignored) ? " is not a folder" : " does not exist",
         "; give the engine folder that kdcmae-compile wrote");
  const fs::path path = folder / file_name(manifest_file, variant);
  if (!fs::is_regular_file(path, ignored))
    fail(ErrorKind::engine, folder.string(), " has no ", path.filename().string(),
         "; give an engine folder that kdcmae-compile wrote");
  try {
    return manifest_of(parsed(content_of(path)));
  } catch (const Json::exception& error) {
    fail(ErrorKind::engine, path.string(), " is not valid JSON (", error.what(), ")", rebuild);
  } catch (const Error& error) {
    throw Error(error.kind(), path.string() + ": " + error.what());
  }
}

// Compares every file that the manifest lists with its digest.
inline void verify_files(const std::filesystem::path& folder, const Manifest& manifest) {
  for (const auto& [name, expected] : manifest.files) {
    const std::filesystem::path path = folder / name;
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(path, ignored))  // reading from a pipe, say, would never end
      fail(ErrorKind::integrity, path.string(),
           std::filesystem::exists(path, ignored) ? " is not a file" : " is missing", copy_again);
    const std::string found = digest_of(path);
    if (found != expected)
      fail(ErrorKind::integrity, path.string(), " has changed: its SHA-256 is ", found, ", manifest.json says ", expected,
           copy_again);
  }
}

}  // namespace detail
}  // namespace kdcmae
