// Labels a WAV file and a PPM picture: classify ENGINE SOUND.wav PICTURE.ppm
//
//   ffmpeg -i clip.mp4 -ar 44100 -ac 2 sound.wav -frames:v 1 picture.ppm
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <kdcmae.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace {

std::string content_of(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(path + " cannot be read");
  return {std::istreambuf_iterator<char>(stream), {}};
}

struct Sound {
  std::vector<std::int16_t> values;
  std::size_t channels = 1;
  int sample_rate_hz = 0;
};

// 16-bit PCM, as ffmpeg writes it.
Sound read_wav(const std::string& path) {
  const std::string file = content_of(path);
  Sound sound;
  for (std::size_t place = 12; place + 8 <= file.size();) {
    std::uint32_t size = 0;
    std::memcpy(&size, &file[place + 4], 4);
    const std::size_t start = place + 8, length = std::min<std::size_t>(size, file.size() - start);
    if (file.compare(place, 4, "fmt ") == 0 && length >= 16) {
      sound.channels = static_cast<unsigned char>(file[start + 2]);
      std::memcpy(&sound.sample_rate_hz, &file[start + 4], 4);
      if (file[start + 14] != 16) throw std::runtime_error(path + " is not 16-bit PCM");
    } else if (file.compare(place, 4, "data") == 0) {
      sound.values.resize(length / 2);
      std::memcpy(sound.values.data(), &file[start], sound.values.size() * 2);
    }
    place = start + length + length % 2;
  }
  return sound;
}

struct Picture {
  std::string file;
  std::size_t start = 0;
  std::int64_t height = 0, width = 0;

  kdcmae::Frame frame() const { return {reinterpret_cast<const std::uint8_t*>(file.data() + start), height, width}; }
};

// Binary RGB with 8 bits per channel, as ffmpeg writes it.
Picture read_ppm(const std::string& path) {
  Picture picture;
  picture.file = content_of(path);
  std::istringstream header(picture.file);
  std::string kind;
  int most = 0;
  header >> kind >> picture.width >> picture.height >> most;
  picture.start = static_cast<std::size_t>(header.tellg()) + 1;
  const auto pixels = static_cast<std::size_t>(3 * picture.width * picture.height);
  if (!header || kind != "P6" || most != 255 || picture.start + pixels > picture.file.size())
    throw std::runtime_error(path + " is not an 8-bit PPM picture");
  return picture;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: classify ENGINE SOUND.wav PICTURE.ppm\n";
    return 2;
  }
  try {
    kdcmae::Engine engine(arguments[1]);
    const kdcmae::SelfTest test = engine.self_test();
    std::cerr << "self-test: " << test.text() << "\n";
    if (!test.passed()) return 1;
    const Sound sound = read_wav(arguments[2]);
    const Picture picture = read_ppm(arguments[3]);
    const kdcmae::Waveform waveform(sound.values.data(), sound.values.size() / sound.channels, sound.channels);
    for (const kdcmae::Prediction& prediction : engine.classify(waveform, sound.sample_rate_hz, picture.frame()))
      std::cout << std::setprecision(9) << prediction.score << "  " << prediction.label << "\n";
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
