// What the tests ask of the header; one line of JSON per answer.
//
//   driver inputs ENGINE CLIP      the arrays that a clip becomes, raw, into CLIP/NAME.bin
//   driver classify ENGINE CLIP    labels and scores of a clip
//   driver self-test ENGINE        1 where it does not pass
//   driver threads ENGINE CLIP N M N threads classify M times each; 1 where an answer differs
//
// CLIP is a folder: clip.json says rate, channels, samples, type, height and width of sound.bin and frame.bin.
#include <atomic>
#include <fstream>
#include <iostream>
#include <kdcmae.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

using nlohmann::json;

std::string content_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

class Clip {
 public:
  explicit Clip(const std::filesystem::path& folder)
      : facts_(json::parse(content_of(folder / "clip.json"))),
        sound_(content_of(folder / "sound.bin")),
        frame_(content_of(folder / "frame.bin")) {}

  kdcmae::Waveform waveform() const {
    if (sound_.empty()) return {};
    const std::size_t samples = facts_.at("samples"), channels = facts_.at("channels");
    if (facts_.at("type") == "int16") return {reinterpret_cast<const std::int16_t*>(sound_.data()), samples, channels};
    return {reinterpret_cast<const float*>(sound_.data()), samples, channels};
  }
  int rate() const { return facts_.at("rate"); }
  kdcmae::Frame frame() const {
    if (frame_.empty()) return {};
    return {reinterpret_cast<const std::uint8_t*>(frame_.data()), facts_.at("height"), facts_.at("width")};
  }

 private:
  json facts_;
  std::string sound_, frame_;
};

json shown(const std::vector<kdcmae::Prediction>& predictions) {
  json list = json::array();
  for (const kdcmae::Prediction& prediction : predictions) list.push_back({prediction.label, prediction.score});
  return list;
}

int threads(kdcmae::Engine& engine, const Clip& clip, int count, int calls) {
  const json expected = shown(engine.classify(clip.waveform(), clip.rate(), clip.frame()));
  std::atomic<int> different{0};
  std::vector<std::thread> workers;
  for (int i = 0; i < count; ++i)
    workers.emplace_back([&] {
      for (int call = 0; call < calls; ++call)
        different += shown(engine.classify(clip.waveform(), clip.rate(), clip.frame())) != expected;
    });
  for (std::thread& worker : workers) worker.join();
  std::cout << json{{"different", different.load()}} << "\n";
  return different > 0;
}

int run(const std::vector<std::string>& words) {
  kdcmae::Engine engine(words.at(1));
  if (words[0] == "self-test") {
    const kdcmae::SelfTest test = engine.self_test();
    std::cout << json{{"passed", test.passed()},   {"problems", test.problems}, {"max_error", test.max_error},
                      {"decided", test.decided}, {"clips", test.clips},       {"text", test.text()}}
              << "\n";
    return !test.passed();
  }
  const Clip clip(words.at(2));
  if (words[0] == "threads") return threads(engine, clip, std::stoi(words.at(3)), std::stoi(words.at(4)));
  if (words[0] == "classify") {
    std::cout << shown(engine.classify(clip.waveform(), clip.rate(), clip.frame(), 1000)) << "\n";
    return 0;
  }
  json names = json::object();
  for (const auto& [name, array] :
       kdcmae::detail::inputs_of(engine.manifest(), clip.waveform(), clip.rate(), clip.frame())) {
    std::ofstream stream(std::filesystem::path(words[2]) / (name + ".bin"), std::ios::binary);
    stream.write(reinterpret_cast<const char*>(array.bytes()), static_cast<std::streamsize>(array.size_in_bytes()));
    names[name] = {array.dtype(), array.shape()};
  }
  std::cout << names << "\n";
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run({arguments + 1, arguments + count});
  } catch (const kdcmae::Error& error) {
    std::cout << json{{"error", error.what()}, {"kind", static_cast<int>(error.kind())}} << "\n";
    return 2;
  }
}
