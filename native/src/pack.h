// Signs to bits. Values come as the unsigned integers of their bit patterns: +1 (bit 1) is every
// pattern up to that of -0.0, so -0.0 is +1, a negative subnormal -1, and a NaN goes by its sign
// bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "isa.h"
#include "parallel.h"
#include "target.h"

namespace binjax {
namespace pack {

template <class T>
constexpr T kMinusZero = T(T(1) << (std::numeric_limits<T>::digits - 1));

// Bits of n values: whether the magnitude of each is at most that of `one`, the pattern of 1.0.
// Where it is, the straight-through gradient of a sign passes; not at a NaN.
template <class T>
BINJAX_INLINE uint32_t inside_word(const T* x, int64_t n, T one) {
  uint32_t bits = 0;
  for (int64_t j = 0; j < n; ++j) {
    bits |= static_cast<uint32_t>((x[j] & (kMinusZero<T> - 1)) <= one) << j;
  }
  return bits;
}

template <class T>
BINJAX_INLINE uint32_t word(const T* x, int64_t n) {
  uint32_t bits = 0;
  for (int64_t j = 0; j < n; ++j) bits |= static_cast<uint32_t>(x[j] <= kMinusZero<T>) << j;
  return bits;
}

template <class T>
BINJAX_INLINE void row(const T* x, int64_t n, uint32_t* out) {
  int64_t w = 0;
  for (; (w + 1) * 32 <= n; ++w) out[w] = word(x + w * 32, 32);
  if (w * 32 < n) out[w] = word(x + w * 32, n - w * 32);
}

template <class T>
BINJAX_INLINE void inside_row(const T* x, int64_t n, T one, uint32_t* out) {
  int64_t w = 0;
  for (; (w + 1) * 32 <= n; ++w) out[w] = inside_word(x + w * 32, 32, one);
  if (w * 32 < n) out[w] = inside_word(x + w * 32, n - w * 32, one);
}

// Words of 128 columns: out[word][column] of x [k][n], read 128 columns wide.
constexpr int64_t kWide = 128, kDeep = 16;

template <class T>
BINJAX_INLINE void columns(const T* x, int64_t k, int64_t stride, int64_t wide,
                           uint32_t (*out)[kWide]) {
  for (int64_t w = 0; w * 32 < k; ++w) {
    uint32_t* to = out[w];
    for (int64_t j = 0; j < kWide; ++j) to[j] = 0;
    for (int64_t b = 0; b < 32 && w * 32 + b < k; ++b) {
      const T* from = x + (w * 32 + b) * stride;
      for (int64_t j = 0; j < wide; ++j) to[j] |= uint32_t(from[j] <= kMinusZero<T>) << b;
    }
  }
}

#if BINJAX_X86
BINJAX_AVX512 BINJAX_INLINE uint32_t word512(const uint32_t* x, int64_t n) {
  const uint32_t in = n >= 32 ? ~0u : (1u << n) - 1;
  const __m512i zero = _mm512_set1_epi32(static_cast<int>(kMinusZero<uint32_t>));
  const __mmask16 low = static_cast<__mmask16>(in), high = static_cast<__mmask16>(in >> 16);
  const uint32_t a = _mm512_mask_cmple_epu32_mask(low, _mm512_maskz_loadu_epi32(low, x), zero);
  const uint32_t b =
      _mm512_mask_cmple_epu32_mask(high, _mm512_maskz_loadu_epi32(high, x + 16), zero);
  return a | b << 16;
}
BINJAX_AVX512 BINJAX_INLINE uint32_t word512(const uint16_t* x, int64_t n) {
  const __mmask32 in = n >= 32 ? ~0u : (1u << n) - 1;
  const __m512i zero = _mm512_set1_epi16(static_cast<int16_t>(kMinusZero<uint16_t>));
  return _mm512_mask_cmple_epu16_mask(in, _mm512_maskz_loadu_epi16(in, x), zero);
}
// By hand: GCC 12 vectorizes the plain loop over 64-bit values wrongly under these attributes.
BINJAX_AVX512 BINJAX_INLINE uint32_t word512(const uint64_t* x, int64_t n) {
  const uint32_t in = n >= 32 ? ~0u : (1u << n) - 1;
  const __m512i zero = _mm512_set1_epi64(static_cast<int64_t>(kMinusZero<uint64_t>));
  uint32_t bits = 0;
  for (int q = 0; q < 32; q += 8) {
    const __mmask8 mask = static_cast<__mmask8>(in >> q);
    const __m512i v = _mm512_maskz_loadu_epi64(mask, x + q);
    bits |= static_cast<uint32_t>(_mm512_mask_cmple_epu64_mask(mask, v, zero)) << q;
  }
  return bits;
}

template <class T>
BINJAX_AVX512 void row512(const T* x, int64_t n, uint32_t* out) {
  int64_t w = 0;
  for (; (w + 1) * 32 <= n; ++w) {
    out[w] = word512(x + w * 32, 32);
  }
  if (w * 32 < n) out[w] = word512(x + w * 32, n - w * 32);
}

BINJAX_AVX512 BINJAX_INLINE uint32_t inside_word512(const uint32_t* x, int64_t n, uint32_t one) {
  const uint32_t in = n >= 32 ? ~0u : (1u << n) - 1;
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(one));
  const __mmask16 low = static_cast<__mmask16>(in), high = static_cast<__mmask16>(in >> 16);
  const __m512i a = _mm512_and_si512(_mm512_maskz_loadu_epi32(low, x), magnitude);
  const __m512i b = _mm512_and_si512(_mm512_maskz_loadu_epi32(high, x + 16), magnitude);
  const uint32_t first = _mm512_mask_cmple_epu32_mask(low, a, limit);
  const uint32_t second = _mm512_mask_cmple_epu32_mask(high, b, limit);
  return first | second << 16;
}
BINJAX_AVX512 inline void inside_row512(const uint32_t* x, int64_t n, uint32_t one, uint32_t* out) {
  int64_t w = 0;
  for (; (w + 1) * 32 <= n; ++w) out[w] = inside_word512(x + w * 32, 32, one);
  if (w * 32 < n) out[w] = inside_word512(x + w * 32, n - w * 32, one);
}

constexpr int64_t kAhead = 8;  // rows to fetch ahead

BINJAX_AVX512 inline void columns512(const uint32_t* x, int64_t k, int64_t stride, int64_t wide,
                                     uint32_t (*out)[kWide]) {
  const __m512i zero = _mm512_set1_epi32(static_cast<int>(kMinusZero<uint32_t>));
  constexpr int kRegisters = kWide / 16;
  __mmask16 in[kRegisters];
  for (int q = 0; q < kRegisters; ++q) {
    const int64_t n = std::clamp<int64_t>(wide - q * 16, 0, 16);
    in[q] = static_cast<__mmask16>((1u << n) - 1);
  }
  for (int64_t w = 0; w * 32 < k; ++w) {
    __m512i bits[kRegisters];
    BINJAX_UNROLL
    for (int q = 0; q < kRegisters; ++q) bits[q] = _mm512_setzero_si512();
    for (int64_t b = 0; b < 32 && w * 32 + b < k; ++b) {
      const uint32_t* from = x + (w * 32 + b) * stride;
      const intptr_t address = reinterpret_cast<intptr_t>(from);  // to fetch past the end, too
      const __m512i bit = _mm512_set1_epi32(static_cast<int>(1u << b));
      BINJAX_UNROLL
      for (int q = 0; q < kRegisters; ++q) {
        _mm_prefetch(reinterpret_cast<const char*>(address + kAhead * stride * 4 + q * 64),
                     _MM_HINT_T0);
        const __m512i value = _mm512_maskz_loadu_epi32(in[q], from + q * 16);
        const __mmask16 plus = _mm512_mask_cmple_epu32_mask(in[q], value, zero);
        bits[q] = _mm512_mask_or_epi32(bits[q], plus, bits[q], bit);
      }
    }
    BINJAX_UNROLL
    for (int q = 0; q < kRegisters; ++q) _mm512_storeu_si512(out[w] + q * 16, bits[q]);
  }
}

template <class T>
BINJAX_AVX2 void row_avx2(const T* x, int64_t n, uint32_t* out) {
  row(x, n, out);
}
BINJAX_AVX2 inline void row_avx2(const uint32_t* x, int64_t n, uint32_t* out) {
  const __m256i zero = _mm256_set1_epi32(static_cast<int>(kMinusZero<uint32_t>));
  int64_t w = 0;
  for (; (w + 1) * 32 <= n; ++w) {
    uint32_t bits = 0;
    for (int q = 0; q < 4; ++q) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + w * 32 + q * 8));
      // Negative and not -0.0: the sign bit is left where the pattern differs from that of -0.0.
      const __m256i minus = _mm256_andnot_si256(_mm256_cmpeq_epi32(v, zero), v);
      const auto mask = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(minus)));
      bits |= (~mask & 0xff) << (q * 8);
    }
    out[w] = bits;
  }
  if (w * 32 < n) out[w] = word(x + w * 32, n - w * 32);
}
template <class T>
BINJAX_AVX2 void columns_avx2(const T* x, int64_t k, int64_t stride, int64_t wide,
                              uint32_t (*out)[kWide]) {
  columns(x, k, stride, wide, out);
}
#endif

template <class T>
void any_row(const T* x, int64_t n, uint32_t* out) {
#if BINJAX_X86
  if (active_isa() == Isa::kAvx512) return row512(x, n, out);
  if (active_isa() == Isa::kAvx2) return row_avx2(x, n, out);
#endif
  row(x, n, out);
}

template <class T>
void any_columns(const T* x, int64_t k, int64_t stride, int64_t wide, uint32_t (*out)[kWide]) {
#if BINJAX_X86
  if constexpr (sizeof(T) == 4) {
    if (active_isa() == Isa::kAvx512) return columns512(x, k, stride, wide, out);
  }
  if (active_isa() == Isa::kAvx512 || active_isa() == Isa::kAvx2) {
    return columns_avx2(x, k, stride, wide, out);
  }
#endif
  columns(x, k, stride, wide, out);
}

template <class T>
void any_inside_row(const T* x, int64_t n, T one, uint32_t* out) {
#if BINJAX_X86
  if constexpr (sizeof(T) == 4) {
    if (active_isa() == Isa::kAvx512) return inside_row512(x, n, one, out);
  }
#endif
  inside_row(x, n, one, out);
}

// Elements worth another task: some microseconds.
constexpr int64_t kTaskElements = 1 << 16;

// Values that are packed together while they are in the nearest cache.
constexpr int64_t kNear = 4096;

// x [rows][n] -> out [rows][ceil(n / 32)], and `inside` likewise unless it is null.
template <class T>
void rows(xla::ffi::ThreadPool& pool, const T* x, int64_t rows, int64_t n, uint32_t* out, T one,
          uint32_t* inside) {
  if (n % 32 == 0) {  // no padding between rows: one long row, cut anywhere
    const int64_t total = rows * n;
    return parallel(pool, ceil_div(total, kTaskElements), [&](int64_t task) {
      const int64_t end = std::min(total, (task + 1) * kTaskElements);
      for (int64_t i = task * kTaskElements; i < end; i += kNear) {
        const int64_t count = std::min(kNear, end - i);
        any_row(x + i, count, out + i / 32);
        if (inside) any_inside_row(x + i, count, one, inside + i / 32);
      }
    });
  }
  const int64_t words = ceil_div(n, 32), step = std::max<int64_t>(1, kTaskElements / n);
  parallel(pool, ceil_div(rows, step), [&](int64_t task) {
    for (int64_t r = task * step; r < std::min(rows, (task + 1) * step); ++r) {
      any_row(x + r * n, n, out + r * words);
      if (inside) any_inside_row(x + r * n, n, one, inside + r * words);
    }
  });
}

// x [taps][k][n] -> out [n][taps][ceil(k / 32)], and inside [taps][k][ceil(n / 32)] unless it is
// null.
template <class T>
void transposed(xla::ffi::ThreadPool& pool, const T* x, int64_t taps, int64_t k, int64_t n,
                uint32_t* out, T one, uint32_t* inside) {
  const int64_t inside_words = ceil_div(n, 32);
  const int64_t words = ceil_div(k, 32), wide_blocks = ceil_div(n, kWide),
                deep_blocks = ceil_div(words, kDeep);
  parallel(pool, taps * wide_blocks, [&](int64_t task) {
    const int64_t tap = task / wide_blocks, first = task % wide_blocks * kWide;
    const int64_t wide = std::min(kWide, n - first);
    alignas(64) uint32_t block[kDeep][kWide];
    for (int64_t d = 0; d < deep_blocks; ++d) {
      const int64_t w0 = d * kDeep, deep = std::min(kDeep, words - w0);
      const T* from = x + (tap * k + w0 * 32) * n + first;
      const int64_t rows = std::min(k - w0 * 32, deep * 32);
      any_columns(from, rows, n, wide, block);
      if (inside) {  // the block's values are in the second-level cache now
        uint32_t* to = inside + (tap * k + w0 * 32) * inside_words + first / 32;
        for (int64_t r = 0; r < rows; ++r) {
          any_inside_row(from + r * n, wide, one, to + r * inside_words);
        }
      }
      for (int64_t j = 0; j < wide; ++j) {
        uint32_t* to = out + ((first + j) * taps + tap) * words + w0;
        for (int64_t w = 0; w < deep; ++w) to[w] = block[w][j];
      }
    }
  });
}

}  // namespace pack
}  // namespace binjax
