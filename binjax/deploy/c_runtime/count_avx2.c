#if USE_AVX2

/* Sums of the four bytes of each lane. */
INLINE __m256i lane_sums(__m256i bytes) {
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

INLINE void half_tile(const int32_t rows, struct stretches v, const uint32_t *const *window,
                      const uint32_t *weights, int32_t (*count)[BLOCK], int32_t half) {
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i ones = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2,
                                        1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  __m256i sum[4][2];
  UNROLL for (int32_t i = 0; i < rows; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
  for (int32_t s = 0; s < v.count; ++s) {
    const uint32_t *a[4];
    UNROLL for (int32_t i = 0; i < rows; ++i) a[i] = window[i] + v.begin[s];
    for (int32_t w = 0; w < v.length;) {
      /* A word adds at most 8 to a byte. */
      const int32_t stop = v.length - w > 31 ? w + 31 : v.length;
      __m256i bytes[4][2];
      UNROLL for (int32_t i = 0; i < rows; ++i) bytes[i][0] = bytes[i][1] = _mm256_setzero_si256();
      for (; w < stop; ++w, weights += LANES) {
        UNROLL for (int32_t i = 0; i < rows; ++i) {
          const __m256i word = _mm256_set1_epi32((int)a[i][w]);
          UNROLL for (int32_t v = 0; v < 2; ++v) {
            const __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(weights + 8 * v));
            const __m256i x = _mm256_xor_si256(b, word);
            const __m256i y = _mm256_and_si256(_mm256_srli_epi32(x, 4), low);
            bytes[i][v] = _mm256_add_epi8(
                bytes[i][v], _mm256_add_epi8(_mm256_shuffle_epi8(ones, _mm256_and_si256(x, low)),
                                             _mm256_shuffle_epi8(ones, y)));
          }
        }
      }
      UNROLL for (int32_t i = 0; i < rows; ++i) {
        sum[i][0] = _mm256_add_epi32(sum[i][0], lane_sums(bytes[i][0]));
        sum[i][1] = _mm256_add_epi32(sum[i][1], lane_sums(bytes[i][1]));
      }
    }
  }
  UNROLL for (int32_t i = 0; i < rows; ++i) {
    _mm256_storeu_si256((__m256i *)(void *)(count[i] + half), sum[i][0]);
    _mm256_storeu_si256((__m256i *)(void *)(count[i] + half + 8), sum[i][1]);
  }
}

INLINE uint32_t at_most(const int32_t *count, const int32_t *limit) {
  uint32_t more = 0;
  UNROLL for (int32_t j = 0; j < BLOCK; j += 8) {
    const __m256i c = _mm256_loadu_si256((const __m256i *)(const void *)(count + j));
    const __m256i t = _mm256_loadu_si256((const __m256i *)(const void *)(limit + j));
    const __m256 greater = _mm256_castsi256_ps(_mm256_cmpgt_epi32(c, t));
    more |= (uint32_t)_mm256_movemask_ps(greater) << j;
  }
  return ~more;
}

#define TILE 4

#endif
