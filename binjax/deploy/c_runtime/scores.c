/* Each operation is rounded: a compiler may not contract what goes through a volatile. */
static void make_scores(const int32_t *sums, int32_t n, float scale, const float *gain,
                        const float *bias, const float *mean, const float *factor,
                        const float *offset, float *scores) {
  for (int32_t j = 0; j < n; ++j) {
    volatile float value = (float)sums[j];
    value = value * scale;
    if (gain) {
      value = value * gain[j];
    }
    value = value + bias[j];
    value = value - mean[j];
    value = value * factor[j];
    value = value + offset[j];
    scores[j] = value;
  }
}
