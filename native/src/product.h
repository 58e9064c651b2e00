// What a kernel of +-1 dot products takes and gives. Packed words: bit j of word i is element 32 i
// + j, 1 means +1, padding bits are 0; a dot product is base - 2 popcount(a ^ b), where base is the
// number of elements (less what lies on zero padding, in a convolution).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "target.h"

namespace binjax {

constexpr int kPanel = 32;     // output columns computed together: one word of output bits
constexpr int kRowBlock = 64;  // rows that stay in the nearest cache while panels pass by

// Left operand, up to kRowBlock rows: row r, word w of segment s is at row[r][segment[s] + w]. A
// matrix has one segment; a convolution reads every tap of the padded image in place. base[r]
// points to the bases of row r: one number for all columns (base_step 0) or one for each (base_step
// 1). Kernels with kPlanes take the segments as the bit planes of integers, highest first: each
// meets the same weights and counts twice as much as the next.
struct Left {
  const uint32_t* row[kRowBlock];
  const int32_t* base[kRowBlock];
  int base_step;
  int64_t first;  // row of the output that row[0] is for
  int rows;
  const int64_t* segment;
  int segments;
  int64_t words;  // of one segment
};

// Up to 32 neighbouring output columns: the first one, how many, and their weights in both forms a
// kernel may want: `panel`, 64-byte aligned, in the kernel's own order, columns past the last one
// zero; `rows` [column][word], as they came.
struct Columns {
  int64_t first;
  int count;
  const void* panel;
  const uint32_t* rows;
  uint32_t mask() const { return count == kPanel ? ~0u : (1u << count) - 1; }
};

// Dot products of row r from popcounts, in place.
BINJAX_INLINE void to_dots(const Left& left, int r, const Columns& c, int32_t* counts) {
  if (left.base_step) {
    const int32_t* base = left.base[r] + c.first;
    for (int j = 0; j < c.count; ++j) counts[j] = base[j] - 2 * counts[j];
  } else {
    const int32_t base = *left.base[r];
    for (int j = 0; j < kPanel; ++j) counts[j] = base - 2 * counts[j];
  }
}

// ---- Epilogues: 32 dot products of row r, in memory or in two registers. Only c.count are
// written.

struct Int32Out {
  using Element = int32_t;
  int32_t* out;
  int64_t stride;

  BINJAX_INLINE void put(int64_t r, const Columns& c, const int32_t* dots) const {
    std::memcpy(out + r * stride + c.first, dots, static_cast<size_t>(c.count) * sizeof *dots);
  }
#if BINJAX_X86
  BINJAX_AVX2 BINJAX_INLINE void put256(int64_t r, const Columns& c, const int32_t* dots) const {
    put(r, c, dots);
  }
  BINJAX_AVX512 BINJAX_INLINE void put512(int64_t r, const Columns& c, __m512i low,
                                          __m512i high) const {
    int32_t* to = out + r * stride + c.first;
    if (c.count == kPanel) {
      _mm512_storeu_si512(to, low);
      _mm512_storeu_si512(to + 16, high);
    } else {
      const uint32_t mask = c.mask();
      _mm512_mask_storeu_epi32(to, static_cast<__mmask16>(mask), low);
      _mm512_mask_storeu_epi32(to + 16, static_cast<__mmask16>(mask >> 16), high);
    }
  }
#endif
};

// dot * scale + bias with a single rounding.
struct AffineOut {
  using Element = float;
  float* out;
  int64_t stride;
  const float* scale;
  const float* bias;

  BINJAX_INLINE void put(int64_t r, const Columns& c, const int32_t* dots) const {
    float* to = out + r * stride + c.first;
    for (int j = 0; j < c.count; ++j) {
      to[j] = std::fma(static_cast<float>(dots[j]), scale[c.first + j], bias[c.first + j]);
    }
  }
#if BINJAX_X86
  BINJAX_AVX2 BINJAX_INLINE void put256(int64_t r, const Columns& c, const int32_t* dots) const {
    put(r, c, dots);
  }
  BINJAX_AVX512 BINJAX_INLINE void put512(int64_t r, const Columns& c, __m512i low,
                                          __m512i high) const {
    const uint32_t mask = c.mask();
    half(r, c.first, static_cast<__mmask16>(mask), low);
    half(r, c.first + 16, static_cast<__mmask16>(mask >> 16), high);
  }
  BINJAX_AVX512 BINJAX_INLINE void half(int64_t r, int64_t n, __mmask16 mask, __m512i dot) const {
    const __m512 y =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_maskz_loadu_ps(mask, scale + n),
                        _mm512_maskz_loadu_ps(mask, bias + n));
    _mm512_mask_storeu_ps(out + r * stride + n, mask, y);
  }
#endif
};

// dot * scale: the integer rounded to float, then the product rounded.
struct ScaledOut {
  using Element = float;
  float* out;
  int64_t stride;
  float scale;

  BINJAX_INLINE void put(int64_t r, const Columns& c, const int32_t* dots) const {
    float* to = out + r * stride + c.first;
    for (int j = 0; j < c.count; ++j) to[j] = static_cast<float>(dots[j]) * scale;
  }
#if BINJAX_X86
  BINJAX_AVX2 BINJAX_INLINE void put256(int64_t r, const Columns& c, const int32_t* dots) const {
    put(r, c, dots);
  }
  BINJAX_AVX512 BINJAX_INLINE void put512(int64_t r, const Columns& c, __m512i low,
                                          __m512i high) const {
    float* to = out + r * stride + c.first;
    const __m512 x = _mm512_set1_ps(scale);
    const __m512 y_low = _mm512_mul_ps(_mm512_cvtepi32_ps(low), x);
    const __m512 y_high = _mm512_mul_ps(_mm512_cvtepi32_ps(high), x);
    if (c.count == kPanel) {
      _mm512_storeu_ps(to, y_low);
      _mm512_storeu_ps(to + 16, y_high);
    } else {
      const uint32_t mask = c.mask();
      _mm512_mask_storeu_ps(to, static_cast<__mmask16>(mask), y_low);
      _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(mask >> 16), y_high);
    }
  }
#endif
};

// Bit = (dot >= threshold) ^ flip. With groups whose width is no multiple of 32, columns start
// inside a word: such rows are zeroed first and belong to one thread.
struct BitsOut {
  using Element = uint32_t;
  uint32_t* out;
  int64_t stride;  // words
  const int32_t* threshold;
  const bool* flip;
  bool aligned;  // every Columns::first is a multiple of 32

  BINJAX_INLINE void put(int64_t r, const Columns& c, const int32_t* dots) const {
    uint32_t bits = 0;
    for (int j = 0; j < c.count; ++j) {
      const bool above = dots[j] >= threshold[c.first + j];
      bits |= static_cast<uint32_t>(above ^ flip[c.first + j]) << j;
    }
    write(r, c, bits);
  }
  BINJAX_INLINE void write(int64_t r, const Columns& c, uint32_t bits) const {
    uint32_t* to = out + r * stride + (c.first >> 5);
    if (aligned) {
      *to = bits;
      return;
    }
    const int shift = static_cast<int>(c.first & 31);
    to[0] |= bits << shift;
    if (shift + c.count > 32) to[1] |= bits >> (32 - shift);
  }
#if BINJAX_X86
  BINJAX_AVX2 BINJAX_INLINE void put256(int64_t r, const Columns& c, const int32_t* dots) const {
    if (c.count < kPanel) return put(r, c, dots);
    uint32_t below = 0;
    BINJAX_UNROLL
    for (int j = 0; j < kPanel; j += 8) {
      const __m256i dot = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(dots + j));
      const __m256i limit =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(threshold + c.first + j));
      const __m256 less = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, dot));
      below |= static_cast<uint32_t>(_mm256_movemask_ps(less)) << j;
    }
    const __m256i flips = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(flip + c.first));
    const __m256i same = _mm256_cmpeq_epi8(flips, _mm256_setzero_si256());
    // Neither complemented or both: below ^ same is above ^ flip.
    write(r, c, below ^ static_cast<uint32_t>(_mm256_movemask_epi8(same)));
  }
  BINJAX_AVX512 BINJAX_INLINE void put512(int64_t r, const Columns& c, __m512i low,
                                          __m512i high) const {
    const uint32_t mask = c.mask();
    const uint32_t bits = half(c.first, static_cast<__mmask16>(mask), low) |
                          half(c.first + 16, static_cast<__mmask16>(mask >> 16), high) << 16;
    write(r, c, bits);
  }
  BINJAX_AVX512 BINJAX_INLINE uint32_t half(int64_t n, __mmask16 mask, __m512i dot) const {
    const __m128i flips = _mm_maskz_loadu_epi8(mask, flip + n);
    const __m512i limits = _mm512_maskz_loadu_epi32(mask, threshold + n);
    const __mmask16 above = _mm512_mask_cmpge_epi32_mask(mask, dot, limits);
    return static_cast<uint32_t>(above ^ _mm_mask_test_epi8_mask(mask, flips, flips));
  }
#endif
};

}  // namespace binjax
