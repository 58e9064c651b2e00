// Gradient of a binary convolution's images: out[image][pixel][c] = sum over taps and n of
// g[image][pixel - tap][n] w[tap][n][c], where w is +-1 and packed. The 16 signed sums of four
// neighbouring n of g are tabulated, and the bits of w choose among them. What the kernels of all
// instruction sets share. A dense layer is the case of one image, one row of as many pixels as the
// batch has rows, and one tap.
//
// Every element is summed in the same order however the work is divided among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bits.h"
#include "conv_shape.h"
#include "multiply.h"

namespace binjax {

struct InputGradient {
  ConvShape s;
  const float* g;         // [n][out_h][out_w][n_out]
  const uint32_t* w;      // [n_out][kh][kw][words]
  const uint32_t* mask;   // [n][h][w][groups][words] or null
  float* out;             // [n][h][w][groups][channels]
  const uint32_t* panel;  // [groups][tap][word of n][32 words], bits along n

  int64_t wide;           // pixels of a row for one task
  int64_t high;           // rows for one task
  int64_t channel_block;  // channels for one task, a multiple of 64 but for the last

  int64_t width() const { return s.n_out / s.groups; }
  int64_t n_words() const { return ceil_div(width(), 32); }
  int64_t fours() const { return ceil_div(width(), 4); }
  int64_t padded_channels() const { return s.words * 32; }
  // Source rows that one row of the result can need, and those between them.
  int64_t ring() const { return (s.kh - 1) * s.dilation[0] / s.stride[0] + 1; }
};

// Words of the panel for 32 n of a group and one tap.
inline void turn_kernels(const InputGradient& k, uint32_t* panel, int64_t group, int64_t tap,
                         int64_t word) {
  const ConvShape& s = k.s;
  const int64_t taps = s.kh * s.kw, n = word * 32;
  uint32_t* to = panel + ((group * taps + tap) * k.n_words() + word) * k.padded_channels();
  const uint32_t* from = k.w + ((group * k.width() + n) * taps + tap) * s.words;
  for (int64_t i = 0; i < s.words; ++i) {
    uint32_t block[32];
    gather_block(from + i, taps * s.words, k.width() - n, block);
    transpose32(block);
    std::copy(block, block + 32, to + i * 32);
  }
}

inline int64_t floor_div(int64_t a, int64_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

// Source row (or column) of a tap that has one; else -1.
inline int64_t source(int64_t at, int64_t stride, int64_t size) {
  return at >= 0 && at % stride == 0 && at / stride < size ? at / stride : -1;
}

}  // namespace binjax
