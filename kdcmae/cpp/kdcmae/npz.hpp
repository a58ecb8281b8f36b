// Reads the .npz files that numpy writes: a ZIP archive of .npy arrays.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "array.hpp"
#include "error.hpp"

namespace kdcmae::detail {

// A bad archive; the caller says of which file.
class BadArchive : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename T>
T little_endian(const std::string& content, std::size_t place) {
  if (place > content.size() || content.size() - place < sizeof(T)) throw BadArchive("it ends too early");
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(value | static_cast<T>(static_cast<T>(static_cast<unsigned char>(content[place + i])) << (8 * i)));
  return value;
}

// The members of a ZIP archive by name, unpacked.
class Zip {
 public:
  // Whatever an archive claims, no member is larger: the largest array of a self-test is far below this.
  static constexpr std::uint64_t largest = std::uint64_t{1} << 31;

  explicit Zip(std::string content) : content_(std::move(content)) {
    const std::size_t end = content_.rfind("PK\x05\x06");
    if (end == std::string::npos) throw BadArchive("it is not a ZIP archive");
    std::size_t place = little_endian<std::uint32_t>(content_, end + 16);
    for (int left = little_endian<std::uint16_t>(content_, end + 10); left > 0; --left) {
      if (little_endian<std::uint32_t>(content_, place) != 0x02014b50) throw BadArchive("its directory is damaged");
      Member member;
      member.method = little_endian<std::uint16_t>(content_, place + 10);
      member.checksum = little_endian<std::uint32_t>(content_, place + 16);
      member.packed = little_endian<std::uint32_t>(content_, place + 20);
      member.unpacked = little_endian<std::uint32_t>(content_, place + 24);
      member.place = little_endian<std::uint32_t>(content_, place + 42);
      const std::size_t name = little_endian<std::uint16_t>(content_, place + 28);
      const std::size_t more = little_endian<std::uint16_t>(content_, place + 30);
      const std::size_t comment = little_endian<std::uint16_t>(content_, place + 32);
      if (place + 46 + name > content_.size()) throw BadArchive("it ends too early");
      members_[content_.substr(place + 46, name)] = member;
      place += 46 + name + more + comment;
    }
  }

  bool has(const std::string& name) const { return members_.count(name) != 0; }

  std::string read(const std::string& name) const {
    const auto found = members_.find(name);
    if (found == members_.end()) throw BadArchive("it has no " + name);
    const Member& member = found->second;
    if (little_endian<std::uint32_t>(content_, member.place) != 0x04034b50) throw BadArchive("a member is damaged");
    const std::size_t start = member.place + 30 + little_endian<std::uint16_t>(content_, member.place + 26) +
                              little_endian<std::uint16_t>(content_, member.place + 28);
    if (start > content_.size() || content_.size() - start < member.packed) throw BadArchive("it ends too early");
    std::string bytes = member.method == 0 ? content_.substr(start, member.packed) : inflated(start, member);
    const uLong checksum = crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
    if (bytes.size() != member.unpacked || checksum != member.checksum) throw BadArchive(name + " is damaged");
    return bytes;
  }

 private:
  struct Member {
    std::uint16_t method = 0;
    std::uint32_t checksum = 0;
    std::uint64_t packed = 0, unpacked = 0, place = 0;
  };

  std::string inflated(std::size_t start, const Member& member) const {
    if (member.method != 8 || member.unpacked > largest) throw BadArchive("it is packed in an unknown way");
    std::string bytes(member.unpacked, '\0');
    z_stream stream = {};
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw BadArchive("zlib does not start");
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content_.data() + start));
    stream.avail_in = static_cast<uInt>(member.packed);
    stream.next_out = reinterpret_cast<Bytef*>(bytes.data());
    stream.avail_out = static_cast<uInt>(bytes.size());
    const int state = inflate(&stream, Z_FINISH);
    const bool whole = state == Z_STREAM_END && stream.avail_out == 0;
    inflateEnd(&stream);
    if (!whole) throw BadArchive("a member is damaged");
    return bytes;
  }

  std::string content_;
  std::map<std::string, Member> members_;
};

// What follows `key` in the header of a .npy file, up to the next comma that ends it.
inline std::string npy_field(const std::string& header, const std::string& key) {
  const std::size_t found = header.find("'" + key + "':");
  if (found == std::string::npos) throw BadArchive("an array has no " + key);
  std::size_t start = header.find_first_not_of(' ', found + key.size() + 3);
  const std::size_t end = header.find(header.at(start) == '(' ? ")" : ",", start);
  if (end == std::string::npos) throw BadArchive("an array has a damaged header");
  if (header[start] == '(') ++start;
  return header.substr(start, end - start);
}

inline std::vector<std::int64_t> npy_shape(const std::string& list) {
  std::vector<std::int64_t> shape;
  std::int64_t size = -1, elements = 1;
  for (const char character : list + ",") {
    if (character >= '0' && character <= '9') {
      size = std::max<std::int64_t>(size, 0) * 10 + (character - '0');
      if (size > static_cast<std::int64_t>(Zip::largest)) throw BadArchive("an array is too large");
    } else if (character == ',' && size >= 0) {
      elements *= std::max<std::int64_t>(size, 1);
      if (elements > static_cast<std::int64_t>(Zip::largest)) throw BadArchive("an array is too large");
      shape.push_back(size);
      size = -1;
    }
  }
  return shape;
}

// numpy's UCS-4 as UTF-8.
inline std::string utf8(const std::string& wide) {
  std::string narrow;
  for (std::size_t place = 0; place + 4 <= wide.size(); place += 4) {
    const auto code = little_endian<std::uint32_t>(wide, place);
    if (code == 0) break;
    if (code < 0x80) {
      narrow += static_cast<char>(code);
    } else {
      const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      narrow += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | (code >> (6 * more)));
      for (int i = more - 1; i >= 0; --i) narrow += static_cast<char>(0x80 | (code >> (6 * i) & 0x3F));
    }
  }
  return narrow;
}

class Npz {
 public:
  explicit Npz(std::string content) : zip_(std::move(content)) {}

  bool has(const std::string& name) const { return zip_.has(name + ".npy"); }

  Array array(const std::string& name) const {
    const auto [type, shape, values] = parts(name);
    static const std::map<std::string, std::string> dtypes = {
        {"<f4", "float32"}, {"<f8", "float64"}, {"<f2", "float16"}, {"|u1", "uint8"}, {"|i1", "int8"},
        {"<i2", "int16"},   {"<i4", "int32"},   {"<i8", "int64"},   {"<u4", "uint32"},
    };
    const auto dtype = dtypes.find(type);
    if (dtype == dtypes.end()) throw BadArchive(name + " is of type " + type);
    if (values.empty()) throw BadArchive(name + " has no values");
    if (count(shape) * item_size(dtype->second) != values.size()) throw BadArchive(name + " is damaged");
    Array result(dtype->second, shape);
    std::memcpy(result.bytes(), values.data(), values.size());
    return result;
  }

  // A text that numpy wrote as an array without axes.
  std::string string(const std::string& name) const {
    const auto [type, shape, values] = parts(name);
    if (type.rfind("<U", 0) != 0 || !shape.empty()) throw BadArchive(name + " is no text");
    return utf8(values);
  }

 private:
  struct Parts {
    std::string type;
    std::vector<std::int64_t> shape;
    std::string values;
  };

  Parts parts(const std::string& name) const {
    const std::string file = zip_.read(name + ".npy");
    if (file.compare(0, 6, "\x93NUMPY", 6) != 0) throw BadArchive(name + " is no array");
    const bool first = file.size() > 6 && file[6] == 1;
    const std::size_t start = first ? 10 : 12;
    const std::size_t length = first ? little_endian<std::uint16_t>(file, 8) : little_endian<std::uint32_t>(file, 8);
    if (start + length > file.size()) throw BadArchive(name + " is damaged");
    const std::string header = file.substr(start, length);
    if (npy_field(header, "fortran_order") != "False") throw BadArchive(name + " is not in C order");
    std::string type = npy_field(header, "descr");
    if (type.size() < 2) throw BadArchive(name + " is damaged");
    type = type.substr(1, type.size() - 2);
    return {type, npy_shape(npy_field(header, "shape")), file.substr(start + length)};
  }

  Zip zip_;
};

}  // namespace kdcmae::detail
