#define PLANES 8

/* Bits of bytes to one row of words per bit, highest first. x is readable, and 0, up to the next
   multiple of 64 bytes. A word lies between rows: compilers gather neighbours in a vector, which is
   slower than to store them. */
static void make_planes(const uint8_t *x, int32_t words, uint32_t *planes) {
#if USE_AVX512
  for (int32_t w = 0; w < words; w += 2) {
    __m512i v = _mm512_loadu_si512(x + 32 * w);
    UNROLL for (int32_t p = 0; p < PLANES; ++p) {
      const uint64_t bits = _mm512_movepi8_mask(v);
      planes[p * (words + 1) + w] = (uint32_t)bits;
      if (w + 1 < words) planes[p * (words + 1) + w + 1] = (uint32_t)(bits >> 32);
      v = _mm512_add_epi8(v, v);
    }
  }
#elif USE_AVX2
  for (int32_t w = 0; w < words; ++w) {
    __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(x + 32 * w));
    UNROLL for (int32_t p = 0; p < PLANES; ++p) {
      planes[p * (words + 1) + w] = (uint32_t)_mm256_movemask_epi8(v);
      v = _mm256_add_epi8(v, v);
    }
  }
#else
  for (int32_t w = 0; w < words; ++w) {
    uint32_t bits[PLANES] = {0};
    for (int32_t q = 0; q < 32; q += 4, x += 4) {
      const uint32_t four =
          x[0] | (uint32_t)x[1] << 8 | (uint32_t)x[2] << 16 | (uint32_t)x[3] << 24;
      /* The product's top byte gathers the lowest bits of the four bytes, the first one lowest. */
      UNROLL for (int32_t p = 0; p < PLANES; ++p) {
        const uint32_t lowest = four >> (PLANES - 1 - p) & 0x01010101u;
        bits[p] |= (lowest * 0x01020408u >> 24 & 15u) << q;
      }
    }
    for (int32_t p = 0; p < PLANES; ++p) planes[p * (words + 1) + w] = bits[p];
  }
#endif
}

INLINE void copy(const uint8_t *from, uint8_t *to, int32_t n) {
  for (; n >= 16; n -= 16, from += 16, to += 16) {
    uint8_t part[16];
    UNROLL for (int32_t i = 0; i < 16; ++i) part[i] = from[i];
    UNROLL for (int32_t i = 0; i < 16; ++i) to[i] = part[i];
  }
  if (n & 8) {
    uint8_t part[8];
    UNROLL for (int32_t i = 0; i < 8; ++i) part[i] = from[i];
    UNROLL for (int32_t i = 0; i < 8; ++i) to[i] = part[i];
    from += 8;
    to += 8;
  }
  for (n &= 7; n > 0; --n) *to++ = *from++;
}

/* The sum of pixels p, counted as 2 p - 255, is that of 2^b times the products of bit planes b.
   A border of zeros counts as -255 there, which limits make up for. scratch holds a window, up to
   a multiple of 64 bytes, and its planes. */
static void multiply_pixels(const struct layer *l, const uint8_t *in, uint32_t *scratch,
                            uint32_t *out) {
  static const int32_t begin[1] = {0};
  const int32_t words = (l->elements + 31) / 32;
  const struct stretches all = {begin, 1, words}, v = l->window;
  const int32_t padded = (l->elements + 63) / 64 * 64;
  uint8_t *bytes = (uint8_t *)scratch;
  uint32_t *planes = scratch + padded / 4;
  const uint32_t *plane[PLANES];
  for (int32_t i = 0; i < padded / 4; ++i) scratch[i] = 0;
  for (int32_t p = 0; p < PLANES; ++p) plane[p] = planes + p * (words + 1);
  for (int32_t y = 0; y < l->high; ++y) {
    for (int32_t x = 0; x < l->wide; ++x) {
      const uint8_t *from = in + y * l->row_step + x * l->column_step;
      const int32_t *limits = l->limits + limits_at(l, y, x);
      uint32_t *to = out + y * l->out_row + x * l->out_words;
      for (int32_t s = 0; s < v.count; ++s) {
        copy(from + v.begin[s], bytes + s * v.length, v.length);
      }
      make_planes(bytes, words, planes);
      for (int32_t block = 0; block < l->outputs; block += BLOCK) {
        int32_t count[ROWS][BLOCK] ALIGNED;
        count_ones(l, all, 0, block, PLANES, plane, count);
        for (int32_t p = 1; p < PLANES; ++p) {
          for (int32_t j = 0; j < BLOCK; ++j) count[p][j] += 2 * count[p - 1][j];
        }
        finish(l, 0, block, count[PLANES - 1], limits + block, to);
      }
    }
  }
}
