// Convolution of packed images [n][h][w][groups][words] with packed kernels [n_out][kh][kw][words]
// as a product whose left rows are read where they lie: the image is copied once with its padding
// (a thirty-second of the float image), and each tap is an offset into it.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "conv_shape.h"
#include "multiply.h"

namespace binjax {

BINJAX_INLINE int32_t popcount(const uint32_t* words, int64_t n) {
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += __builtin_popcount(words[i]);
  return static_cast<int32_t>(sum);
}
inline void tap_popcounts(const uint32_t* w, int64_t taps, int64_t words, int32_t* out) {
  for (int64_t t = 0; t < taps; ++t) out[t] = popcount(w + t * words, words);
}
#if BINJAX_X86
BINJAX_POPCNT inline void tap_popcounts_popcnt(const uint32_t* w, int64_t taps, int64_t words,
                                               int32_t* out) {
  for (int64_t t = 0; t < taps; ++t) out[t] = popcount(w + t * words, words);
}
#endif

// Left operand of a convolution: one row per output pixel.
class ConvSource {
 public:
  ConvSource(xla::ffi::ThreadPool& pool, const ConvShape& shape, const uint32_t* x,
             const uint32_t* w)
      : shape_(shape),
        image_(x),
        base_(static_cast<int32_t>(shape.channels * shape.kh * shape.kw)) {
    if (shape.padded()) pad(pool, x);
    if (shape.padded() && shape.pad_value == 0) correct(pool, w);
    const int64_t pixel = shape.groups * shape.words;
    const bool joined = shape.groups == 1 && shape.dilation[1] == 1;
    for (int64_t i = 0; i < shape.kh; ++i) {
      for (int64_t j = 0; j < (joined ? 1 : shape.kw); ++j) {
        const int64_t tap = i * shape.dilation[0] * shape.padded_w() + j * shape.dilation[1];
        segment_.push_back(tap * pixel);
      }
    }
    words_ = joined ? shape.kw * shape.words : shape.words;
  }

  int segments() const { return static_cast<int>(segment_.size()); }

  void fill(int64_t group, Left& left) const {
    const ConvShape& s = shape_;
    const int64_t pixel = s.groups * s.words;
    int64_t x = left.first % s.out_w, rest = left.first / s.out_w;
    int64_t y = rest % s.out_h, image = rest / s.out_h;
    for (int r = 0; r < left.rows; ++r) {
      const int64_t row = image * s.padded_h() + y * s.stride[0];
      left.row[r] = image_ + (row * s.padded_w() + x * s.stride[1]) * pixel + group * s.words;
      left.base[r] =
          table_.empty() ? &base_ : &table_[(y_class_[y] * x_classes_ + x_class_[x]) * s.n_out];
      if (++x == s.out_w) {
        x = 0;
        if (++y == s.out_h) {
          y = 0;
          ++image;
        }
      }
    }
    left.base_step = table_.empty() ? 0 : 1;
    left.segment = segment_.data();
    left.segments = segments();
    left.words = words_;
  }

 private:
  void pad(xla::ffi::ThreadPool& pool, const uint32_t* x) {
    const ConvShape& s = shape_;
    const int64_t pixel = s.groups * s.words, row = s.padded_w() * pixel;
    copy_ = allocate(s.n * s.padded_h() * row * 4);
    auto* to = static_cast<uint32_t*>(copy_.get());
    // The words of one pixel of padding; the bits past the last channel stay 0.
    std::vector<uint32_t> filler(static_cast<size_t>(pixel), 0);
    if (s.pad_value == 1) {
      for (int64_t i = 0; i < pixel; ++i) {
        const int64_t bits = s.channels - i % s.words * 32;
        filler[i] = bits >= 32 ? ~0u : (1u << bits) - 1;
      }
    }
    const auto fill = [&](uint32_t* begin, int64_t pixels) {
      if (s.pad_value != 1) {
        std::memset(begin, 0, static_cast<size_t>(pixels * pixel) * 4);
        return;
      }
      for (int64_t i = 0; i < pixels; ++i)
        std::copy(filler.begin(), filler.end(), begin + i * pixel);
    };
    const int64_t step = std::max<int64_t>(1, 16384 / row);
    const int64_t rows = s.n * s.padded_h();
    parallel(pool, ceil_div(rows, step), [&](int64_t task) {
      for (int64_t i = task * step; i < std::min(rows, (task + 1) * step); ++i) {
        uint32_t* line = to + i * row;
        const int64_t y = i % s.padded_h() - s.pad[0];
        if (y < 0 || y >= s.h) {
          fill(line, s.padded_w());
          continue;
        }
        fill(line, s.pad[2]);
        std::memcpy(line + s.pad[2] * pixel, x + (i / s.padded_h() * s.h + y) * s.w * pixel,
                    static_cast<size_t>(s.w * pixel) * 4);
        fill(line + (s.pad[2] + s.w) * pixel, s.pad[3]);
      }
    });
    image_ = to;
  }

  // Zero padding counts for nothing, but its words (zeros) are multiplied as -1: a tap outside adds
  // popcount(its weights) to the count and is missing from the number of elements.
  void correct(xla::ffi::ThreadPool& pool, const uint32_t* w) {
    const ConvShape& s = shape_;
    auto ys = inside(s.out_h, s.h, s.kh, s.stride[0], s.dilation[0], s.pad[0]);
    auto xs = inside(s.out_w, s.w, s.kw, s.stride[1], s.dilation[1], s.pad[2]);
    y_class_ = classes(ys);
    x_class_ = classes(xs);
    x_classes_ = static_cast<int64_t>(xs.size());
    table_.resize(ys.size() * xs.size() * static_cast<size_t>(s.n_out));
    const int64_t taps = s.kh * s.kw, step = std::max<int64_t>(1, 32768 / (taps * s.words));
    std::vector<int32_t> all_ones(static_cast<size_t>(s.n_out * taps));
    parallel(pool, ceil_div(s.n_out, step), [&](int64_t task) {
      for (int64_t n = task * step; n < std::min(s.n_out, (task + 1) * step); ++n) {
        const uint32_t* taps_of_n = w + n * taps * s.words;
        int32_t* ones = &all_ones[n * taps];
#if BINJAX_X86
        if (active_isa() != Isa::kScalar) {
          tap_popcounts_popcnt(taps_of_n, taps, s.words, ones);
        } else
#endif
        {
          tap_popcounts(taps_of_n, taps, s.words, ones);
        }
        for (size_t y = 0; y < ys.size(); ++y) {
          for (size_t x = 0; x < xs.size(); ++x) {
            table_[(y * xs.size() + x) * s.n_out + n] = counted_elements(s, ys[y], xs[x], ones);
          }
        }
      }
    });
  }

  const ConvShape shape_;
  const uint32_t* image_;
  const int32_t base_;
  Memory copy_;
  std::vector<int64_t> segment_;
  int64_t words_;
  std::vector<int> y_class_, x_class_;
  int64_t x_classes_ = 0;
  std::vector<int32_t> table_;
};

}  // namespace binjax
