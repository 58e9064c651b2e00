#if !USE_AVX512 && !USE_AVX2 && !USE_NEON

#if defined(__GNUC__) && (defined(__POPCNT__) || defined(__riscv_zbb) || defined(__wasm__))
#define WORDS_AT_A_TIME 0x1000000
INLINE uint32_t counts(uint32_t x) { return (uint32_t)__builtin_popcount(x); }
INLINE uint32_t total(uint32_t counts) { return counts; }
#else
/* The ones of each byte of x, in that byte: a word adds at most 8 to it. Compilers make vectors of
   this where there are any. */
#define WORDS_AT_A_TIME 31
INLINE uint32_t counts(uint32_t x) {
  x -= x >> 1 & 0x55555555u;
  x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
  return (x + (x >> 4)) & 0x0f0f0f0fu;
}
INLINE uint32_t total(uint32_t counts) {
  const uint32_t pairs = (counts & 0x00ff00ffu) + (counts >> 8 & 0x00ff00ffu);
  return (pairs & 0xffffu) + (pairs >> 16);
}
#endif

INLINE void half_tile(const int32_t rows, struct stretches v, const uint32_t *const *window,
                      const uint32_t *weights, int32_t (*count)[BLOCK], int32_t half) {
  (void)rows;
  for (int32_t group = 0; group < LANES; group += 4) {
    const uint32_t *b = weights + group;
    uint32_t sum[4] = {0, 0, 0, 0};
    for (int32_t s = 0; s < v.count; ++s) {
      const uint32_t *a = window[0] + v.begin[s];
      for (int32_t w = 0; w < v.length;) {
        const int32_t stop = v.length - w > WORDS_AT_A_TIME ? w + WORDS_AT_A_TIME : v.length;
        uint32_t part[4] = {0, 0, 0, 0};
        for (; w < stop; ++w, b += LANES) {
          const uint32_t word = a[w];
          UNROLL for (int32_t j = 0; j < 4; ++j) part[j] += counts(b[j] ^ word);
        }
        UNROLL for (int32_t j = 0; j < 4; ++j) sum[j] += total(part[j]);
      }
    }
    UNROLL for (int32_t j = 0; j < 4; ++j) count[0][half + group + j] = (int32_t)sum[j];
  }
}

INLINE uint32_t at_most(const int32_t *count, const int32_t *limit) {
  uint32_t bits = 0;
  for (int32_t j = 0; j < BLOCK; ++j) bits |= (uint32_t)(count[j] <= limit[j]) << j;
  return bits;
}

#define TILE 1

#endif
