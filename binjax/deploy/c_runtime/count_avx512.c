#if USE_AVX512

INLINE void tile(const int32_t rows, struct stretches v, const uint32_t *const *window,
                 const uint32_t *first, const uint32_t *second, int32_t (*count)[BLOCK]) {
  __m512i low[ROWS], high[ROWS];
  UNROLL for (int32_t i = 0; i < rows; ++i) low[i] = high[i] = _mm512_setzero_si512();
  for (int32_t s = 0; s < v.count; ++s) {
    const uint32_t *a[ROWS];
    UNROLL for (int32_t i = 0; i < rows; ++i) a[i] = window[i] + v.begin[s];
    for (int32_t w = 0; w < v.length; ++w, first += LANES, second += LANES) {
      const __m512i b0 = _mm512_loadu_si512(first), b1 = _mm512_loadu_si512(second);
      UNROLL for (int32_t i = 0; i < rows; ++i) {
        const __m512i x = _mm512_set1_epi32((int)a[i][w]);
        low[i] = _mm512_add_epi32(low[i], _mm512_popcnt_epi32(_mm512_xor_si512(b0, x)));
        high[i] = _mm512_add_epi32(high[i], _mm512_popcnt_epi32(_mm512_xor_si512(b1, x)));
      }
    }
  }
  UNROLL for (int32_t i = 0; i < rows; ++i) {
    _mm512_storeu_si512(count[i], low[i]);
    _mm512_storeu_si512(count[i] + LANES, high[i]);
  }
}

INLINE uint32_t at_most(const int32_t *count, const int32_t *limit) {
  const __m512i c0 = _mm512_loadu_si512(count), c1 = _mm512_loadu_si512(count + LANES);
  const __m512i l0 = _mm512_loadu_si512(limit), l1 = _mm512_loadu_si512(limit + LANES);
  return (uint32_t)_mm512_cmple_epi32_mask(c0, l0) | (uint32_t)_mm512_cmple_epi32_mask(c1, l1)
                                                         << LANES;
}

#define TILE 8

#endif
