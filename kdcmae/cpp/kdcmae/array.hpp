// Arrays in C order, of the element types that engines take and give.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "error.hpp"

namespace kdcmae {

namespace detail {

template <typename T>
std::string dtype_of() {
  const std::string bits = std::to_string(8 * sizeof(T));
  if constexpr (std::is_floating_point_v<T>) return "float" + bits;
  return (std::is_signed_v<T> ? "int" : "uint") + bits;
}

inline std::size_t item_size(const std::string& dtype) {
  static const std::map<std::string, std::size_t> sizes = {
      {"float32", 4}, {"float64", 8}, {"float16", 2}, {"bfloat16", 2}, {"uint8", 1}, {"int8", 1},
      {"int16", 2},   {"int32", 4},   {"int64", 8},   {"uint32", 4},
  };
  const auto found = sizes.find(dtype);
  if (found == sizes.end()) fail(ErrorKind::engine, "element type ", dtype, " is not supported");
  return found->second;
}

inline std::string in_brackets(const std::vector<std::int64_t>& shape) { return "(" + joined(shape) + ")"; }

// Elements of an array; throws Error where no memory could hold them.
inline std::size_t count(const std::vector<std::int64_t>& shape) {
  constexpr std::size_t most = std::numeric_limits<std::ptrdiff_t>::max() / 8;  // of the widest elements
  std::size_t product = 1;
  for (const std::int64_t size : shape) {
    const auto axis = static_cast<std::size_t>(size);
    if (size < 0 || (axis != 0 && product > most / axis))
      fail(ErrorKind::input, "no array has the shape ", in_brackets(shape));
    product *= axis;
  }
  return product;
}

}  // namespace detail

class Array {
 public:
  Array() = default;

  // Zeros.
  //   dtype: numpy's name of the element type, such as "float32".
  //   shape: axis sizes.
  Array(std::string dtype, std::vector<std::int64_t> shape)
      : dtype_(std::move(dtype)), shape_(std::move(shape)), bytes_(detail::count(shape_) * detail::item_size(dtype_)) {}

  // A copy of values in C order.
  template <typename T>
  static Array of(const T* values, std::vector<std::int64_t> shape) {
    Array array(detail::dtype_of<T>(), std::move(shape));
    if (!array.bytes_.empty()) std::memcpy(array.bytes_.data(), values, array.bytes_.size());
    return array;
  }

  const std::string& dtype() const { return dtype_; }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  std::size_t size() const { return detail::count(shape_); }
  std::size_t size_in_bytes() const { return bytes_.size(); }
  // Size of the first axis.
  std::size_t rows() const { return shape_.empty() ? 1 : static_cast<std::size_t>(shape_[0]); }

  // The elements; throws Error where T is not their type.
  template <typename T>
  T* data() {
    return const_cast<T*>(static_cast<const Array*>(this)->data<T>());
  }
  template <typename T>
  const T* data() const {
    if (detail::dtype_of<T>() != dtype_)
      detail::fail(ErrorKind::input, "an array of ", dtype_, " was read as ", detail::dtype_of<T>());
    return reinterpret_cast<const T*>(bytes_.data());
  }
  unsigned char* bytes() { return bytes_.data(); }
  const unsigned char* bytes() const { return bytes_.data(); }

  // The values of a floating type as float64.
  std::vector<double> wide() const {
    std::vector<double> values(size());
    if (dtype_ == "float64") {
      std::memcpy(values.data(), bytes_.data(), bytes_.size());
    } else {
      const float* narrow = data<float>();
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = narrow[i];
    }
    return values;
  }

  // The rows one after the other, the whole array so often.
  Array repeated(std::size_t times) const {
    std::vector<std::int64_t> shape = shape_;
    shape[0] = static_cast<std::int64_t>(detail::count({shape[0], static_cast<std::int64_t>(times)}));
    Array result(dtype_, std::move(shape));
    for (std::size_t i = 0; i < times; ++i)
      std::memcpy(result.bytes_.data() + i * bytes_.size(), bytes_.data(), bytes_.size());
    return result;
  }

  // Row `index` as an array with one axis less.
  Array row(std::size_t index) const {
    Array result(dtype_, std::vector<std::int64_t>(shape_.begin() + 1, shape_.end()));
    std::memcpy(result.bytes_.data(), bytes_.data() + index * result.bytes_.size(), result.bytes_.size());
    return result;
  }

 private:
  std::string dtype_ = "float32";
  std::vector<std::int64_t> shape_ = {0};
  std::vector<unsigned char> bytes_;
};

// Arrays by name.
using Arrays = std::map<std::string, Array>;

}  // namespace kdcmae
