/* Scores and class of one image: @IMAGE@, raw, from a file or from standard input. */
#include <stdio.h>

#include "@NAME@.h"

int main(int count, char **words) {
  static @PIXEL@ image[@UPPER@_IMAGE_BYTES / sizeof(@PIXEL@)];
  float scores[@UPPER@_CLASSES];
  int best = 0;
  FILE *file = count > 1 ? fopen(words[1], "rb") : stdin;
  if (!file || fread(image, 1, sizeof image, file) != sizeof image) {
    fprintf(stderr, "%s: no image of %d bytes\n", count > 1 ? words[1] : "stdin",
            @UPPER@_IMAGE_BYTES);
    return 1;
  }
  @NAME@_predict(image, scores);
  for (int i = 0; i < @UPPER@_CLASSES; ++i) {
    printf("%d %.9g\n", i, scores[i]);
    if (scores[i] > scores[best]) best = i;
  }
  printf("class %d\n", best);
  return 0;
}
