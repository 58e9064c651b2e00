// Gradient of images for any instruction set: a table holds the sums of several neighbouring
// pixels, and one channel is looked up at a time.
#pragma once

#include "input_gradient.h"
#include "lanes.h"

namespace binjax {

template <int kLanes>
struct InputGradientLanes {
  using L = Lanes<kLanes>;
  static constexpr int64_t kChannels = 512;  // whose sums stay in the nearest cache
  static constexpr int64_t kTables = 8 * 16 * kLanes;

  static int64_t scratch_bytes() { return (kTables + (kChannels + 4) * kLanes) * 4; }

  static BINJAX_INLINE void run(const InputGradient& k, int64_t image, int64_t y0, int64_t x0,
                                int64_t group, int64_t c0, float* scratch) {
    const ConvShape& s = k.s;
    const int64_t rows = std::min(k.high, s.h - y0), wide = std::min(k.wide, s.w - x0);
    const int64_t channels = std::min(k.channel_block, s.channels - c0);
    for (int64_t y = y0; y < y0 + rows; ++y) {
      for (int64_t rx = 0; rx < s.stride[1] && rx < wide; ++rx) {
        const int64_t count = ceil_div(wide - rx, s.stride[1]);
        for (int64_t i = 0; i < count; i += kLanes) {
          const int64_t lanes = std::min<int64_t>(kLanes, count - i);
          for (int64_t c = 0; c < channels; c += kChannels) {
            window(k, image, y, x0 + rx + i * s.stride[1], lanes, group, c0 + c,
                   std::min(kChannels, channels - c), scratch);
          }
        }
      }
    }
  }

 private:
  static BINJAX_INLINE void window(const InputGradient& k, int64_t image, int64_t y, int64_t x,
                                   int64_t lanes, int64_t group, int64_t c, int64_t channels,
                                   float* scratch) {
    const ConvShape& s = k.s;
    float* sums = scratch + kTables;
    std::memset(sums, 0, static_cast<size_t>(channels * kLanes) * 4);
    for (int64_t i = 0; i < s.kh; ++i) {
      const int64_t row = source(y + s.pad[0] - i * s.dilation[0], s.stride[0], s.out_h);
      if (row < 0) continue;
      for (int64_t j = 0; j < s.kw; ++j) {
        const int64_t at = x + s.pad[2] - j * s.dilation[1];
        const int64_t column = floor_div(at, s.stride[1]);
        if (column * s.stride[1] != at || column + lanes <= 0 || column >= s.out_w) continue;
        const float* g = k.g + ((image * s.out_h + row) * s.out_w + column) * s.n_out;
        const int64_t tap = (group * s.kh + i) * s.kw + j;
        for (int64_t word = 0; word < k.n_words(); ++word) {
          tabulate(k, g + group * k.width(), column, lanes, word * 32, scratch);
          const uint32_t* bits = k.panel + (tap * k.n_words() + word) * k.padded_channels() + c;
          look_up(bits, channels, scratch, sums);
        }
      }
    }
    write(k, image, y, x, lanes, group, c, channels, sums);
  }

  // Tables of 32 numbers from n on, at source pixels [column, column + lanes); zero past the row.
  static BINJAX_INLINE void tabulate(const InputGradient& k, const float* g, int64_t column,
                                     int64_t lanes, int64_t n, float* tables) {
    const ConvShape& s = k.s;
    const int64_t first = std::max<int64_t>(0, -column);
    const int64_t last = std::min(lanes, s.out_w - column), count = k.width() - n;
    for (int64_t q = 0; q < 8; ++q) {
      alignas(64) float f[4][kLanes] = {};
      const int64_t numbers = std::clamp<int64_t>(count - 4 * q, 0, 4);
      for (int64_t p = first; p < last; ++p) {
        const float* from = g + p * s.n_out + n + 4 * q;
        for (int64_t t = 0; t < numbers; ++t) f[t][p] = from[t];
      }
      const typename L::Vector v[4] = {L::load(f[0]), L::load(f[1]), L::load(f[2]), L::load(f[3])};
      signed_sums<kLanes>(v, tables + q * 16 * kLanes);
    }
  }

  static BINJAX_INLINE void look_up(const uint32_t* bits, int64_t channels, const float* tables,
                                    float* sums) {
    for (int64_t c = 0; c < channels; ++c) {
      const uint64_t b = bits[c];
      typename L::Vector even = L::load(entry<kLanes, 4>(tables, b, 0));
      typename L::Vector odd = L::load(entry<kLanes, 4>(tables, b, 1));
      BINJAX_UNROLL
      for (int q = 2; q < 8; q += 2) {
        even += L::load(entry<kLanes, 4>(tables, b, q));
        odd += L::load(entry<kLanes, 4>(tables, b, q + 1));
      }
      float* sum = sums + c * kLanes;
      L::store(sum, L::load(sum) + (even + odd));
    }
  }

  static BINJAX_INLINE void write(const InputGradient& k, int64_t image, int64_t y, int64_t x,
                                  int64_t lanes, int64_t group, int64_t c, int64_t channels,
                                  const float* sums) {
    const ConvShape& s = k.s;
    for (int64_t p = 0; p < lanes; ++p) {
      const int64_t at = (image * s.h + y) * s.w + x + p * s.stride[1];
      const int64_t pixel = at * s.groups + group;
      float* out = k.out + pixel * s.channels + c;
      const uint32_t* mask = k.mask ? k.mask + pixel * s.words + c / 32 : nullptr;
      for (int64_t i = 0; i < channels; ++i) {
        const bool passes = !mask || (mask[i >> 5] >> (i & 31) & 1);
        out[i] = passes ? sums[i * kLanes + p] : 0;
      }
    }
  }
};

}  // namespace binjax
