// What this processor multiplies, and how many CPUs this process may keep busy: the Python package's runtime.cpu.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

namespace kdcmae::detail {

using Features = std::set<std::string>;

struct CpuClass {
  std::string name, machine;
  Features features;
};

inline Features operator|(const Features& some, const Features& more) {
  Features all(some);
  all.insert(more.begin(), more.end());
  return all;
}

inline const Features avx2 = {"avx", "avx2", "fma", "f16c"};
inline const Features avx512 = avx2 | Features{"avx512f", "avx512bw", "avx512vl", "avx512dq"};
inline const Features avx512_bf16 = avx512 | Features{"avx512_vnni", "avx512_bf16"};

// From the least to the most capable of an architecture: a processor belongs to the last whose features it has.
inline const std::vector<CpuClass>& cpu_classes() {
  static const std::vector<CpuClass> classes = {
      {"avx2", "x86_64", avx2},
      {"avx2-vnni", "x86_64", avx2 | Features{"avx_vnni"}},
      {"avx512", "x86_64", avx512},
      {"avx512-bf16", "x86_64", avx512_bf16},
      {"amx", "x86_64", avx512_bf16 | Features{"amx_tile", "amx_int8", "amx_bf16"}},
      {"arm64", "aarch64", {"asimd"}},
  };
  return classes;
}

// oneDNN, and so OpenVINO, uses no instructions above this cap; what each leaves of those that any cap controls.
inline void apply_cap(Features& features) {
  static const Features controlled =
      avx512_bf16 | Features{"avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"};
  static const std::map<std::string, Features> caps = {
      {"SSE41", {}},
      {"AVX", {"avx"}},
      {"AVX2", avx2},
      {"AVX2_VNNI", avx2 | Features{"avx_vnni"}},
      {"AVX2_VNNI_2", avx2 | Features{"avx_vnni"}},
      {"AVX512_CORE", avx512},
      {"AVX512_CORE_VNNI", avx512 | Features{"avx512_vnni"}},
      {"AVX512_CORE_BF16", avx512_bf16},
      {"AVX512_CORE_FP16", avx512_bf16 | Features{"avx512_fp16"}},
      {"AVX10_1_512", avx512_bf16 | Features{"avx512_fp16"}},
  };
  const char* variable = std::getenv("ONEDNN_MAX_CPU_ISA");
  std::string cap = variable ? variable : "";
  std::transform(cap.begin(), cap.end(), cap.begin(), [](unsigned char c) { return std::toupper(c); });
  const auto left = caps.find(cap);
  if (left == caps.end()) return;
  for (const std::string& feature : controlled)
    if (!left->second.count(feature)) features.erase(feature);
}

struct Cpu {
  std::string machine;
  Features features;  // empty where the system does not list them

  std::string class_name() const {
    std::string name;
    for (const CpuClass& candidate : cpu_classes())
      if (candidate.machine == machine && std::includes(features.begin(), features.end(), candidate.features.begin(),
                                                        candidate.features.end()))
        name = candidate.name;
    return name;
  }

  bool multiplies(const std::string& precision) const {
    if (precision == "bf16") return features.count("avx512_bf16") || features.count("amx_bf16");
    if (precision == "fp16") return features.count("avx512_fp16") || features.count("asimdhp");
    return precision == "fp32";
  }
};

inline Cpu this_cpu() {
  Cpu cpu;
#if defined(__x86_64__) || defined(_M_X64)
  cpu.machine = "x86_64";
#elif defined(__aarch64__)
  cpu.machine = "aarch64";
#endif
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.rfind("flags", 0) != 0 && line.rfind("Features", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string word; words >> word;) cpu.features.insert(word);
    break;
  }
  apply_cap(cpu.features);
  return cpu;
}

// CPU threads where this process may use fewer CPUs than the machine has, as by a container's quota; else 0. Libraries
// choose by the machine, and threads beyond a quota only make all of them wait.
inline int limited_threads() {
  const int all = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  int usable = all;
#ifdef __linux__
  cpu_set_t allowed;
  int online = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/cpu", ignored)) {
    const std::string name = entry.path().filename().string();
    online += name.rfind("cpu", 0) == 0 && name.size() > 3 && name.find_first_not_of("0123456789", 3) == std::string::npos;
  }
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) usable = CPU_COUNT(&allowed);
  std::ifstream quota("/sys/fs/cgroup/cpu.max");
  double allowed_us = 0, period_us = 0;
  if (quota >> allowed_us >> period_us && period_us > 0) usable = std::min(usable, static_cast<int>(allowed_us / period_us));
  return usable < std::max(online, all) ? std::max(1, usable) : 0;
#else
  return 0;
#endif
}

}  // namespace kdcmae::detail
