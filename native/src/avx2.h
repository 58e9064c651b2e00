// AVX2 has no vector popcount. Instead of looking up popcount(a ^ b) nibble by nibble of the xor,
// the table itself is chosen by the nibble of a: entry i of table v is popcount(v ^ i), and the
// nibbles of b, split once while the panel is made, index it. That leaves a shuffle and an addition
// for 128 multiply-accumulates of 32 columns, half of what xor, split and two shuffles take.
#pragma once

#include "product.h"

#if BINJAX_X86

namespace binjax {
namespace avx2 {

struct Tables {
  alignas(32) uint8_t entry[16][32];
  constexpr Tables() : entry() {
    for (int v = 0; v < 16; ++v) {
      for (int i = 0; i < 32; ++i) {
        const int x = v ^ (i & 15);
        entry[v][i] = static_cast<uint8_t>((x & 1) + (x >> 1 & 1) + (x >> 2 & 1) + (x >> 3));
      }
    }
  }
};
constexpr Tables kTables;
constexpr int kNibbles = 8;  // of a word
constexpr int kPanelBytes = kNibbles * kPanel;
constexpr int kFlushWords = 7;  // 7 words add at most 224 to a byte

// Adds 32 byte counts to 32 counts, then doubles these if another plane follows.
template <bool kDouble = false>
BINJAX_AVX2 BINJAX_INLINE void flush(__m256i bytes, int32_t* count) {
  alignas(32) uint8_t part[32];
  _mm256_store_si256(reinterpret_cast<__m256i*>(part), bytes);
  BINJAX_UNROLL
  for (int j = 0; j < 32; j += 8) {
    __m256i* to = reinterpret_cast<__m256i*>(count + j);
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(part + j));
    const __m256i sum = _mm256_add_epi32(_mm256_load_si256(to), _mm256_cvtepu8_epi32(eight));
    _mm256_store_si256(to, kDouble ? _mm256_add_epi32(sum, sum) : sum);
  }
}

// Keeps the compiler from gathering all shuffles in front of the additions (it spills them) and
// from loading the same indices again for each row.
BINJAX_AVX2 BINJAX_INLINE __m256i in_register(__m256i x) {
  asm("" : "+x"(x));
  return x;
}

// A rotation, since rorx leaves its operand alone where a shift needs a copy.
BINJAX_INLINE uint64_t rotate_right(uint64_t x, int n) {
  return n ? x >> n | x << (64 - n) : x;
}

// kRows rows by two panels.
template <bool kPlanes, int kRows>
BINJAX_AVX2 BINJAX_INLINE void tile(const Left& left, int r, const uint8_t* first,
                                    const uint8_t* second, int32_t (*count)[2 * kPanel]) {
  const uint8_t *b0 = first, *b1 = second;
  const uint8_t* table = kTables.entry[0];
  __m256i sum[kRows][2];
  for (int i = 0; i < kRows; ++i) {
    std::memset(count[i], 0, sizeof count[i]);
    sum[i][0] = sum[i][1] = _mm256_setzero_si256();
  }
  int room = kFlushWords;
  for (int s = 0; s < left.segments; ++s) {
    const uint32_t* a[kRows];
    BINJAX_UNROLL
    for (int i = 0; i < kRows; ++i) a[i] = left.row[r + i] + left.segment[s];
    if constexpr (kPlanes) {
      b0 = first;
      b1 = second;
      room = kFlushWords;
      for (int i = 0; s != 0 && i < kRows; ++i) {
        flush<true>(sum[i][0], count[i]);
        flush<true>(sum[i][1], count[i] + kPanel);
        sum[i][0] = sum[i][1] = _mm256_setzero_si256();
      }
    }
    for (int64_t w = 0; w < left.words; ++w) {
      uint64_t word[kRows];
      BINJAX_UNROLL
      for (int i = 0; i < kRows; ++i) word[i] = uint64_t(a[i][w]) << 5;
      BINJAX_UNROLL
      for (int nibble = 0; nibble < kNibbles; ++nibble, b0 += kPanel, b1 += kPanel) {
        const __m256i x0 = in_register(_mm256_load_si256(reinterpret_cast<const __m256i*>(b0)));
        const __m256i x1 = in_register(_mm256_load_si256(reinterpret_cast<const __m256i*>(b1)));
        BINJAX_UNROLL
        for (int i = 0; i < kRows; ++i) {
          const uint64_t offset = rotate_right(word[i], 4 * nibble) & 0x1e0;
          const __m256i t = _mm256_load_si256(reinterpret_cast<const __m256i*>(table + offset));
          sum[i][0] = in_register(_mm256_add_epi8(sum[i][0], _mm256_shuffle_epi8(t, x0)));
          sum[i][1] = in_register(_mm256_add_epi8(sum[i][1], _mm256_shuffle_epi8(t, x1)));
        }
      }
      if (--room == 0) {
        room = kFlushWords;
        for (int i = 0; i < kRows; ++i) {
          flush(sum[i][0], count[i]);
          flush(sum[i][1], count[i] + kPanel);
          sum[i][0] = sum[i][1] = _mm256_setzero_si256();
        }
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    flush(sum[i][0], count[i]);
    flush(sum[i][1], count[i] + kPanel);
  }
}

template <bool kPlanes, int kRows, class Out>
BINJAX_AVX2 BINJAX_INLINE void rows(const Left& left, int r, const Columns& c0, const Columns* c1,
                                    const Out& out) {
  alignas(64) int32_t count[kRows][2 * kPanel];
  const auto* b0 = static_cast<const uint8_t*>(c0.panel);
  tile<kPlanes, kRows>(left, r, b0, c1 ? static_cast<const uint8_t*>(c1->panel) : b0, count);
  for (int i = 0; i < kRows; ++i) {
    to_dots(left, r + i, c0, count[i]);
    out.put256(left.first + r + i, c0, count[i]);
    if (!c1) continue;
    to_dots(left, r + i, *c1, count[i] + kPanel);
    out.put256(left.first + r + i, *c1, count[i] + kPanel);
  }
}

// Panels: [word][nibble][32 columns] bytes.
struct PanelKernel {
  static constexpr int kPanelBytes = avx2::kPanelBytes;

  BINJAX_AVX2 static void make_panel(const uint32_t* rows, int64_t words, int count, void* panel) {
    auto* to = static_cast<uint8_t*>(panel);
    const __m256i low = _mm256_set1_epi32(15);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t w = 0; w < words; ++w) {
      alignas(32) uint32_t column[kPanel] = {};
      for (int j = 0; j < count; ++j) column[j] = rows[j * words + w];
      __m256i x[4];
      for (int i = 0; i < 4; ++i) {
        x[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(column + 8 * i));
      }
      for (int nibble = 0; nibble < kNibbles; ++nibble, to += kPanel) {
        const __m256i first =
            _mm256_packus_epi32(_mm256_and_si256(x[0], low), _mm256_and_si256(x[1], low));
        const __m256i second =
            _mm256_packus_epi32(_mm256_and_si256(x[2], low), _mm256_and_si256(x[3], low));
        const __m256i bytes = _mm256_packus_epi16(first, second);
        _mm256_store_si256(reinterpret_cast<__m256i*>(to),
                           _mm256_permutevar8x32_epi32(bytes, order));
        for (int i = 0; i < 4; ++i) x[i] = _mm256_srli_epi32(x[i], 4);
      }
    }
  }

  template <bool kPlanes = false, class Out>
  BINJAX_AVX2 static void block(const Left& left, const Columns* columns, int n, const Out& out) {
    for (int i = 0; i < n; i += 2) {
      const Columns* second = i + 1 < n ? columns + i + 1 : nullptr;
      int r = 0;
      for (; r + 4 <= left.rows; r += 4) rows<kPlanes, 4>(left, r, columns[i], second, out);
      for (; r < left.rows; ++r) rows<kPlanes, 1>(left, r, columns[i], second, out);
    }
  }
};

}  // namespace avx2
}  // namespace binjax

#endif
