// Gradient of images with AVX-512: a table of 16 sums is a register, and a permutation looks 16
// channels up at once, an operation more than the addition for 64 multiply-accumulates. Tables of a
// source pixel are made once for all taps and channels.
#pragma once

#include <vector>

#include "input_gradient.h"

namespace binjax {

#if BINJAX_X86
namespace avx512 {

// One tap of a tile: tables of its first pixel, and bits of its channels.
struct Segment {
  const float* tables;
  const uint32_t* bits;
};

// Signed sums of four numbers: lane e has +f[j] where bit j of e is set, else -f[j].
BINJAX_AVX512 BINJAX_INLINE __m512 four_sums(const float* f, const __m512* signs) {
  const __m512 low = _mm512_fmadd_ps(_mm512_set1_ps(f[1]), signs[1],
                                     _mm512_mul_ps(_mm512_set1_ps(f[0]), signs[0]));
  const __m512 high = _mm512_fmadd_ps(_mm512_set1_ps(f[3]), signs[3],
                                      _mm512_mul_ps(_mm512_set1_ps(f[2]), signs[2]));
  return _mm512_add_ps(low, high);
}

// Tables of `pixels` source pixels, `stride` floats apart, `width` numbers each.
BINJAX_AVX512 inline void make_tables(const float* g, int64_t stride, int64_t pixels, int64_t width,
                                      int64_t fours, float* tables) {
  __m512 signs[4];
  for (int j = 0; j < 4; ++j) {
    alignas(64) float sign[16];
    for (int e = 0; e < 16; ++e) sign[e] = e >> j & 1 ? 1.f : -1.f;
    signs[j] = _mm512_load_ps(sign);
  }
  for (int64_t p = 0; p < pixels; ++p, g += stride) {
    int64_t q = 0;
    for (; q * 4 + 4 <= width; ++q, tables += 16) {
      _mm512_store_ps(tables, four_sums(g + q * 4, signs));
    }
    if (q < fours) {
      float f[4] = {};
      std::copy(g + q * 4, g + width, f);
      _mm512_store_ps(tables, four_sums(f, signs));
      tables += 16;
    }
  }
}

// kPixels neighbouring pixels by 16 kRegisters channels.
template <int kPixels, int kRegisters>
BINJAX_AVX512 BINJAX_INLINE void tile(const InputGradient& k, const std::vector<Segment>& segments,
                                      int64_t pixel_step, float* out, int64_t out_step,
                                      const uint32_t* mask, int64_t mask_step, int64_t channels) {
  __m512 sum[kPixels][kRegisters];
  BINJAX_UNROLL
  for (int p = 0; p < kPixels; ++p) {
    for (int r = 0; r < kRegisters; ++r) sum[p][r] = _mm512_setzero_ps();
  }
  const int64_t fours = k.fours(), line = k.padded_channels();
  for (const Segment& segment : segments) {
    const float* tables = segment.tables;
    const uint32_t* from = segment.bits;
    for (int64_t q = 0; q < fours; from += line) {
      __m512i bits[kRegisters];
      BINJAX_UNROLL
      for (int r = 0; r < kRegisters; ++r) bits[r] = _mm512_loadu_si512(from + 16 * r);
      for (const int64_t end = std::min(q + 8, fours); q < end; ++q, tables += 16) {
        BINJAX_UNROLL
        for (int p = 0; p < kPixels; ++p) {
          const __m512 table = _mm512_load_ps(tables + p * pixel_step);
          BINJAX_UNROLL
          for (int r = 0; r < kRegisters; ++r) {
            sum[p][r] = _mm512_add_ps(sum[p][r], _mm512_permutexvar_ps(bits[r], table));
          }
        }
        BINJAX_UNROLL
        for (int r = 0; r < kRegisters; ++r) bits[r] = _mm512_srli_epi32(bits[r], 4);
      }
    }
  }
  for (int p = 0; p < kPixels; ++p) {
    for (int r = 0; r < kRegisters && 16 * r < channels; ++r) {
      const int64_t left = channels - 16 * r;
      const __mmask16 in = static_cast<__mmask16>(left >= 16 ? 0xffff : (1u << left) - 1);
      __m512 v = sum[p][r];
      if (mask) {
        const uint32_t word = mask[p * mask_step + r / 2];
        v = _mm512_maskz_mov_ps(static_cast<__mmask16>(word >> (16 * (r & 1))), v);
      }
      _mm512_mask_storeu_ps(out + p * out_step + 16 * r, in, v);
    }
  }
}

template <int kRegisters>
BINJAX_AVX512 inline void tiles(int pixels, const InputGradient& k,
                                const std::vector<Segment>& segments, int64_t pixel_step,
                                float* out, int64_t out_step, const uint32_t* mask,
                                int64_t mask_step, int64_t channels) {
  switch (pixels) {
#define BINJAX_PIXELS(n) \
  case n:                \
    return tile<n, kRegisters>(k, segments, pixel_step, out, out_step, mask, mask_step, channels);
    BINJAX_PIXELS(1)
    BINJAX_PIXELS(2)
    BINJAX_PIXELS(3)
    BINJAX_PIXELS(4)
    BINJAX_PIXELS(5)
    BINJAX_PIXELS(6)
#undef BINJAX_PIXELS
  }
}

constexpr int kMostPixels = 6;

class InputGradientTask {
 public:
  InputGradientTask(const InputGradient& k) : k_(k), s_(k.s) {
    const int64_t reach = (s_.kw - 1) * s_.dilation[1];
    source_wide_ = (k.wide + reach) / s_.stride[1] + 2;
    pixel_ = k.fours() * 16;
    row_ = source_wide_ * pixel_;
  }
  int64_t scratch_bytes() const { return k_.ring() * row_ * 4; }

  BINJAX_AVX512 void run(int64_t image, int64_t y0, int64_t x0, int64_t group, int64_t c0,
                         float* scratch) const {
    const int64_t rows = std::min(k_.high, s_.h - y0), wide = std::min(k_.wide, s_.w - x0);
    const int64_t channels = std::min(k_.channel_block, s_.channels - c0);
    std::vector<int64_t> held(static_cast<size_t>(k_.ring()), -1);
    std::vector<Segment> segments;
    // Source pixel of dest x by tap j: (x + pad - j dilation) / stride; the first one needed:
    const int64_t reach = (s_.kw - 1) * s_.dilation[1];
    const int64_t lowest = floor_div(x0 + s_.pad[2] - reach, s_.stride[1]);
    const int64_t highest = floor_div(x0 + wide - 1 + s_.pad[2], s_.stride[1]) + 1;
    for (int64_t y = y0; y < y0 + rows; ++y) {
      for (int64_t rx = 0; rx < s_.stride[1] && rx < wide; ++rx) {
        const int64_t count = ceil_div(wide - rx, s_.stride[1]);
        const int64_t parts = ceil_div(count, kMostPixels);
        for (int64_t part = 0, begin = 0; part < parts; ++part) {
          const int pixels = static_cast<int>((count - begin + parts - part - 1) / (parts - part));
          const int64_t x = x0 + rx + begin * s_.stride[1];
          for (int64_t c = 0; c < channels; c += 64) {
            collect(image, y, x, group, c0 + c, lowest, highest, held, segments, scratch);
            const int64_t pixel = ((image * s_.h + y) * s_.w + x) * s_.groups + group;
            float* out = k_.out + pixel * s_.channels + c0 + c;
            const int64_t step = s_.stride[1] * s_.groups;
            const uint32_t* mask = k_.mask ? k_.mask + pixel * s_.words + (c0 + c) / 32 : nullptr;
            const int64_t left = channels - c;
            if (left > 32) {
              tiles<4>(pixels, k_, segments, pixel_, out, step * s_.channels, mask, step * s_.words,
                       left);
            } else if (left > 16) {
              tiles<2>(pixels, k_, segments, pixel_, out, step * s_.channels, mask, step * s_.words,
                       left);
            } else {
              tiles<1>(pixels, k_, segments, pixel_, out, step * s_.channels, mask, step * s_.words,
                       left);
            }
          }
          begin += pixels;
        }
      }
    }
  }

 private:
  // Segments of a tile that begins at pixel (y, x): the taps that some source row has.
  BINJAX_AVX512 void collect(int64_t image, int64_t y, int64_t x, int64_t group, int64_t c,
                             int64_t lowest, int64_t highest, std::vector<int64_t>& held,
                             std::vector<Segment>& segments, float* scratch) const {
    segments.clear();
    for (int64_t i = 0; i < s_.kh; ++i) {
      const int64_t at = y + s_.pad[0] - i * s_.dilation[0];
      const int64_t row = source(at, s_.stride[0], s_.out_h);
      if (row < 0) continue;
      const int64_t slot = row % k_.ring();
      float* tables = scratch + slot * row_;
      if (held[slot] != row) {
        fill(image, row, group, lowest, highest, tables);
        held[slot] = row;
      }
      for (int64_t j = 0; j < s_.kw; ++j) {
        const int64_t sx = x + s_.pad[2] - j * s_.dilation[1];
        if (floor_div(sx, s_.stride[1]) * s_.stride[1] != sx) continue;
        const int64_t tap = (group * s_.kh + i) * s_.kw + j;
        segments.push_back({tables + (floor_div(sx, s_.stride[1]) - lowest) * pixel_,
                            k_.panel + tap * k_.n_words() * k_.padded_channels() + c});
      }
    }
  }

  BINJAX_AVX512 void fill(int64_t image, int64_t source, int64_t group, int64_t lowest,
                          int64_t highest, float* tables) const {
    const int64_t first = std::max<int64_t>(lowest, 0), last = std::min(highest, s_.out_w);
    const int64_t before = std::min(first, highest) - lowest;
    const int64_t after = highest - std::max(last, first);
    if (before > 0) std::memset(tables, 0, static_cast<size_t>(before * pixel_) * 4);
    if (last > first) {
      const float* g =
          k_.g + ((image * s_.out_h + source) * s_.out_w + first) * s_.n_out + group * k_.width();
      make_tables(g, s_.n_out, last - first, k_.width(), k_.fours(),
                  tables + (first - lowest) * pixel_);
    }
    if (after > 0) {
      std::memset(tables + (highest - after - lowest) * pixel_, 0,
                  static_cast<size_t>(after * pixel_) * 4);
    }
  }

  const InputGradient& k_;
  const ConvShape& s_;
  int64_t source_wide_, pixel_, row_;
};

}  // namespace avx512
#endif

}  // namespace binjax
