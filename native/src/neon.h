// NEON: eor, cnt, add on 16 bytes: four columns of one word.
#pragma once

#include "product.h"

#if BINJAX_NEON

namespace binjax {
namespace neon {

constexpr int kFlushWords = 31;  // 31 words add at most 248 to a byte

template <bool kPlanes, int kRows>
BINJAX_INLINE void tile(const Left& left, int r, const uint32_t* panel, int32_t (*count)[kPanel]) {
  for (int group = 0; group < kPanel; group += 4) {
    uint32x4_t total[kRows];
    uint8x16_t bytes[kRows];
    for (int i = 0; i < kRows; ++i) {
      total[i] = vdupq_n_u32(0);
      bytes[i] = vdupq_n_u8(0);
    }
    const uint32_t* b = panel + group;
    int room = kFlushWords;
    for (int s = 0; s < left.segments; ++s) {
      const uint32_t* a[kRows];
      for (int i = 0; i < kRows; ++i) a[i] = left.row[r + i] + left.segment[s];
      if constexpr (kPlanes) {
        b = panel + group;
        room = kFlushWords;
        for (int i = 0; i < kRows; ++i) {
          total[i] = vshlq_n_u32(vpadalq_u16(total[i], vpaddlq_u8(bytes[i])), 1);
          bytes[i] = vdupq_n_u8(0);
        }
      }
      for (int64_t w = 0; w < left.words; ++w, b += kPanel) {
        const uint32x4_t right = vld1q_u32(b);
        for (int i = 0; i < kRows; ++i) {
          const uint32x4_t x = veorq_u32(right, vdupq_n_u32(a[i][w]));
          bytes[i] = vaddq_u8(bytes[i], vcntq_u8(vreinterpretq_u8_u32(x)));
        }
        if (--room == 0) {
          room = kFlushWords;
          for (int i = 0; i < kRows; ++i) {
            total[i] = vpadalq_u16(total[i], vpaddlq_u8(bytes[i]));
            bytes[i] = vdupq_n_u8(0);
          }
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      total[i] = vpadalq_u16(total[i], vpaddlq_u8(bytes[i]));
      vst1q_s32(count[i] + group, vreinterpretq_s32_u32(total[i]));
    }
  }
}

template <bool kPlanes, int kRows, class Out>
BINJAX_INLINE void rows(const Left& left, int r, const Columns& c, const Out& out) {
  int32_t count[kRows][kPanel];
  tile<kPlanes, kRows>(left, r, static_cast<const uint32_t*>(c.panel), count);
  for (int i = 0; i < kRows; ++i) {
    to_dots(left, r + i, c, count[i]);
    out.put(left.first + r + i, c, count[i]);
  }
}

// Panels: [word][32 columns].
struct PanelKernel {
  static constexpr int kPanelBytes = 4 * kPanel;

  static void make_panel(const uint32_t* rows, int64_t words, int count, void* panel) {
    auto* to = static_cast<uint32_t*>(panel);
    for (int64_t w = 0; w < words; ++w) {
      for (int j = 0; j < kPanel; ++j) to[w * kPanel + j] = j < count ? rows[j * words + w] : 0;
    }
  }

  template <bool kPlanes = false, class Out>
  static void block(const Left& left, const Columns* columns, int n, const Out& out) {
    for (int i = 0; i < n; ++i) {
      int r = 0;
      for (; r + 4 <= left.rows; r += 4) rows<kPlanes, 4>(left, r, columns[i], out);
      for (; r < left.rows; ++r) rows<kPlanes, 1>(left, r, columns[i], out);
    }
  }
};

}  // namespace neon
}  // namespace binjax

#endif
