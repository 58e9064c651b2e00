/* Pixels of channels that do not fill their words, to bits without gaps. */
static void flatten(const uint32_t *in, int32_t pixels, int32_t channels, uint32_t *out) {
  int32_t at = 0;
  for (int32_t i = 0; i < pixels; ++i) {
    for (int32_t c = 0; c < channels; c += 32) {
      const int32_t n = channels - c < 32 ? channels - c : 32;
      put(out, at, n, *in++);
      at += n;
    }
  }
}
