/* Pixels of a border: all words of one are full but the last. */
static void fill(uint32_t *to, int32_t pixels, int32_t words, uint32_t full, uint32_t last) {
  for (int32_t i = 0; i < pixels; ++i, to += words) {
    for (int32_t w = 0; w < words - 1; ++w) to[w] = full;
    to[words - 1] = last;
  }
}
