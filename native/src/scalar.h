// Portable C++, and the same with the popcnt instruction. Both operands lie along their words.
#pragma once

#include <cstring>

#include "product.h"

namespace binjax {
namespace scalar {

BINJAX_INLINE int64_t pair(const uint32_t* words) {
  int64_t two;
  std::memcpy(&two, words, sizeof two);
  return two;
}

// popcount(a ^ b) of one segment for four columns at once.
BINJAX_INLINE void accumulate(const uint32_t* a, const uint32_t* const* b, int64_t words,
                              int64_t* sum) {
  int64_t w = 0;
  for (; w + 2 <= words; w += 2) {
    const int64_t x = pair(a + w);
    for (int q = 0; q < 4; ++q) sum[q] += __builtin_popcountll(x ^ pair(b[q] + w));
  }
  if (w < words) {
    for (int q = 0; q < 4; ++q) sum[q] += __builtin_popcount(a[w] ^ b[q][w]);
  }
}

template <bool kPlanes, class Out>
BINJAX_INLINE void block(const Left& left, const Columns& c, const Out& out) {
  const int64_t words = left.words * (kPlanes ? 1 : left.segments);
  for (int r = 0; r < left.rows; ++r) {
    int32_t count[kPanel] = {};
    for (int j = 0; j < c.count; j += 4) {
      int64_t sum[4] = {};
      for (int s = 0; s < left.segments; ++s) {
        const uint32_t* b[4];
        for (int q = 0; q < 4; ++q) {
          b[q] = c.rows + (j + q < c.count ? j + q : j) * words + (kPlanes ? 0 : s * left.words);
          if constexpr (kPlanes) sum[q] *= 2;
        }
        accumulate(left.row[r] + left.segment[s], b, left.words, sum);
      }
      for (int q = 0; q < 4; ++q) count[j + q] = static_cast<int32_t>(sum[q]);
    }
    to_dots(left, r, c, count);
    out.put(left.first + r, c, count);
  }
}

struct Kernel {
  static constexpr int kPanelBytes = 0;
  static void make_panel(const uint32_t*, int64_t, int, void*) {}

  template <bool kPlanes = false, class Out>
  static void block(const Left& left, const Columns* columns, int n, const Out& out) {
    for (int i = 0; i < n; ++i) scalar::block<kPlanes>(left, columns[i], out);
  }
};

#if BINJAX_X86
struct PopcntKernel {
  static constexpr int kPanelBytes = 0;
  static void make_panel(const uint32_t*, int64_t, int, void*) {}

  template <bool kPlanes = false, class Out>
  BINJAX_POPCNT static void block(const Left& left, const Columns* columns, int n, const Out& out) {
    for (int i = 0; i < n; ++i) scalar::block<kPlanes>(left, columns[i], out);
  }
};
#endif

}  // namespace scalar
}  // namespace binjax
