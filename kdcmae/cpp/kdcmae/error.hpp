// The one exception of this library.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace kdcmae {

// What went wrong; each kind is an exception class of the Python package.
enum class ErrorKind {
  engine,              // not an engine folder, a bad manifest, or an engine that failed
  integrity,           // a file is missing, cannot be read or has changed
  version,             // made for another version of the library or of the manifest
  input,               // an input that the engine does not take
  data,                // a waveform or frame that cannot be used
  config,              // an option of this library that has no such value
  device,              // the machine lacks the device
  missing_dependency,  // the engine library is not there, or the app was built without it
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

namespace detail {

// Values written one after the other.
template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <typename... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  throw Error(kind, text(parts...));
}

// Items with a comma between them.
template <typename Items>
std::string joined(const Items& items) {
  std::ostringstream out;
  const char* separator = "";
  for (const auto& item : items) {
    out << separator << item;
    separator = ", ";
  }
  return out.str();
}

}  // namespace detail
}  // namespace kdcmae
