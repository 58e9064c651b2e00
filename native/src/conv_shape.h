// Sizes of a convolution of packed images [n][h][w][groups][words] with packed kernels
// [n_out][kh][kw][words], and which taps fall inside the image.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "ffi.h"
#include "parallel.h"

namespace binjax {

struct ConvShape {
  int64_t n, h, w, groups, words;  // image
  int64_t n_out, kh, kw;           // kernel
  int64_t out_h, out_w;
  int64_t channels;  // of one group
  int64_t stride[2], dilation[2];
  int64_t pad[4];     // top, bottom, left, right
  int64_t pad_value;  // -1, 0 or 1
  bool padded() const { return pad[0] || pad[1] || pad[2] || pad[3]; }
  int64_t padded_h() const { return h + pad[0] + pad[1]; }
  int64_t padded_w() const { return w + pad[2] + pad[3]; }
};

// Taps of one axis that fall inside the image, [first, second), for each output position.
inline std::vector<std::pair<int64_t, int64_t>> inside(int64_t out, int64_t size, int64_t taps,
                                                       int64_t stride, int64_t dilation,
                                                       int64_t low) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (int64_t i = 0; i < out; ++i) {
    const int64_t start = i * stride - low;
    const int64_t first = start >= 0 ? 0 : std::min(taps, ceil_div(-start, dilation));
    const int64_t last = start >= size ? 0 : std::min(taps, (size - 1 - start) / dilation + 1);
    ranges.emplace_back(first, std::max(first, last));
  }
  return ranges;
}

// Equal ranges numbered, first come first.
inline std::vector<int> classes(std::vector<std::pair<int64_t, int64_t>>& ranges) {
  std::vector<std::pair<int64_t, int64_t>> distinct;
  std::vector<int> index;
  for (const auto& range : ranges) {
    auto found = std::find(distinct.begin(), distinct.end(), range);
    index.push_back(static_cast<int>(found - distinct.begin()));
    if (found == distinct.end()) distinct.push_back(range);
  }
  ranges = std::move(distinct);
  return index;
}

// What the dot product of a window with taps outside the image starts from, where the border is
// zeros that are multiplied as -1: a tap outside, of which `ones` weights are +1, is missing from
// the number of elements and adds its ones to the count.
inline int32_t counted_elements(const ConvShape& s, const std::pair<int64_t, int64_t>& y,
                                const std::pair<int64_t, int64_t>& x, const int32_t* ones) {
  int64_t sum = s.channels * (y.second - y.first) * (x.second - x.first);
  for (int64_t i = 0; i < s.kh; ++i) {
    for (int64_t j = 0; j < s.kw; ++j) {
      const bool in = i >= y.first && i < y.second && j >= x.first && j < x.second;
      if (!in) sum += 2 * ones[i * s.kw + j];
    }
  }
  return static_cast<int32_t>(sum);
}

// Checked sizes of images [n][h][w][groups][words], kernels [n_out][kh][kw][words] and a result
// [n][out_h][out_w][any].
inline ffi::ErrorOr<ConvShape> conv_shape(Sizes xs, Sizes ws, Sizes result, int64_t channels,
                                          Sizes strides, Sizes dilation, Sizes padding,
                                          int64_t pad_value) {
  const auto wrong = [] {
    return ffi::Unexpected(mismatch("binjax conv: shapes and attributes do not fit together"));
  };
  if (xs.size() != 5 || ws.size() != 4 || result.size() != 4 || strides.size() != 2 ||
      dilation.size() != 2 || padding.size() != 4) {
    return wrong();
  }
  ConvShape s{xs[0],     xs[1],     xs[2],    xs[3], xs[4], ws[0], ws[1],    ws[2],
              result[1], result[2], channels, {},    {},    {},    pad_value};
  std::copy(strides.begin(), strides.end(), s.stride);
  std::copy(dilation.begin(), dilation.end(), s.dilation);
  std::copy(padding.begin(), padding.end(), s.pad);
  bool fits = channels > 0 && ws[3] == s.words && s.words == ceil_div(channels, 32) &&
              s.groups > 0 && s.n_out % s.groups == 0 && result[0] == s.n && pad_value >= -1 &&
              pad_value <= 1;
  for (int axis = 0; fits && axis < 2; ++axis) {
    const int64_t size = axis ? s.padded_w() : s.padded_h(), taps = axis ? s.kw : s.kh;
    const int64_t out = axis ? s.out_w : s.out_h;
    fits = s.stride[axis] > 0 && s.dilation[axis] > 0 && s.pad[2 * axis] >= 0 &&
           s.pad[2 * axis + 1] >= 0 && taps > 0 &&
           (out == 0 || (out - 1) * s.stride[axis] + (taps - 1) * s.dilation[axis] < size);
  }
  // The copy with its border, in memory that can be addressed.
  constexpr double kMost = double(int64_t{1} << 46);
  fits = fits && double(s.n) * double(s.padded_h()) * double(s.padded_w()) *
                         double(std::max(s.groups * s.words * 4, s.channels)) <
                     kMost;
  if (!fits) return wrong();
  return s;
}

}  // namespace binjax
