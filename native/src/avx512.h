// AVX-512 with VPOPCNTDQ: xor, vpopcntd, add: three operations for 512 multiply-accumulates.
#pragma once

#include "product.h"

#if BINJAX_X86

namespace binjax {
namespace avx512 {

template <class Out>
BINJAX_AVX512 BINJAX_INLINE void finish(const Left& left, int r, const Columns& c, __m512i low,
                                        __m512i high, const Out& out) {
  const int32_t* base = left.base[r] + left.base_step * c.first;
  __m512i base_low = _mm512_set1_epi32(base[0]), base_high = base_low;
  if (left.base_step) {
    const uint32_t mask = c.mask();
    base_low = _mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask), base);
    base_high = _mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask >> 16), base + 16);
  }
  out.put512(left.first + r, c, _mm512_sub_epi32(base_low, _mm512_slli_epi32(low, 1)),
             _mm512_sub_epi32(base_high, _mm512_slli_epi32(high, 1)));
}

// kRows rows of the left operand by one panel: 2 kRows accumulators.
template <bool kPlanes, int kRows, class Out>
BINJAX_AVX512 BINJAX_INLINE void tile(const Left& left, int r, const Columns& c, const Out& out) {
  __m512i low[kRows], high[kRows];
  BINJAX_UNROLL
  for (int i = 0; i < kRows; ++i) low[i] = high[i] = _mm512_setzero_si512();
  const uint32_t* b = static_cast<const uint32_t*>(c.panel);
  for (int s = 0; s < left.segments; ++s) {
    const uint32_t* a[kRows];
    BINJAX_UNROLL
    for (int i = 0; i < kRows; ++i) a[i] = left.row[r + i] + left.segment[s];
    if constexpr (kPlanes) {
      b = static_cast<const uint32_t*>(c.panel);
      BINJAX_UNROLL
      for (int i = 0; i < kRows; ++i) {
        low[i] = _mm512_add_epi32(low[i], low[i]);
        high[i] = _mm512_add_epi32(high[i], high[i]);
      }
    }
    for (int64_t w = 0; w < left.words; ++w, b += kPanel) {
      const __m512i b_low = _mm512_load_si512(b), b_high = _mm512_load_si512(b + 16);
      BINJAX_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const __m512i word = _mm512_set1_epi32(static_cast<int>(a[i][w]));
        low[i] = _mm512_add_epi32(low[i], _mm512_popcnt_epi32(_mm512_xor_si512(b_low, word)));
        high[i] = _mm512_add_epi32(high[i], _mm512_popcnt_epi32(_mm512_xor_si512(b_high, word)));
      }
    }
  }
  BINJAX_UNROLL
  for (int i = 0; i < kRows; ++i) finish(left, r + i, c, low[i], high[i], out);
}

// Transposes 16 columns of up to 16 words to the panel form; words beyond are not written.
BINJAX_AVX512 inline void transpose16(const uint32_t* const* column, int columns, int words,
                                      uint32_t* panel) {
  const __mmask16 mask = static_cast<__mmask16>(words >= 16 ? 0xffff : (1u << words) - 1);
  __m512i x[16], y[16];
  for (int i = 0; i < 16; ++i) {
    x[i] = i < columns ? _mm512_maskz_loadu_epi32(mask, column[i]) : _mm512_setzero_si512();
  }
  BINJAX_UNROLL
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  BINJAX_UNROLL
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  BINJAX_UNROLL
  for (int i = 0; i < 16; i += 8) {
    for (int j = 0; j < 4; ++j) {
      y[i + j] = _mm512_shuffle_i32x4(x[i + j], x[i + j + 4], 0x88);
      y[i + j + 4] = _mm512_shuffle_i32x4(x[i + j], x[i + j + 4], 0xdd);
    }
  }
  // y[j] holds words j and j + 8 of columns 0-7, y[j + 8] those of columns 8-15.
  BINJAX_UNROLL
  for (int j = 0; j < 8; ++j) {
    const __m512i first = _mm512_shuffle_i32x4(y[j], y[j + 8], 0x88);
    const __m512i second = _mm512_shuffle_i32x4(y[j], y[j + 8], 0xdd);
    if (j < words) _mm512_store_si512(panel + j * kPanel, first);
    if (j + 8 < words) _mm512_store_si512(panel + (j + 8) * kPanel, second);
  }
}

BINJAX_AVX512 inline void make_panel(const uint32_t* rows, int64_t words, int count,
                                     uint32_t* panel) {
  for (int half = 0; half < kPanel; half += 16) {
    const int columns = count - half < 0 ? 0 : (count - half > 16 ? 16 : count - half);
    for (int64_t w = 0; w < words; w += 16) {
      const uint32_t* column[16];
      for (int i = 0; i < columns; ++i) column[i] = rows + (half + i) * words + w;
      const int left = words - w > 16 ? 16 : static_cast<int>(words - w);
      transpose16(column, columns, left, panel + w * kPanel + half);
    }
  }
}

// Panels: [word][32 columns].
struct PanelKernel {
  static constexpr int kPanelBytes = 4 * kPanel;  // of one word

  static void make_panel(const uint32_t* rows, int64_t words, int count, void* panel) {
    avx512::make_panel(rows, words, count, static_cast<uint32_t*>(panel));
  }

  template <bool kPlanes = false, class Out>
  static void block(const Left& left, const Columns* columns, int n, const Out& out) {
    for (int i = 0; i < n; ++i) panel<kPlanes>(left, columns[i], out);
  }

  template <bool kPlanes, class Out>
  BINJAX_AVX512 static void panel(const Left& left, const Columns& c, const Out& out) {
    int r = 0;
    for (; r + 8 <= left.rows; r += 8) tile<kPlanes, 8>(left, r, c, out);
    if (left.rows - r >= 4) {
      tile<kPlanes, 4>(left, r, c, out);
      r += 4;
    }
    switch (left.rows - r) {
      case 3: return tile<kPlanes, 3>(left, r, c, out);
      case 2: return tile<kPlanes, 2>(left, r, c, out);
      case 1: return tile<kPlanes, 1>(left, r, c, out);
      default: return;
    }
  }
};

// Lane sums of four registers.
BINJAX_AVX512 BINJAX_INLINE __m128i sums(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i x = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i y = _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
}

// For few rows: both operands along their words, no panels to make. One segment.
struct DotKernel {
  static constexpr int kPanelBytes = 0;
  static void make_panel(const uint32_t*, int64_t, int, void*) {}

  template <int kRows>
  BINJAX_AVX512 BINJAX_INLINE static void counts(const Left& left, int r, const Columns& c,
                                                 int32_t (*count)[kPanel]) {
    const int64_t words = left.words, whole = words & ~int64_t(15);
    const __mmask16 tail = static_cast<__mmask16>((1u << (words - whole)) - 1);
    for (int j = 0; j < c.count; j += 4) {
      const uint32_t* b[4];
      for (int q = 0; q < 4; ++q) b[q] = c.rows + (j + q < c.count ? j + q : c.count - 1) * words;
      __m512i sum[kRows][4];
      BINJAX_UNROLL
      for (int i = 0; i < kRows; ++i) {
        for (int q = 0; q < 4; ++q) sum[i][q] = _mm512_setzero_si512();
      }
      for (int64_t w = 0; w < words; w += 16) {
        const __mmask16 mask = w < whole ? static_cast<__mmask16>(0xffff) : tail;
        __m512i right[4];
        BINJAX_UNROLL
        for (int q = 0; q < 4; ++q) right[q] = _mm512_maskz_loadu_epi32(mask, b[q] + w);
        BINJAX_UNROLL
        for (int i = 0; i < kRows; ++i) {
          const __m512i a = _mm512_maskz_loadu_epi32(mask, left.row[r + i] + w);
          BINJAX_UNROLL
          for (int q = 0; q < 4; ++q) {
            const __m512i x = _mm512_popcnt_epi32(_mm512_xor_si512(a, right[q]));
            sum[i][q] = _mm512_add_epi32(sum[i][q], x);
          }
        }
      }
      BINJAX_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const __m128i four = sums(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(count[i] + j), four);
      }
    }
  }

  template <int kRows, class Out>
  BINJAX_AVX512 BINJAX_INLINE static void rows(const Left& left, int r, const Columns& c,
                                               const Out& out) {
    alignas(64) int32_t count[kRows][kPanel];
    counts<kRows>(left, r, c, count);
    for (int i = 0; i < kRows; ++i) {
      finish(left, r + i, c, _mm512_load_si512(count[i]), _mm512_load_si512(count[i] + 16), out);
    }
  }

  template <class Out>
  static void block(const Left& left, const Columns* columns, int n, const Out& out) {
    for (int i = 0; i < n; ++i) panel(left, columns[i], out);
  }

  template <class Out>
  BINJAX_AVX512 static void panel(const Left& left, const Columns& c, const Out& out) {
    int r = 0;
    for (; r + 4 <= left.rows; r += 4) rows<4>(left, r, c, out);
    switch (left.rows - r) {
      case 3: return rows<3>(left, r, c, out);
      case 2: return rows<2>(left, r, c, out);
      case 1: return rows<1>(left, r, c, out);
      default: return;
    }
  }
};

}  // namespace avx512
}  // namespace binjax

#endif
