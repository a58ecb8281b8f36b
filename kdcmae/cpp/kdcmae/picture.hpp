// An RGB frame -> the model's image input, as the Python package computes it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "array.hpp"
#include "error.hpp"
#include "manifest.hpp"

namespace kdcmae {

// A view of an RGB picture, 8 bits per channel, rows without gaps. A frame without pixels stands for a clip without
// picture.
struct Frame {
  const std::uint8_t* rgb = nullptr;
  std::int64_t height = 0, width = 0;

  bool given() const { return rgb != nullptr; }
};

namespace detail {

inline void check_frame(const Frame& frame) {
  if (frame.height < 1 || frame.width < 1)
    fail(ErrorKind::data, "frame of height ", frame.height, " and width ", frame.width, " is empty");
}

// One row of a resizing matrix: weights of neighbouring pixels from `first` on.
struct Weights {
  std::int64_t first = 0;
  std::vector<float> values;
};

// Antialiased bicubic resizing (a = -0.5) and centre crop of one direction, as PIL's BICUBIC does it.
inline std::vector<Weights> resize_crop(std::int64_t before, std::int64_t resized, std::int64_t kept) {
  const double scale = static_cast<double>(before) / static_cast<double>(resized);
  const double first = std::nearbyint(static_cast<double>(resized - kept) / 2.0);
  std::vector<Weights> rows(static_cast<std::size_t>(kept));
  for (std::int64_t row = 0; row < kept; ++row) {
    const double centre = (first + static_cast<double>(row) + 0.5) * scale, reach = 2.0 * std::max(scale, 1.0);
    const auto start = std::max<std::int64_t>(0, static_cast<std::int64_t>(std::floor(centre - reach - 0.5)));
    const auto end = std::min<std::int64_t>(before, static_cast<std::int64_t>(std::ceil(centre + reach + 0.5)));
    std::vector<double> weights;
    double sum = 0.0;
    for (std::int64_t pixel = start; pixel < end; ++pixel) {
      const double d = std::abs(static_cast<double>(pixel) + 0.5 - centre) / std::max(scale, 1.0);
      const double near = (1.5 * d - 2.5) * d * d + 1.0, far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0;
      weights.push_back(d < 1.0 ? near : d < 2.0 ? far : 0.0);
      sum += weights.back();
    }
    rows[static_cast<std::size_t>(row)].first = start;
    for (const double weight : weights)
      rows[static_cast<std::size_t>(row)].values.push_back(static_cast<float>(weight / sum));
  }
  return rows;
}

// (1, 3, size, size) float32, normalised: the short side resized, the centre cropped, along the width first.
inline Array prepare_image(const Frame& frame, const Preprocessing& facts) {
  check_frame(frame);
  const std::int64_t size = facts.image_size, side = std::min(frame.height, frame.width);
  const std::vector<Weights> rows = resize_crop(frame.height, size * frame.height / side, size);
  const std::vector<Weights> columns = resize_crop(frame.width, size * frame.width / side, size);
  Array image("float32", {1, 3, size, size});
  std::vector<float> wide(static_cast<std::size_t>(frame.height * size));
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    for (std::int64_t y = 0; y < frame.height; ++y)
      for (std::int64_t x = 0; x < size; ++x) {
        const Weights& seen = columns[static_cast<std::size_t>(x)];
        const std::uint8_t* pixel = frame.rgb + 3 * (y * frame.width + seen.first) + channel;
        float sum = 0.0f;
        for (std::size_t i = 0; i < seen.values.size(); ++i) sum += seen.values[i] * static_cast<float>(pixel[3 * i]);
        wide[static_cast<std::size_t>(y * size + x)] = std::clamp(sum, 0.0f, 255.0f);
      }
    float* plane = image.data<float>() + channel * size * size;
    const float mean = facts.image_mean[static_cast<std::size_t>(channel)];
    const float deviation = facts.image_std[static_cast<std::size_t>(channel)];
    for (std::int64_t y = 0; y < size; ++y)
      for (std::int64_t x = 0; x < size; ++x) {
        const Weights& seen = rows[static_cast<std::size_t>(y)];
        float sum = 0.0f;
        for (std::size_t i = 0; i < seen.values.size(); ++i)
          sum += seen.values[i] * wide[static_cast<std::size_t>((seen.first + static_cast<std::int64_t>(i)) * size + x)];
        plane[y * size + x] = (std::clamp(sum, 0.0f, 255.0f) / 255.0f - mean) / deviation;
      }
  }
  return image;
}

}  // namespace detail
}  // namespace kdcmae
