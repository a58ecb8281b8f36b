// OpenVINO engines: an IR (model.xml with its model.bin), and where it takes raw clips a second one in float32 before it.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/openvino.hpp>
#include <string>
#include <utility>
#include <vector>

#include "backend.hpp"

namespace kdcmae::detail {

// The one Core of this process: its plugins are loaded once.
inline ov::Core& openvino_core() {
  static ov::Core core;
  return core;
}

// What the CPU plugin is to execute: the next precision that the CPU multiplies. Left to itself, the plugin emulates
// bfloat16 where the instructions for it are missing, which takes many times as long as float32.
inline std::string native_precision(const std::string& asked) {
  static const std::map<std::string, std::vector<std::string>> tried = {{"fp16", {"fp16", "bf16"}}, {"bf16", {"bf16"}}};
  const auto list = tried.find(asked);
  if (list == tried.end()) return "fp32";
  const Cpu cpu = this_cpu();
  const auto capabilities =
      cpu.features.empty() ? openvino_core().get_property("CPU", ov::device::capabilities) : std::vector<std::string>();
  for (const std::string& precision : list->second) {
    const std::string capability = precision == "fp16" ? "FP16" : "BF16";
    if (cpu.features.empty() ? std::count(capabilities.begin(), capabilities.end(), capability) > 0
                             : cpu.multiplies(precision))
      return precision;
  }
  return "fp32";
}

// Gives a model float32 types in the place of bfloat16, which a precision hint leaves as they are.
inline void widen(const std::shared_ptr<ov::Model>& model) {
  for (const auto& op : model->get_ordered_ops()) {
    if (op->get_output_size() == 0 || op->get_output_element_type(0) != ov::element::bf16) continue;
    if (const auto convert = ov::as_type_ptr<ov::op::v0::Convert>(op)) {
      convert->set_destination_type(ov::element::f32);
    } else if (ov::as_type_ptr<ov::op::v0::Constant>(op)) {
      const auto readers = op->output(0).get_target_inputs();
      const auto wide = std::make_shared<ov::op::v0::Convert>(op, ov::element::f32);
      for (auto reader : readers) reader.replace_source_output(wide->output(0));
    }
  }
  model->validate_nodes_and_infer_types();
}

inline const std::map<ov::element::Type_t, std::string>& openvino_dtypes() {
  static const std::map<ov::element::Type_t, std::string> names = {
      {ov::element::f32, "float32"}, {ov::element::f16, "float16"}, {ov::element::u8, "uint8"},
      {ov::element::i8, "int8"},     {ov::element::i16, "int16"},   {ov::element::i32, "int32"},
      {ov::element::i64, "int64"},   {ov::element::bf16, "bfloat16"},
  };
  return names;
}

class OpenVinoBackend : public Backend {
 public:
  OpenVinoBackend(const std::filesystem::path& folder, const Manifest& manifest, const BackendOptions& options) {
    require_same_or_newer(manifest, "openvino", version());
    const std::string device = available(device_of(manifest, options));
    ov::AnyMap properties = {{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)}};
    int threads = engine_threads(manifest, options.threads);
    if (threads == 0 && device == "CPU") threads = limited_threads();
    if (threads > 0) properties.insert({ov::inference_num_threads(threads)});
    const std::string precision =
        choice("engine.inference_precision", manifest.engine.value("inference_precision", Json()), {"f32", "f16", "bf16"});
    for (const auto& [role, hint] : {std::pair<std::string, std::string>{"frontend", "f32"}, {"file", precision}})
      if (manifest.engine.contains(role)) compile(folder, manifest, role, hint, device, properties);
    for (const TensorSpec& spec : manifest.outputs) outputs_.push_back(spec.name);
    check_tensors(manifest, manifest.inputs, types(models_.front().inputs(), manifest.inputs), "input");
    check_tensors(manifest, manifest.outputs, types(models_.back().outputs(), manifest.outputs), "output");
    for (const auto& port : models_.size() > 1 ? models_[1].inputs() : std::vector<ov::Output<const ov::Node>>())
      between_.push_back(handed_on(port));
    idle_.push_back(request());
  }

  Arrays infer(const Arrays& feed) override {
    Request request = taken();
    try {
      const Arrays results = run(request, feed);
      const std::lock_guard<std::mutex> lock(mutex_);
      idle_.push_back(std::move(request));
      return results;
    } catch (const ov::Exception& error) {
      fail(ErrorKind::engine, "OpenVINO failed: ", error.what());
    }
  }

  std::map<std::string, int> products() const override {
    static const std::map<std::string, std::string> names = {
        {"f32", "fp32"}, {"f16", "fp16"}, {"bf16", "bf16"}, {"i8", "int8"}, {"u8", "int8"}};
    std::map<std::string, int> counts;
    for (const auto& layer : models_.back().get_runtime_model()->get_ops()) {
      const auto& facts = layer->get_rt_info();
      const auto kind = facts.find("layerType"), precision = facts.find("runtimePrecision");
      if (kind == facts.end() || precision == facts.end() || kind->second.as<std::string>() != "FullyConnected") continue;
      const auto name = names.find(precision->second.as<std::string>());
      if (name != names.end()) ++counts[name->second];
    }
    return counts;
  }

  std::string version() const override {
    const std::string build = ov::get_openvino_version().buildNumber;
    return build.substr(0, build.find('-'));
  }

 private:
  using Request = std::vector<ov::InferRequest>;  // one per model

  static std::string available(const std::string& device) {
    const std::vector<std::string> devices = openvino_core().get_available_devices();
    for (const std::string& found : devices)
      if (found == device || found.rfind(device + ".", 0) == 0) return device;
    fail(ErrorKind::device, "OpenVINO finds no device '", device, "' here, only ", joined(devices),
         "; choose one of these");
  }

  void compile(const std::filesystem::path& folder, const Manifest& manifest, const std::string& role,
               const std::string& hint, const std::string& device, ov::AnyMap properties) {
    const std::string path = (folder / manifest.engine.at(role).get<std::string>()).string();
    const std::string weights =
        manifest.engine.contains("weights") ? (folder / manifest.engine["weights"].get<std::string>()).string() : "";
    static const std::map<std::string, std::string> names = {{"f32", "fp32"}, {"f16", "fp16"}, {"bf16", "bf16"}};
    static const std::map<std::string, ov::element::Type> types = {
        {"fp32", ov::element::f32}, {"fp16", ov::element::f16}, {"bf16", ov::element::bf16}};
    try {
      const std::shared_ptr<ov::Model> model = openvino_core().read_model(path, weights);
      std::string precision = names.at(hint);
      if (device == "CPU") {
        precision = native_precision(precision);
        if (native_precision("bf16") != "bf16") widen(model);
      }
      properties.insert({ov::hint::inference_precision(types.at(precision))});
      models_.push_back(openvino_core().compile_model(model, device, properties));
    } catch (const ov::Exception& error) {
      fail(ErrorKind::engine, "OpenVINO ", version(), " cannot load ", path, " on ", device, ": ", error.what());
    }
  }

  // Types by name; a port of several names goes by the promised one.
  static std::map<std::string, TensorType> types(const std::vector<ov::Output<const ov::Node>>& ports,
                                                 const std::vector<TensorSpec>& promised) {
    std::map<std::string, TensorType> result;
    for (const auto& port : ports) {
      std::string name = port.get_names().empty() ? "(unnamed)" : port.get_any_name();
      for (const TensorSpec& spec : promised)
        if (port.get_names().count(spec.name)) name = spec.name;
      TensorType type;
      const auto known = openvino_dtypes().find(port.get_element_type());
      type.dtype = known == openvino_dtypes().end() ? port.get_element_type().get_type_name() : known->second;
      for (const auto& axis : port.get_partial_shape()) type.shape.push_back(axis.is_static() ? axis.get_length() : -1);
      result[name] = type;
    }
    return result;
  }

  // A name that an input of the engine shares with an output of its frontend.
  std::string handed_on(const ov::Output<const ov::Node>& port) const {
    for (const auto& given : models_.front().outputs())
      for (const std::string& name : port.get_names())
        if (given.get_names().count(name) && given.get_element_type() == port.get_element_type()) return name;
    fail(ErrorKind::engine, "the frontend does not give ", port.get_any_name(), ", which the engine takes", rebuild);
  }

  Request request() {
    Request result;
    for (ov::CompiledModel& model : models_) result.push_back(model.create_infer_request());
    return result;
  }

  Request taken() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return request();
    Request result = std::move(idle_.back());
    idle_.pop_back();
    return result;
  }

  Arrays run(Request& request, const Arrays& feed) const {
    for (const auto& [name, array] : feed) {
      const ov::Shape shape(array.shape().begin(), array.shape().end());
      ov::Tensor tensor(request[0].get_tensor(name).get_element_type(), shape);
      std::memcpy(tensor.data(), array.bytes(), array.size_in_bytes());
      request[0].set_tensor(name, tensor);
    }
    request[0].infer();
    if (request.size() > 1) {
      for (const std::string& name : between_) request[1].set_tensor(name, request[0].get_tensor(name));
      request[1].infer();
    }
    Arrays results;
    for (const std::string& name : outputs_) {
      const ov::Tensor tensor = request.back().get_tensor(name);
      const std::vector<std::int64_t> shape(tensor.get_shape().begin(), tensor.get_shape().end());
      Array array("float32", shape);
      for (std::size_t i = 0; i < array.size(); ++i) array.data<float>()[i] = value(tensor, i);
      results[name] = std::move(array);
    }
    return results;
  }

  static float value(const ov::Tensor& tensor, std::size_t index) {
    if (tensor.get_element_type() == ov::element::f32) return tensor.data<const float>()[index];
    if (tensor.get_element_type() == ov::element::f16) return static_cast<float>(tensor.data<const ov::float16>()[index]);
    return static_cast<float>(tensor.data<const ov::bfloat16>()[index]);
  }

  std::vector<ov::CompiledModel> models_;
  std::vector<std::string> outputs_, between_;
  std::mutex mutex_;
  std::vector<Request> idle_;
};

}  // namespace kdcmae::detail
