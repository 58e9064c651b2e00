int @NAME@_predict_with(const @PIXEL@ *image, float *scores, void *arena) {
  uint32_t *memory = (uint32_t *)arena;
@CALLS@
  return 0;
}

#if !defined(@UPPER@_NO_ARENA)
int @NAME@_predict(const @PIXEL@ *image, float *scores) {
  static uint32_t arena[@UPPER@_ARENA_BYTES / 4] ALIGNED;
  return @NAME@_predict_with(image, scores, arena);
}
#endif
