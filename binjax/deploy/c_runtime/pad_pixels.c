/* An image of rows of bytes, with a border of zeros. */
static void pad_pixels(const uint8_t *from, int32_t rows, int32_t bytes, uint8_t *to, int32_t total,
                       int32_t at, int32_t row_step) {
  for (int32_t i = 0; i < total; ++i) to[i] = 0;
  for (int32_t y = 0; y < rows; ++y) {
    for (int32_t i = 0; i < bytes; ++i) to[at + y * row_step + i] = from[y * bytes + i];
  }
}
