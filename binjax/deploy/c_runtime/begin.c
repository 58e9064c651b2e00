#include "@NAME@.h"

#if defined(__AVX512VPOPCNTDQ__) && defined(__AVX512BW__)
#define USE_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__)
#define USE_AVX2 1
#include <immintrin.h>
#elif defined(__ARM_NEON)
#define USE_NEON 1
#include <arm_neon.h>
#endif

#if defined(__GNUC__)
#define ALIGNED __attribute__((aligned(64)))
#define INLINE static inline __attribute__((always_inline))
#else
#define ALIGNED
#define INLINE static inline
#endif
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

#define LANES 16 /* output channels of a panel of weights */
#define BLOCK 32 /* output channels worked on together: two panels, a word of results */
#define ROWS 8   /* windows worked on together, or bit planes of one */

/* What is multiplied of a window: stretches without gaps, in words; of pixels in bytes. */
struct stretches {
  const int32_t *begin;
  int32_t count, length;
};

/* A product: windows of words, xor weights, counted. Positions are those of a grid: one for a dense
   layer. A group of outputs sees its own part of each pixel. */
struct layer {
  const uint32_t *weights; /* [groups][panels][window.count * window.length][LANES] */
  const int32_t *limits;   /* [classes][groups][blocks * BLOCK]: see finish */
  struct stretches window;
  const uint16_t *row_class; /* of the borders that a window touches; 0 if there is one class */
  const uint16_t *column_class;
  int32_t column_classes;
  int32_t groups, group_words, elements;     /* elements of a window */
  int32_t outputs, panels;                   /* of a group */
  int32_t high, wide, row_step, column_step; /* of the windows: words, of pixels bytes */
  int32_t out_row, out_words;
  int32_t sums; /* 1: results are int32 sums, 0: bits */
};

/* Sets n bits at a position behind all bits set so far; the others of bits are 0. */
INLINE void put(uint32_t *to, int32_t at, int32_t n, uint32_t bits) {
  const int32_t shift = at & 31;
  to += at >> 5;
  if (shift == 0) {
    to[0] = bits;
    return;
  }
  to[0] |= bits << shift;
  if (shift + n > 32) to[1] = bits >> (32 - shift);
}
