// Comparison of an engine's outputs with reference outputs, within limits: the Python package's kdcmae.runtime.metrics.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iomanip>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "array.hpp"
#include "error.hpp"

namespace kdcmae::detail {

using Row = std::vector<double>;
using Rows = std::vector<Row>;  // (samples, values)

constexpr double flat = 0.05;  // root mean square, in logits, below which classes are not told apart
constexpr double infinity = std::numeric_limits<double>::infinity();

inline Rows rows_of(const Array& array) {
  const Row wide = array.wide();
  const std::size_t samples = array.rows(), width = samples ? wide.size() / samples : 0;
  Rows rows;
  for (std::size_t i = 0; i < samples; ++i)
    rows.emplace_back(wide.begin() + static_cast<std::ptrdiff_t>(i * width),
                      wide.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
  return rows;
}

inline bool all_finite(const Row& row) {
  return std::all_of(row.begin(), row.end(), [](double value) { return std::isfinite(value); });
}

inline double mean_of(const Row& row) {
  return std::accumulate(row.begin(), row.end(), 0.0) / static_cast<double>(row.size());
}

inline double largest_of(const Row& row) {
  double largest = 0.0;
  for (const double value : row) largest = std::max(largest, std::abs(value));
  return largest;
}

inline double spread_of(const Row& row) {
  double sum = 0.0;
  for (const double value : row) sum += value * value;
  return std::sqrt(sum / static_cast<double>(row.size()));
}

inline Row moved(const Row& row, double by) {
  Row result(row);
  for (double& value : result) value -= by;
  return result;
}

// Logits -> probabilities.
inline Row scores_of(const Row& logits, const std::string& kind) {
  Row result(logits.size());
  if (kind == "sigmoid") {
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double x = logits[i];
      result[i] = std::exp(-(x >= 0 ? std::log1p(std::exp(-x)) : -x + std::log1p(std::exp(x))));
    }
    return result;
  }
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) sum += result[i] = std::exp(logits[i] - largest);
  for (double& value : result) value /= sum;
  return result;
}

// Limits of a precision, as golden.npz holds them.
struct Limits {
  std::optional<double> max_error;  // none where only cosines are limited
  double min_cosine = 0.0, max_distance = 1.0, outliers = 0.0, min_ranked = 0.0, tie = 0.0;

  double tolerance() const { return max_error.value_or(infinity); }
};

inline Limits limits_of(const nlohmann::json& facts) {
  Limits limits;
  if (!facts.at("max_error").is_null()) limits.max_error = facts.at("max_error").get<double>();
  limits.min_cosine = facts.at("min_cosine").get<double>();
  limits.max_distance = facts.at("max_distance").get<double>();
  limits.outliers = facts.at("outliers").get<double>();
  limits.min_ranked = facts.at("min_ranked").get<double>();
  limits.tie = facts.at("tie").get<double>();
  if (!(limits.outliers >= 0.0 && limits.outliers <= 1.0))
    fail(ErrorKind::engine, "a share of outliers must lie between 0 and 1, got ", limits.outliers);
  return limits;
}

struct Ranking {
  double pairs = 0.0, kept = 0.0;  // pairs that the reference separates, and those of them in the same order
};

// How many pairs of each row keep their order: those of the reference's ten best entries with every other.
inline Ranking kept_order(const Rows& actual, const Rows& expected, const Row& noise) {
  Ranking ranking;
  for (std::size_t row = 0; row < expected.size(); ++row) {
    const Row &ours = actual[row], &theirs = expected[row];
    std::vector<std::size_t> order(theirs.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return theirs[a] > theirs[b]; });
    order.resize(std::min<std::size_t>(10, order.size()));
    for (const std::size_t best : order)
      for (std::size_t other = 0; other < theirs.size(); ++other) {
        if (!(theirs[best] - theirs[other] > noise[row])) continue;
        ranking.pairs += 1.0;
        ranking.kept += ours[best] > ours[other] ? 1.0 : ours[best] == ours[other] ? 0.5 : 0.0;
      }
  }
  return ranking;
}

inline Rows transposed(const Rows& rows) {
  Rows result(rows[0].size(), Row(rows.size()));
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t j = 0; j < rows[i].size(); ++j) result[j][i] = rows[i][j];
  return result;
}

// (N, N - 1) cosines of each sample to the others.
inline Rows similarities(const Rows& features) {
  Rows result(features.size());
  Row lengths;
  for (const Row& row : features) lengths.push_back(spread_of(row) * std::sqrt(static_cast<double>(row.size())));
  for (std::size_t i = 0; i < features.size(); ++i)
    for (std::size_t j = 0; j < features.size(); ++j)
      if (i != j) {
        const double length = (lengths[i] ? lengths[i] : 1.0) * (lengths[j] ? lengths[j] : 1.0);
        result[i].push_back(
            std::inner_product(features[i].begin(), features[i].end(), features[j].begin(), 0.0) / length);
      }
  return result;
}

struct Comparison {
  Row errors, cosines;     // per sample
  double distance = -1.0;  // mean over samples, of the probabilities; negative for features
  double ranked = 1.0;     // the smaller share of pairs in order, of those rankings that there are

  double error() const { return errors.empty() ? 0.0 : *std::max_element(errors.begin(), errors.end()); }
};

inline double share(const Ranking& ranking) { return ranking.pairs > 0 ? ranking.kept / ranking.pairs : 1.0; }

inline double cosine(const Row& actual, const Row& expected, double least) {
  if (actual == expected) return 1.0;  // two zero vectors too
  const double more = least * least * static_cast<double>(actual.size());
  const auto squares = [&](const Row& row) { return std::inner_product(row.begin(), row.end(), row.begin(), more); };
  const double length = std::sqrt(squares(actual) * squares(expected));
  return std::inner_product(actual.begin(), actual.end(), expected.begin(), more) / (length ? length : 1.0);
}

// The median spread of all samples, and no less than what can be told apart.
inline double typical_spread(const Rows& centred, const std::string& kind) {
  if (kind == "features") return 0.0;
  Row spreads;
  for (const Row& row : centred) spreads.push_back(spread_of(row));
  std::sort(spreads.begin(), spreads.end());
  const double median = (spreads[(spreads.size() - 1) / 2] + spreads[spreads.size() / 2]) / 2.0;
  return std::max(kind == "sigmoid" && centred[0].size() == 1 ? 1.0 : flat, median);
}

inline void rank(Comparison& result, const Rows& actual, const Rows& expected, const std::string& kind, const Row& noise,
                 double tie) {
  if (kind == "sigmoid") {
    double squares = 0.0;
    for (const double value : noise) squares += value * value;
    const Row over_samples(expected[0].size(), std::sqrt(squares / static_cast<double>(noise.size())));
    result.ranked = std::min(share(kept_order(actual, expected, noise)),
                             share(kept_order(transposed(actual), transposed(expected), over_samples)));
  } else if (kind == "features" && expected.size() >= 8) {
    const Rows ours = similarities(actual), theirs = similarities(expected);
    Row apart;
    for (const Row& row : theirs)
      apart.push_back(tie * spread_of(moved(row, mean_of(row))) + 2.0 * std::numeric_limits<float>::epsilon());
    result.ranked = share(kept_order(ours, theirs, apart));
  }
}

// Compares one output of all samples with its reference; a row that is not finite makes every error infinite.
//   kind: "softmax", "sigmoid" or "features".
inline Comparison compare(const Rows& actual, const Rows& expected, const std::string& kind, double tie) {
  Comparison result;
  bool alike = actual.size() == expected.size();
  for (std::size_t i = 0; alike && i < expected.size(); ++i)
    alike = actual[i].size() == expected[i].size() && all_finite(actual[i]);
  if (!alike) {
    result.errors.assign(expected.size(), infinity);
    result.cosines.assign(expected.size(), -1.0);
    return result;
  }
  double overall = 0.0;
  for (const Row& row : expected) overall += mean_of(row) / static_cast<double>(expected.size());
  Rows ours, theirs;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double centre = kind == "softmax" ? mean_of(expected[i]) : kind == "sigmoid" ? overall : 0.0;
    theirs.push_back(moved(expected[i], centre));
    ours.push_back(moved(actual[i], kind == "softmax" ? mean_of(actual[i]) : centre));
  }
  const double typical = typical_spread(theirs, kind);
  Row noise;
  double distance = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    double apart = 0.0;
    for (std::size_t j = 0; j < ours[i].size(); ++j) apart = std::max(apart, std::abs(ours[i][j] - theirs[i][j]));
    const double scale = std::max(largest_of(theirs[i]), typical);
    result.errors.push_back(apart / (scale ? scale : 1.0));
    result.cosines.push_back(cosine(ours[i], theirs[i], typical / 2.0));
    if (kind == "features") continue;
    const auto largest = static_cast<float>(largest_of(expected[i]));
    const double resolution = std::nextafter(largest, std::numeric_limits<float>::infinity()) - largest;
    noise.push_back(tie * std::max(spread_of(theirs[i]), typical) + 2.0 * resolution);
    const Row mine = scores_of(actual[i], kind), reference = scores_of(expected[i], kind);
    double sum = 0.0, most = 0.0;
    for (std::size_t j = 0; j < mine.size(); ++j) {
      sum += std::abs(mine[j] - reference[j]);
      most = std::max(most, std::abs(mine[j] - reference[j]));
    }
    distance += (kind == "softmax" ? sum / 2.0 : most) / static_cast<double>(expected.size());
  }
  if (kind != "features") result.distance = distance;
  rank(result, actual, expected, kind, noise, tie);
  return result;
}

inline std::string scientific(double value, int digits) {
  std::ostringstream out;
  out << std::scientific << std::setprecision(digits) << value;
  return out.str();
}

inline std::string percent(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << 100.0 * value << "%";
  return out.str();
}

// What is out of the limits, in words; empty where nothing is. Votes of a handful of samples are no share of agreement,
// so that the first class is left to the self-test, which looks at each clip.
inline std::string problem_of(const Comparison& found, const Limits& limits, const std::string& name,
                              const std::string& kind) {
  const std::string centred = kind == "features" ? "" : ", centred,";
  for (const double error : found.errors)
    if (!std::isfinite(error)) return name + " is not finite on every sample, or of another shape";
  if (limits.max_error && !(found.error() <= *limits.max_error))
    return name + centred + " differs by " + scientific(found.error(), 1) + " of its spread, allowed " +
           scientific(*limits.max_error, 0);
  Row cosines = found.cosines;
  std::sort(cosines.begin(), cosines.end());
  const auto ignored = static_cast<std::size_t>(limits.outliers * static_cast<double>(cosines.size()));
  const double smallest = ignored < cosines.size() ? std::min(cosines[ignored], 1.0) : 1.0;
  if (!(smallest >= limits.min_cosine))
    return text("the cosine of ", name, centred, " is ", smallest,
                limits.outliers > 0 ? " but for " + percent(limits.outliers, 0) + " of the samples" : "", ", at least ",
                limits.min_cosine, " is needed");
  if (found.distance >= 0 && !(found.distance <= limits.max_distance))
    return "the probabilities of " + name + " differ by " + percent(found.distance, 2) + " on average, allowed " +
           percent(limits.max_distance, 2);
  if (found.ranked < limits.min_ranked)
    return percent(found.ranked, 1) + " of the pairs keep their order in " + name + ", at least " +
           percent(limits.min_ranked, 1) + " is needed";
  return "";
}

}  // namespace kdcmae::detail
