#if USE_NEON

INLINE void half_tile(const int32_t rows, struct stretches v, const uint32_t *const *window,
                      const uint32_t *weights, int32_t (*count)[BLOCK], int32_t half) {
  uint32x4_t sum[4][4];
  UNROLL for (int32_t i = 0; i < rows; ++i) {
    UNROLL for (int32_t v = 0; v < 4; ++v) sum[i][v] = vdupq_n_u32(0);
  }
  for (int32_t s = 0; s < v.count; ++s) {
    const uint32_t *a[4];
    UNROLL for (int32_t i = 0; i < rows; ++i) a[i] = window[i] + v.begin[s];
    for (int32_t w = 0; w < v.length;) {
      /* A word adds at most 8 to a byte. */
      const int32_t stop = v.length - w > 31 ? w + 31 : v.length;
      uint8x16_t bytes[4][4];
      UNROLL for (int32_t i = 0; i < rows; ++i) {
        UNROLL for (int32_t v = 0; v < 4; ++v) bytes[i][v] = vdupq_n_u8(0);
      }
      for (; w < stop; ++w, weights += LANES) {
        UNROLL for (int32_t i = 0; i < rows; ++i) {
          const uint32x4_t word = vdupq_n_u32(a[i][w]);
          UNROLL for (int32_t v = 0; v < 4; ++v) {
            const uint32x4_t x = veorq_u32(vld1q_u32(weights + 4 * v), word);
            bytes[i][v] = vaddq_u8(bytes[i][v], vcntq_u8(vreinterpretq_u8_u32(x)));
          }
        }
      }
      UNROLL for (int32_t i = 0; i < rows; ++i) {
        UNROLL for (int32_t v = 0; v < 4; ++v) {
          sum[i][v] = vpadalq_u16(sum[i][v], vpaddlq_u8(bytes[i][v]));
        }
      }
    }
  }
  UNROLL for (int32_t i = 0; i < rows; ++i) {
    UNROLL for (int32_t v = 0; v < 4; ++v) {
      vst1q_s32(count[i] + half + 4 * v, vreinterpretq_s32_u32(sum[i][v]));
    }
  }
}

INLINE uint32_t at_most(const int32_t *count, const int32_t *limit) {
  static const uint32_t place[4] = {1, 2, 4, 8};
  uint32x4_t bit = vld1q_u32(place), bits = vdupq_n_u32(0);
  UNROLL for (int32_t j = 0; j < BLOCK; j += 4) {
    bits = vorrq_u32(bits, vandq_u32(bit, vcleq_s32(vld1q_s32(count + j), vld1q_s32(limit + j))));
    bit = vshlq_n_u32(bit, 4);
  }
  return vgetq_lane_u32(bits, 0) | vgetq_lane_u32(bits, 1) | vgetq_lane_u32(bits, 2) |
         vgetq_lane_u32(bits, 3);
}

#define TILE 4

#endif
