// Labels a camera and a microphone four times a second: a loop as an app has it, fed by ffmpeg.
//
//   ffmpeg -f v4l2 -i /dev/video0 -f alsa -i default ... | listen ENGINE WIDTH HEIGHT
//
// Standard input holds blocks of one shape: 0.25 s of sound (4000 samples of 16-bit mono at 16 kHz) and then one picture
// (HEIGHT x WIDTH x 3 bytes, RGB). The README shows how to make them of a file. Sound that is older than the model's
// window is forgotten.
#include <chrono>
#include <cstdint>
#include <iomanip>
#include <iostream>
#include <kdcmae.hpp>
#include <string>
#include <vector>

namespace {

constexpr std::size_t block = 4000;
constexpr int rate_hz = 16000;

template <typename T>
bool read(std::vector<T>& values) {
  std::cin.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
  return static_cast<std::size_t>(std::cin.gcount()) == values.size() * sizeof(T);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: listen ENGINE WIDTH HEIGHT < blocks\n";
    return 2;
  }
  try {
    kdcmae::Engine engine(arguments[1]);
    const std::int64_t width = std::stol(arguments[2]), height = std::stol(arguments[3]);
    const std::size_t window = engine.manifest().preprocessing.audio_samples();
    std::vector<std::int16_t> sound(block), heard;
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(3 * width * height));
    for (double seconds = 0.25; read(sound) && read(pixels); seconds += 0.25) {
      heard.insert(heard.end(), sound.begin(), sound.end());
      if (heard.size() > window) heard.erase(heard.begin(), heard.end() - static_cast<std::ptrdiff_t>(window));
      const auto start = std::chrono::steady_clock::now();
      const auto best = engine.classify({heard.data(), heard.size()}, rate_hz, {pixels.data(), height, width}, 1)[0];
      const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
      std::cout << std::fixed << std::setprecision(2) << std::setw(7) << seconds << " s  " << best.score << "  "
                << best.label << std::setprecision(1) << "  (" << taken.count() << " ms)\n";
    }
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
