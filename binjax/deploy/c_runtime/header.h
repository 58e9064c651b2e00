/* A binarized neural network, written by binjax.

   Image: @IMAGE@, row by row, the channels of a pixel next to each other.
   Scores: @CLASSES@ floats, the largest one's index is the class. They are bit for bit those of the
   network in binjax, whatever the compiler and its options, as long as floats are rounded to
   nearest and subnormal ones are kept.

@NETWORK@

   Constants take @WEIGHTS@ bytes. */
#ifndef @UPPER@_H
#define @UPPER@_H

#include <stdint.h>

#define @UPPER@_HEIGHT @HEIGHT@
#define @UPPER@_WIDTH @WIDTH@
#define @UPPER@_CHANNELS @CHANNELS@
#define @UPPER@_IMAGE_BYTES @IMAGE_BYTES@
#define @UPPER@_CLASSES @CLASSES@
#define @UPPER@_ARENA_BYTES @ARENA@

#ifdef __cplusplus
extern "C" {
#endif

/* Scores of an image. Not reentrant: works in one static arena. Left out, with the arena, where
   @UPPER@_NO_ARENA is defined. Returns 0. */
int @NAME@_predict(const @PIXEL@ *image, float *scores);

/* The same in @UPPER@_ARENA_BYTES bytes of the caller's, aligned as a uint32_t; reentrant. What is
   there does not matter before and means nothing after. */
int @NAME@_predict_with(const @PIXEL@ *image, float *scores, void *arena);

#ifdef __cplusplus
}
#endif

#endif
