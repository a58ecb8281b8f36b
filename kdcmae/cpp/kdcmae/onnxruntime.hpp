// ONNX engines, run by ONNX Runtime through its C interface, whose library is loaded at run time: no header of it is
// needed, and any release from 1.16 on will do.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend.hpp"

namespace kdcmae::detail {

// ONNX Runtime gives a table of functions whose order never changes: later releases append to it. These are the places
// of those that are used here, as onnxruntime_c_api.h declares them.
enum OrtFunction {
  ort_get_error_message = 2,
  ort_create_env = 3,
  ort_create_session = 7,
  ort_run = 9,
  ort_create_session_options = 10,
  ort_set_log_severity = 22,
  ort_set_threads = 24,
  ort_input_count = 30,
  ort_output_count = 31,
  ort_input_type = 33,
  ort_output_type = 34,
  ort_input_name = 36,
  ort_output_name = 37,
  ort_create_tensor = 49,
  ort_tensor_data = 51,
  ort_tensor_info = 55,
  ort_element_type = 60,
  ort_axes = 61,
  ort_sizes = 62,
  ort_value_shape = 65,
  ort_create_cpu_memory = 69,
  ort_free = 76,
  ort_allocator = 78,
  ort_release_env = 92,
  ort_release_status = 93,
  ort_release_memory = 94,
  ort_release_session = 95,
  ort_release_value = 96,
  ort_release_type = 98,
  ort_release_shape = 99,
  ort_release_session_options = 100,
  ort_config_entry = 130,
};

// The library and its functions.
class OrtLibrary {
 public:
  static constexpr std::uint32_t api = 16;

  static const OrtLibrary& get() {
    static const OrtLibrary library;
    return library;
  }

  // Calls a function that returns a status; throws what it says.
  template <typename... Arguments>
  void call(OrtFunction function, Arguments... arguments) const {
    void* status = reinterpret_cast<void* (*)(Arguments...)>(functions_[function])(arguments...);
    if (status == nullptr) return;
    const std::string message = reinterpret_cast<const char* (*)(void*)>(functions_[ort_get_error_message])(status);
    release(ort_release_status, status);
    fail(ErrorKind::engine, message);
  }

  void release(OrtFunction function, void* object) const { reinterpret_cast<void (*)(void*)>(functions_[function])(object); }

  const std::string& version() const { return version_; }

 private:
  struct Base {
    void* const* (*functions)(std::uint32_t version);
    const char* (*version)();
  };

  OrtLibrary() {
    // ONNX Runtime's telemetry is off unless the app has set its variable.
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    std::vector<std::string> names = {"libonnxruntime.so.1", "libonnxruntime.so", "libonnxruntime.dylib"};
#ifdef KDCMAE_ONNXRUNTIME_LIBRARY
    names.insert(names.begin(), KDCMAE_ONNXRUNTIME_LIBRARY);
#endif
    if (const char* named = std::getenv("KDCMAE_ONNXRUNTIME_LIBRARY")) names.insert(names.begin(), named);
    void* library = nullptr;
    for (const std::string& name : names)
      if ((library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) != nullptr) break;
    if (library == nullptr)
      fail(ErrorKind::missing_dependency,
           "ONNX Runtime's library is not found; name it in KDCMAE_ONNXRUNTIME_LIBRARY (tried: ", joined(names), ")");
    const auto base = reinterpret_cast<const Base* (*)()>(dlsym(library, "OrtGetApiBase"));
    if (base == nullptr) fail(ErrorKind::missing_dependency, "the library of ONNX Runtime has no OrtGetApiBase");
    version_ = base()->version();
    functions_ = base()->functions(api);
    if (functions_ == nullptr)
      fail(ErrorKind::version, "ONNX Runtime ", version_, " is too old; install 1.", api, " or newer");
  }

  void* const* functions_ = nullptr;
  std::string version_;
};

// An object of the library, released at the end.
class OrtObject {
 public:
  explicit OrtObject(OrtFunction release) : release_(release) {}
  OrtObject(OrtObject&& other) noexcept : release_(other.release_), object_(other.object_) { other.object_ = nullptr; }
  OrtObject(const OrtObject&) = delete;
  OrtObject& operator=(const OrtObject&) = delete;
  ~OrtObject() {
    if (object_ != nullptr) OrtLibrary::get().release(release_, object_);
  }

  void* get() const { return object_; }
  void** out() { return &object_; }

 private:
  OrtFunction release_;
  void* object_ = nullptr;
};

class OnnxRuntimeBackend : public Backend {
 public:
  OnnxRuntimeBackend(const std::filesystem::path& folder, const Manifest& manifest, const BackendOptions& options)
      : ort_(OrtLibrary::get()) {
    require_same_or_newer(manifest, "onnxruntime", ort_.version());
    const std::string device = device_of(manifest, options);
    if (device != "CPU")
      fail(ErrorKind::device, "this header runs ONNX Runtime on the CPU alone, not on '", device, "'; choose CPU");
    const std::string path = (folder / manifest.engine.at("file").get<std::string>()).string();
    OrtObject settings(ort_release_session_options);
    ort_.call(ort_create_env, 3, "kdcmae", environment_.out());  // 3: errors; its warnings are about graph clean-up
    ort_.call(ort_create_session_options, settings.out());
    ort_.call(ort_set_log_severity, settings.get(), 3);
    const int threads = engine_threads(manifest, options.threads);
    ort_.call(ort_set_threads, settings.get(), threads > 0 ? threads : limited_threads());
    const std::string disabled = disabled_optimizers(manifest);
    if (!disabled.empty())
      ort_.call(ort_config_entry, settings.get(), "optimization.disable_specified_optimizers", disabled.c_str());
    try {
      ort_.call(ort_create_session, environment_.get(), path.c_str(), settings.get(), session_.out());
    } catch (const Error& error) {
      fail(ErrorKind::engine, "ONNX Runtime ", ort_.version(), " cannot load ", path, ": ", error.what());
    }
    ort_.call(ort_create_cpu_memory, 0, 0, memory_.out());  // memory of the process, not of an arena
    check_tensors(manifest, manifest.inputs, types(ort_input_count, ort_input_name, ort_input_type), "input");
    check_tensors(manifest, manifest.outputs, types(ort_output_count, ort_output_name, ort_output_type), "output");
    for (const TensorSpec& spec : manifest.outputs) outputs_.push_back(spec.name);
  }

  Arrays infer(const Arrays& feed) override {
    std::vector<OrtObject> values;
    std::vector<const char*> names, wanted;
    std::vector<void*> given, results(outputs_.size(), nullptr);
    for (const auto& [name, array] : feed) {
      values.emplace_back(ort_release_value);
      ort_.call(ort_create_tensor, memory_.get(), const_cast<unsigned char*>(array.bytes()), array.size_in_bytes(),
                array.shape().data(), array.shape().size(), number_of(array.dtype()), values.back().out());
      names.push_back(name.c_str());
      given.push_back(values.back().get());
    }
    for (const std::string& name : outputs_) wanted.push_back(name.c_str());
    ort_.call(ort_run, session_.get(), static_cast<void*>(nullptr), names.data(), given.data(), given.size(),
              wanted.data(), wanted.size(), results.data());
    values.clear();
    for (void* result : results) {  // all of them are released, whatever is wrong with one
      values.emplace_back(ort_release_value);
      *values.back().out() = result;
    }
    Arrays outputs;
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      OrtObject shape(ort_release_shape);
      ort_.call(ort_value_shape, values[i].get(), shape.out());
      void* data = nullptr;
      ort_.call(ort_tensor_data, values[i].get(), &data);
      const TensorType type = type_of(shape.get());
      if (type.dtype != "float32") fail(ErrorKind::engine, "output ", outputs_[i], " is ", type.dtype, ", not float32");
      outputs[outputs_[i]] = Array::of(static_cast<const float*>(data), type.shape);
    }
    return outputs;
  }

  std::string version() const override { return ort_.version(); }

 private:
  // ONNX's numbers of the element types.
  static const std::map<int, std::string>& dtypes() {
    static const std::map<int, std::string> names = {{1, "float32"}, {2, "uint8"}, {3, "int8"},     {5, "int16"},
                                                     {6, "int32"},   {7, "int64"}, {10, "float16"}, {16, "bfloat16"}};
    return names;
  }

  static int number_of(const std::string& dtype) {
    for (const auto& [number, name] : dtypes())
      if (name == dtype) return number;
    fail(ErrorKind::input, "ONNX Runtime takes no ", dtype);
  }

  static std::string disabled_optimizers(const Manifest& manifest) {
    std::string names;
    const Json list = manifest.engine.value("disabled_optimizers", Json::array());
    require(list.is_array(), "engine.disabled_optimizers", "a list of names", list);
    for (const Json& name : list) {
      require(name.is_string(), "engine.disabled_optimizers", "a list of names", list);
      names += (names.empty() ? "" : ";") + name.get<std::string>();
    }
    return names;
  }

  TensorType type_of(const void* info) const {
    int element = 0;
    std::size_t axes = 0;
    ort_.call(ort_element_type, info, &element);
    ort_.call(ort_axes, info, &axes);
    TensorType type{"an unknown type", std::vector<std::int64_t>(axes)};
    ort_.call(ort_sizes, info, type.shape.data(), axes);
    if (dtypes().count(element)) type.dtype = dtypes().at(element);
    return type;
  }

  std::map<std::string, TensorType> types(OrtFunction count, OrtFunction name, OrtFunction type) const {
    std::map<std::string, TensorType> result;
    std::size_t tensors = 0;
    ort_.call(count, session_.get(), &tensors);
    void* allocator = nullptr;  // the library's own, which nobody releases
    ort_.call(ort_allocator, &allocator);
    for (std::size_t index = 0; index < tensors; ++index) {
      char* text = nullptr;
      ort_.call(name, session_.get(), index, allocator, &text);
      const std::string called = text;
      ort_.call(ort_free, allocator, text);
      OrtObject info(ort_release_type);
      ort_.call(type, session_.get(), index, info.out());
      const void* tensor = nullptr;
      ort_.call(ort_tensor_info, info.get(), &tensor);
      if (tensor == nullptr) fail(ErrorKind::engine, called, " of the engine is no tensor", rebuild);
      result[called] = type_of(tensor);
    }
    return result;
  }

  const OrtLibrary& ort_;
  OrtObject environment_{ort_release_env}, memory_{ort_release_memory}, session_{ort_release_session};
  std::vector<std::string> outputs_;
};

}  // namespace kdcmae::detail
