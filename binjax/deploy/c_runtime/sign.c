/* Bits of floats: 1 where x >= 0, for -0.0 too; NaN goes by its sign. */
static void take_signs(const float *in, int32_t rows, int32_t pixels, int32_t channels,
                       uint32_t *out, int32_t out_row) {
  for (int32_t y = 0; y < rows; ++y, out += out_row) {
    uint32_t *to = out;
    for (int32_t x = 0; x < pixels; ++x) {
      for (int32_t c = 0; c < channels; c += 32) {
        const int32_t n = channels - c < 32 ? channels - c : 32;
        uint32_t bits = 0;
        for (int32_t j = 0; j < n; ++j) {
          union {
            float value;
            uint32_t bits;
          } element;
          element.value = *in++;
          bits |= (uint32_t)(element.bits <= 0x80000000u) << j;
        }
        *to++ = bits;
      }
    }
  }
}
