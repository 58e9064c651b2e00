/* Windows of packed bits; in begins with the border, out with the first pixel. */
static void multiply_bits(const struct layer *l, const uint32_t *in, uint32_t *out) {
  const int32_t blocks = (l->outputs + BLOCK - 1) / BLOCK, positions = l->high * l->wide;
  for (int32_t group = 0; group < l->groups; ++group) {
    for (int32_t block = 0; block < l->outputs; block += BLOCK) {
      const int32_t *limits = l->limits + group * blocks * BLOCK + block;
      int32_t y = 0, x = 0;
      for (int32_t first = 0; first < positions; first += ROWS) {
        const int32_t rows = positions - first < ROWS ? positions - first : ROWS;
        const uint32_t *window[ROWS];
        const int32_t *limit[ROWS];
        uint32_t *to[ROWS];
        int32_t count[ROWS][BLOCK] ALIGNED;
        for (int32_t i = 0; i < rows; ++i) {
          window[i] = in + y * l->row_step + x * l->column_step + group * l->group_words;
          limit[i] = limits + limits_at(l, y, x);
          to[i] = out + y * l->out_row + x * l->out_words;
          if (++x == l->wide) {
            x = 0;
            ++y;
          }
        }
        count_ones(l, l->window, group, block, rows, window, count);
        for (int32_t i = 0; i < rows; ++i) finish(l, group, block, count[i], limit[i], to[i]);
      }
    }
  }
}
