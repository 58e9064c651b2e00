struct pool {
  const uint32_t *flip;
  int32_t high, wide, words, window_high, window_wide, row_step, column_step, in_row, out_row;
};

static void max_pool(const struct pool *p, const uint32_t *in, uint32_t *out) {
  for (int32_t y = 0; y < p->high; ++y) {
    for (int32_t x = 0; x < p->wide; ++x) {
      const uint32_t *window = in + y * p->row_step + x * p->column_step;
      uint32_t *to = out + y * p->out_row + x * p->words;
      for (int32_t w = 0; w < p->words; ++w) {
        uint32_t bits = 0;
        for (int32_t i = 0; i < p->window_high; ++i) {
          for (int32_t j = 0; j < p->window_wide; ++j) {
            bits |= window[i * p->in_row + j * p->words + w];
          }
        }
        to[w] = bits ^ p->flip[w];
      }
    }
  }
}
