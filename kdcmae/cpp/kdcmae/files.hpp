// Files of an engine folder: their content, their SHA-256, and whether they were replaced.
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <tuple>
#include <vector>

#include "error.hpp"

namespace kdcmae::detail {

// SHA-256 of FIPS 180-4.
class Sha256 {
 public:
  void update(const unsigned char* data, std::size_t size) {
    length_ += size;
    for (std::size_t taken = 0; taken < size;) {
      const std::size_t part = std::min(block_.size() - held_, size - taken);
      std::memcpy(block_.data() + held_, data + taken, part);
      held_ += part;
      taken += part;
      if (held_ == block_.size()) {
        compress();
        held_ = 0;
      }
    }
  }

  // Lower-case hexadecimal; nothing may be added afterwards.
  std::string hexadecimal() {
    const std::uint64_t bits = 8 * length_;
    const unsigned char one = 0x80, zero = 0;
    update(&one, 1);
    while (held_ != 56) update(&zero, 1);
    unsigned char tail[8];
    for (int i = 0; i < 8; ++i) tail[i] = static_cast<unsigned char>(bits >> (56 - 8 * i));
    update(tail, 8);
    std::string digits;
    for (const std::uint32_t word : state_)
      for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[(word >> shift) & 15];
    return digits;
  }

 private:
  static std::uint32_t rotated(std::uint32_t word, int by) { return (word >> by) | (word << (32 - by)); }

  void compress() {
    // The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
    static constexpr std::uint32_t constants[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    };
    std::uint32_t words[64];
    for (int i = 0; i < 16; ++i)
      words[i] = static_cast<std::uint32_t>(block_[4 * i]) << 24 | static_cast<std::uint32_t>(block_[4 * i + 1]) << 16 |
                 static_cast<std::uint32_t>(block_[4 * i + 2]) << 8 | block_[4 * i + 3];
    for (int i = 16; i < 64; ++i) {
      const std::uint32_t a = words[i - 15], b = words[i - 2];
      words[i] = words[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ (a >> 3)) + words[i - 7] +
                 (rotated(b, 17) ^ rotated(b, 19) ^ (b >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t first = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) +
                                  constants[i] + words[i];
      const std::uint32_t second =
          (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    const std::uint32_t sums[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state_[i] += sums[i];
  }

  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> block_ = {};
  std::size_t held_ = 0;
  std::uint64_t length_ = 0;
};

inline std::string sha256(const std::string& content) {
  Sha256 digest;
  digest.update(reinterpret_cast<const unsigned char*>(content.data()), content.size());
  return digest.hexadecimal();
}

constexpr const char* copy_again = "; copy the engine folder again or rebuild it with kdcmae-compile";

// The whole content of a file that is known to be one.
inline std::string content_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(stream), {}};
  if (!stream.good() && !stream.eof())
    fail(ErrorKind::integrity, path.string(), " cannot be read: ", std::strerror(errno), copy_again);
  return content;
}

// Its SHA-256, read in pieces so that engines of any size fit.
inline std::string digest_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) fail(ErrorKind::integrity, path.string(), " cannot be read: ", std::strerror(errno), copy_again);
  Sha256 digest;
  std::vector<char> piece(1 << 20);
  do {
    stream.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    digest.update(reinterpret_cast<unsigned char*>(piece.data()), static_cast<std::size_t>(stream.gcount()));
  } while (stream);
  if (stream.bad()) fail(ErrorKind::integrity, path.string(), " cannot be read: ", std::strerror(errno), copy_again);
  return digest.hexadecimal();
}

// What tells that another file took a name, or that a file was written: device, inode, size and time of writing.
using Identities = std::vector<std::tuple<std::string, dev_t, ino_t, off_t, std::int64_t>>;

inline Identities identities(const std::filesystem::path& folder, const std::vector<std::string>& names) {
  Identities result;
  for (const std::string& name : names) {
    struct stat facts = {};
    if (::stat((folder / name).c_str(), &facts) == 0) {
#ifdef __APPLE__
      const auto written = facts.st_mtimespec;
#else
      const auto written = facts.st_mtim;
#endif
      result.emplace_back(name, facts.st_dev, facts.st_ino, facts.st_size,
                          static_cast<std::int64_t>(written.tv_sec) * 1'000'000'000 + written.tv_nsec);
    }
  }
  return result;
}

}  // namespace kdcmae::detail
