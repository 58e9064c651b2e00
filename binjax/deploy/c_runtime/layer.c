#if !USE_AVX512
INLINE void tile(const int32_t rows, struct stretches v, const uint32_t *const *window,
                 const uint32_t *first, const uint32_t *second, int32_t (*count)[BLOCK]) {
  half_tile(rows, v, window, first, count, 0);
  if (second != first) {
    half_tile(rows, v, window, second, count, LANES);
    return;
  }
  for (int32_t i = 0; i < rows; ++i) {
    for (int32_t j = LANES; j < BLOCK; ++j) count[i][j] = 0;
  }
}
#endif

/* Ones of windows xor weights, of the two panels of a block; of the first alone if it is the last
   of its group. The other half does not matter then, but it is set. */
static void count_ones(const struct layer *l, struct stretches v, int32_t group, int32_t block,
                       int32_t rows, const uint32_t *const *window, int32_t (*count)[BLOCK]) {
  const int32_t panel = block / LANES, panel_words = v.count * v.length * LANES;
  const uint32_t *first = l->weights + (group * l->panels + panel) * panel_words;
  const uint32_t *second = panel + 1 < l->panels ? first + panel_words : first;
  int32_t r = 0;
  for (; rows - r >= TILE; r += TILE) tile(TILE, v, window + r, first, second, count + r);
#if TILE > 4
  if (rows - r >= 4) {
    tile(4, v, window + r, first, second, count + r);
    r += 4;
  }
#endif
  for (; r < rows; ++r) tile(1, v, window + r, first, second, count + r);
}

INLINE int32_t limits_at(const struct layer *l, int32_t y, int32_t x) {
  const int32_t blocks = (l->outputs + BLOCK - 1) / BLOCK;
  if (!l->row_class) return 0;
  return (l->row_class[y] * l->column_classes + l->column_class[x]) * l->groups * blocks * BLOCK;
}

/* A block's results: bits 1 where the count is not above its limit, or sums limit - 2 count. */
INLINE void finish(const struct layer *l, int32_t group, int32_t block, const int32_t *count,
                   const int32_t *limit, uint32_t *to) {
  const int32_t left = l->outputs - block, n = left < BLOCK ? left : BLOCK;
  const int32_t at = group * l->outputs + block;
  if (!l->sums) {
    put(to, at, n, at_most(count, limit));
    return;
  }
  for (int32_t j = 0; j < n; ++j) ((int32_t *)to)[at + j] = limit[j] - 2 * count[j];
}
