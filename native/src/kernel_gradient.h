// Gradient of a binary convolution's kernels: out[tap][c][n] = sum over images and pixels of
// x[image][pixel + tap][c] g[image][pixel][n], where x is +-1 and packed. "Four Russians": for five
// images at a time the 32 signed sums of their rows of g are tabulated, and the bits of x choose
// among them, so an addition does the work of five multiply-accumulates. Bits run along the images:
// a tap then only moves the pixel. A dense layer is the case of one pixel and one tap.
//
// Every element is summed in the same order however the work is divided among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bits.h"
#include "conv_shape.h"
#include "lanes.h"
#include "multiply.h"

namespace binjax {

constexpr int kFive = 5;            // images of one table
constexpr int kChunk = 12 * kFive;  // images whose bits fill a word of uint64_t: 24 KiB of tables
constexpr int64_t kTableFloats = 12 << kFive;    // of one lane
constexpr int64_t kAccumulatorBytes = 80 << 10;  // of one vector of columns
// A matrix is written in pieces of this many vectors of a row: with one, every store is to another
// page.
constexpr int64_t kRowVectors = 4, kMatrixChannels = 1280;

struct KernelGradient {
  ConvShape s;
  const float* g;                       // [n][out_h][out_w][n_out]
  const uint32_t* x;                    // [n][h][w][groups][words]
  const uint32_t* mask;                 // [kh][kw][channels][ceil(n_out / 32)] or null
  float* out;                           // [kh][kw][channels][n_out]
  const uint64_t* bits;                 // [chunk][h][w][groups][32 words], along images
  const uint64_t* outside;              // bits of one pixel of padding, null if that is zero
  int64_t block;                        // channels of a task
  int64_t vectors;                      // of columns of a task
  int64_t channel_tasks, column_tasks;  // of a group
  int64_t chunks() const { return ceil_div(s.n, kChunk); }
  int64_t padded_channels() const { return s.words * 32; }
  int64_t pixel_bits() const { return s.groups * padded_channels(); }
};

// Bits along images, for one chunk and row of pixels.
inline void turn_images(const KernelGradient& k, uint64_t* bits, int64_t chunk, int64_t y) {
  const ConvShape& s = k.s;
  const int64_t pixel = s.groups * s.words, image = s.h * s.w * pixel, first = chunk * kChunk;
  const int64_t images = std::min<int64_t>(kChunk, s.n - first);
  uint64_t* to = bits + (chunk * s.h + y) * s.w * k.pixel_bits();
  const uint32_t* from = k.x + first * image + y * s.w * pixel;
  for (int64_t i = 0; i < s.w * pixel; ++i, to += 32) {
    uint32_t low[32], high[32];
    gather_block(from + i, image, images, low);
    transpose32(low);
    if (images > 32) {
      gather_block(from + i + 32 * image, image, images - 32, high);
      transpose32(high);
      for (int c = 0; c < 32; ++c) to[c] = low[c] | static_cast<uint64_t>(high[c]) << 32;
    } else {
      for (int c = 0; c < 32; ++c) to[c] = low[c];
    }
  }
}

// Adds the tabulated sums of kGroups fives of images to the accumulators of `count` channels.
template <int kLanes, int kGroups>
BINJAX_INLINE void add_groups(const uint64_t* bits, int64_t count, const float* tables,
                              float* accumulators) {
  using L = Lanes<kLanes>;
  for (int64_t c = 0; c < count; ++c) {
    const uint64_t b = bits[c];
    typename L::Vector even = L::load(entry<kLanes, kFive>(tables, b, 0)), odd = {};
    if (kGroups > 1) odd = L::load(entry<kLanes, kFive>(tables, b, 1));
    BINJAX_UNROLL
    for (int q = 2; q < kGroups; q += 2) {
      even += L::load(entry<kLanes, kFive>(tables, b, q));
      if (q + 1 < kGroups) odd += L::load(entry<kLanes, kFive>(tables, b, q + 1));
    }
    float* sum = accumulators + c * kLanes;
    L::store(sum, L::load(sum) + (even + odd));
  }
}

// Zeroes of `lanes` numbers those whose bit, from bit n on, is not set.
template <int kLanes>
BINJAX_INLINE void hide(const uint32_t* words, int64_t n, int64_t lanes, float* values) {
  uint64_t bits = words[n >> 5];
  if ((n & 31) + lanes > 32) bits |= static_cast<uint64_t>(words[(n >> 5) + 1]) << 32;
  const uint32_t own = static_cast<uint32_t>(bits >> (n & 31));
  if (own == 0xffffffffu) return;
  for (int j = 0; j < kLanes; ++j) {
    uint32_t value;
    std::memcpy(&value, values + j, 4);
    value &= 0u - (own >> j & 1);
    std::memcpy(values + j, &value, 4);
  }
}

template <int kLanes>
BINJAX_INLINE void add(int groups, const uint64_t* bits, int64_t count, const float* tables,
                       float* accumulators) {
  switch (groups) {
#define BINJAX_GROUPS(n) \
  case n: return add_groups<kLanes, n>(bits, count, tables, accumulators);
    BINJAX_GROUPS(1)
    BINJAX_GROUPS(2)
    BINJAX_GROUPS(3)
    BINJAX_GROUPS(4)
    BINJAX_GROUPS(5)
    BINJAX_GROUPS(6)
    BINJAX_GROUPS(7)
    BINJAX_GROUPS(8)
    BINJAX_GROUPS(9)
    BINJAX_GROUPS(10)
    BINJAX_GROUPS(11)
    BINJAX_GROUPS(12)
#undef BINJAX_GROUPS
  }
}

// Sums of one task and kLanes columns from n0 on: [tap][count][kLanes].
template <int kLanes>
BINJAX_INLINE void sum_columns(const KernelGradient& k, int64_t group, int64_t c0, int64_t count,
                               int64_t n0, int64_t lanes, float* tables, float* sums) {
  using L = Lanes<kLanes>;
  const ConvShape& s = k.s;
  std::memset(sums, 0, static_cast<size_t>(s.kh * s.kw * count * kLanes) * sizeof(float));
  const int64_t image = s.out_h * s.out_w * s.n_out;
  for (int64_t chunk = 0; chunk < k.chunks(); ++chunk) {
    const int64_t first = chunk * kChunk, images = std::min<int64_t>(kChunk, s.n - first);
    const int groups = static_cast<int>(ceil_div(images, kFive));
    for (int64_t pixel = 0; pixel < s.out_h * s.out_w; ++pixel) {
      const float* g = k.g + first * image + pixel * s.n_out + n0;
      for (int q = 0; q < groups; ++q) {
        typename L::Vector f[kFive];
        for (int j = 0; j < kFive; ++j) {
          const int64_t i = kFive * q + j;
          f[j] = i < images ? L::load(g + i * image, lanes) : typename L::Vector{};
        }
        five_signed_sums<kLanes>(f, tables + (q << kFive) * kLanes);
      }
      const int64_t top = pixel / s.out_w * s.stride[0] - s.pad[0];
      const int64_t left = pixel % s.out_w * s.stride[1] - s.pad[2];
      for (int64_t i = 0; i < s.kh; ++i) {
        const int64_t y = top + i * s.dilation[0];
        for (int64_t j = 0; j < s.kw; ++j) {
          const int64_t x = left + j * s.dilation[1];
          const bool in = y >= 0 && y < s.h && x >= 0 && x < s.w;
          if (!in && !k.outside) continue;
          const int64_t at = ((chunk * s.h + y) * s.w + x) * k.pixel_bits();
          const uint64_t* bits = in ? k.bits + at + group * k.padded_channels() + c0 : k.outside;
          add<kLanes>(groups, bits, count, tables, sums + (i * s.kw + j) * count * kLanes);
        }
      }
    }
  }
}

template <int kLanes>
BINJAX_INLINE void task(const KernelGradient& k, int64_t index, float* scratch) {
  using L = Lanes<kLanes>;
  const ConvShape& s = k.s;
  const int64_t width = s.n_out / s.groups, taps = s.kh * s.kw;
  const int64_t column = index % k.column_tasks, rest = index / k.column_tasks;
  const int64_t c0 = rest % k.channel_tasks * k.block, group = rest / k.channel_tasks;
  const int64_t count = std::min(k.block, s.channels - c0), end = (group + 1) * width;
  const int64_t n0 = group * width + column * k.vectors * kLanes;
  const int64_t n1 = std::min(end, n0 + k.vectors * kLanes);
  const int64_t size = taps * count * kLanes;
  float* sums = scratch + kTableFloats * kLanes;
  for (int64_t n = n0, v = 0; n < n1; n += kLanes, ++v) {
    const int64_t lanes = std::min<int64_t>(kLanes, end - n);
    sum_columns<kLanes>(k, group, c0, count, n, lanes, scratch, sums + v * size);
  }
  const int64_t mask_words = ceil_div(s.n_out, 32);
  for (int64_t t = 0; t < taps; ++t) {
    for (int64_t c = 0; c < count; ++c) {
      const int64_t row = t * s.channels + c0 + c;
      const uint32_t* words = k.mask ? k.mask + row * mask_words : nullptr;
      for (int64_t n = n0; n < n1; n += kLanes) {
        const int64_t lanes = std::min<int64_t>(kLanes, n1 - n);
        float* from = sums + (n - n0) / kLanes * size + (t * count + c) * kLanes;
        if (words) hide<kLanes>(words, n, lanes, from);
        L::store(k.out + row * s.n_out + n, L::load(from), lanes);
      }
    }
  }
}

}  // namespace binjax
