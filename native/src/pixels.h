// Products of 8-bit pixels with +-1 weights. A pixel p counts as the odd integer 2 p - 255, the sum
// of 2^b (2 bit_b(p) - 1) over its bits b: eight binary products of the same weights, added up
// inside the kernel. Rows are split into their bit planes a block at a time.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "conv_shape.h"
#include "multiply.h"

namespace binjax {
namespace pixels {

constexpr int kPlaneCount = 8;
constexpr int32_t kLargest = 255;  // sum of the weights of the planes

// Bits of n bytes (up to 32) to one word per plane, highest plane first, planes `stride` apart.
BINJAX_INLINE void word(const uint8_t* x, int64_t n, int64_t stride, uint32_t* out) {
  uint8_t bytes[32] = {};
  std::memcpy(bytes, x, static_cast<size_t>(n));
  uint32_t planes[kPlaneCount] = {};
  for (int q = 0; q < 4; ++q) {
    uint64_t eight = 0;
    for (int j = 0; j < 8; ++j) eight |= static_cast<uint64_t>(bytes[8 * q + j]) << (8 * j);
    for (int p = 0; p < kPlaneCount; ++p) {
      // The product's top byte gathers the lowest bits of the eight bytes, the first one lowest.
      const uint64_t bits = eight >> (kPlaneCount - 1 - p) & 0x0101010101010101;
      planes[p] |= static_cast<uint32_t>(bits * 0x0102040810204080 >> 56) << (8 * q);
    }
  }
  for (int p = 0; p < kPlaneCount; ++p) out[p * stride] = planes[p];
}

inline void row(const uint8_t* x, int64_t n, int64_t words, uint32_t* out) {
  for (int64_t w = 0; w < words; ++w) {
    word(x + 32 * w, std::min<int64_t>(32, n - 32 * w), words, out + w);
  }
}

#if BINJAX_X86
BINJAX_AVX512 inline void row512(const uint8_t* x, int64_t n, int64_t words, uint32_t* out) {
  for (int64_t w = 0; w < words; w += 2) {
    const int64_t left = n - 32 * w;
    const __mmask64 in = left >= 64 ? ~0ull : (1ull << left) - 1;
    __m512i v = _mm512_maskz_loadu_epi8(in, x + 32 * w);
    const size_t bytes = w + 1 < words ? 8 : 4;
    BINJAX_UNROLL
    for (int p = 0; p < kPlaneCount; ++p) {
      const uint64_t bits = _mm512_movepi8_mask(v);
      if (bytes == 8) {
        std::memcpy(out + p * words + w, &bits, 8);
      } else {
        out[p * words + w] = static_cast<uint32_t>(bits);
      }
      v = _mm512_add_epi8(v, v);
    }
  }
}

BINJAX_AVX2 inline void row_avx2(const uint8_t* x, int64_t n, int64_t words, uint32_t* out) {
  for (int64_t w = 0; w < words; ++w) {
    alignas(32) uint8_t tail[32] = {};
    const uint8_t* from = x + 32 * w;
    if (n - 32 * w < 32) {
      std::memcpy(tail, from, static_cast<size_t>(n - 32 * w));
      from = tail;
    }
    __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    BINJAX_UNROLL
    for (int p = 0; p < kPlaneCount; ++p) {
      out[p * words + w] = static_cast<uint32_t>(_mm256_movemask_epi8(v));
      v = _mm256_add_epi8(v, v);
    }
  }
}
#endif

// n bytes to planes [8][words], highest first, bits past the last byte 0.
inline void planes(const uint8_t* x, int64_t n, int64_t words, uint32_t* out) {
#if BINJAX_X86
  if (active_isa() == Isa::kAvx512) return row512(x, n, words, out);
  if (active_isa() == Isa::kAvx2) return row_avx2(x, n, words, out);
#endif
  row(x, n, words, out);
}

// What both sources have: where the planes of a block lie.
class Planes {
 public:
  explicit Planes(int64_t k) : k_(k), words_(ceil_div(k, 32)) {
    for (int p = 0; p < kPlaneCount; ++p) segment_[p] = p * words_;
  }
  int64_t bytes() const { return kRowBlock * kPlaneCount * words_ * 4; }

  uint32_t* row(void* scratch, int r) const {
    return static_cast<uint32_t*>(scratch) + r * kPlaneCount * words_;
  }
  void fill(Left& left, int base_step) const {
    left.base_step = base_step;
    left.segment = segment_;
    left.segments = kPlaneCount;
    left.words = words_;
  }
  int64_t k() const { return k_; }
  int64_t words() const { return words_; }

 private:
  int64_t k_, words_;
  int64_t segment_[kPlaneCount];
};

// Rows of a matrix of pixels [rows][k].
class MatrixSource {
 public:
  MatrixSource(const uint8_t* x, int64_t k)
      : x_(x), planes_(k), base_(kLargest * static_cast<int32_t>(k)) {}
  int64_t scratch_bytes() const { return planes_.bytes(); }
  void fill(Left& left, void* scratch) const {
    const int64_t k = planes_.k();
    for (int r = 0; r < left.rows; ++r) {
      uint32_t* to = planes_.row(scratch, r);
      planes(x_ + (left.first + r) * k, k, planes_.words(), to);
      left.row[r] = to;
      left.base[r] = &base_;
    }
    planes_.fill(left, 0);
  }

 private:
  const uint8_t* x_;
  Planes planes_;
  int32_t base_;
};

// Windows of images [n][h][w][channels], one row per output pixel: the kh * kw * channels bytes of
// a window lie without gaps, so 3 x 3 x 3 of them make one word per plane. Shapes are those of a
// convolution of one group; borders count for nothing.
class ConvSource {
 public:
  ConvSource(xla::ffi::ThreadPool& pool, const ConvShape& shape, const uint8_t* x,
             const uint32_t* w)
      : shape_(shape),
        planes_(shape.kh * shape.kw * shape.channels),
        base_(kLargest * static_cast<int32_t>(planes_.k())) {
    copy(pool, x);
    if (shape.padded()) correct(w);
    const bool joined = shape.dilation[1] == 1;
    for (int64_t i = 0; i < shape.kh; ++i) {
      for (int64_t j = 0; j < (joined ? 1 : shape.kw); ++j) {
        const int64_t tap = i * shape.dilation[0] * shape.padded_w() + j * shape.dilation[1];
        tap_.push_back(tap * shape.channels);
      }
    }
    tap_bytes_ = (joined ? shape.kw : 1) * shape.channels;
    window_bytes_ = ceil_div(planes_.k() + kCopy, 64) * 64;
  }

  int64_t scratch_bytes() const { return planes_.bytes() + kRowBlock * window_bytes_; }

  void fill(Left& left, void* scratch) const {
    const ConvShape& s = shape_;
    uint8_t* windows = static_cast<uint8_t*>(scratch) + planes_.bytes();
    int64_t x = left.first % s.out_w, rest = left.first / s.out_w;
    int64_t y = rest % s.out_h, image = rest / s.out_h;
    for (int r = 0; r < left.rows; ++r) {
      const int64_t row = image * s.padded_h() + y * s.stride[0];
      gather(image_ + (row * s.padded_w() + x * s.stride[1]) * s.channels,
             windows + r * window_bytes_);
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
    for (int r = 0; r < left.rows; ++r) {
      uint32_t* to = planes_.row(scratch, r);
      planes(windows + r * window_bytes_, planes_.k(), planes_.words(), to);
      left.row[r] = to;
    }
    planes_.fill(left, table_.empty() ? 0 : 1);
  }

 private:
  static constexpr int64_t kCopy = 16;  // bytes copied at a time, past the end too

  void gather(const uint8_t* from, uint8_t* to) const {
    for (const int64_t tap : tap_) {
      for (int64_t i = 0; i < tap_bytes_; i += kCopy) std::memcpy(to + i, from + tap + i, kCopy);
      to += tap_bytes_;
    }
  }

  // The images with their borders, of zeros, and room to read past the last window.
  void copy(xla::ffi::ThreadPool& pool, const uint8_t* x) {
    const ConvShape& s = shape_;
    const int64_t row = s.padded_w() * s.channels, rows = s.n * s.padded_h();
    copy_ = allocate(rows * row + kCopy);
    auto* to = static_cast<uint8_t*>(copy_.get());
    std::memset(to + rows * row, 0, kCopy);
    const int64_t step = std::max<int64_t>(1, 65536 / std::max<int64_t>(row, 1));
    parallel(pool, ceil_div(rows, step), [&](int64_t task) {
      for (int64_t i = task * step; i < std::min(rows, (task + 1) * step); ++i) {
        uint8_t* line = to + i * row;
        const int64_t y = i % s.padded_h() - s.pad[0];
        std::memset(line, 0, static_cast<size_t>(row));
        if (y < 0 || y >= s.h) continue;
        std::memcpy(line + s.pad[2] * s.channels,
                    x + (i / s.padded_h() * s.h + y) * s.w * s.channels,
                    static_cast<size_t>(s.w * s.channels));
      }
    });
    image_ = to;
  }

  // A border's zero bits are multiplied as -255: a tap outside adds 255 times the popcount of its
  // weights and is missing from the number of elements.
  void correct(const uint32_t* w) {
    const ConvShape& s = shape_;
    auto ys = inside(s.out_h, s.h, s.kh, s.stride[0], s.dilation[0], s.pad[0]);
    auto xs = inside(s.out_w, s.w, s.kw, s.stride[1], s.dilation[1], s.pad[2]);
    y_class_ = classes(ys);
    x_class_ = classes(xs);
    x_classes_ = static_cast<int64_t>(xs.size());
    table_.resize(ys.size() * xs.size() * static_cast<size_t>(s.n_out));
    std::vector<int32_t> ones(static_cast<size_t>(s.kh * s.kw));
    for (int64_t n = 0; n < s.n_out; ++n) {
      const uint32_t* weights = w + n * planes_.words();
      std::fill(ones.begin(), ones.end(), 0);
      for (int64_t k = 0; k < planes_.k(); ++k) {
        ones[k / s.channels] += static_cast<int32_t>(weights[k >> 5] >> (k & 31) & 1);
      }
      for (size_t y = 0; y < ys.size(); ++y) {
        for (size_t x = 0; x < xs.size(); ++x) {
          table_[(y * xs.size() + x) * s.n_out + n] =
              kLargest * counted_elements(s, ys[y], xs[x], ones.data());
        }
      }
    }
  }

  const ConvShape shape_;
  const Planes planes_;
  const int32_t base_;
  const uint8_t* image_ = nullptr;
  Memory copy_;
  std::vector<int64_t> tap_;  // offsets into an image
  int64_t tap_bytes_, window_bytes_;
  std::vector<int> y_class_, x_class_;
  int64_t x_classes_ = 0;
  std::vector<int32_t> table_;
};

}  // namespace pixels
}  // namespace binjax
