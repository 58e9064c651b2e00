#include <float.h>
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 1
#error "doubles are rounded twice here; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif

/* a * b + c, rounded once. */
static float multiply_add(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  /* The product of two floats is exact in double. The sum is rounded to odd there, after which a
     second rounding gives what one would have given (Boldo and Melquiond 2008); error is exact
     (Knuth's two-sum), and volatiles keep it so under any option of a compiler. */
  const double product = (double)a * (double)b;
  volatile double total = product + (double)c;
  volatile double part = total - product;
  volatile double rest = total - part;
  volatile double rest_of_product = product - rest;
  volatile double rest_of_c = (double)c - part;
  const double error = rest_of_product + rest_of_c;
  union {
    double value;
    uint64_t bits;
  } odd;
  odd.value = total;
  if (error != 0 && !(odd.bits & 1)) {
    /* One step towards the exact sum: away from 0 if the error has the sign of the total. */
    if ((error > 0) == (total > 0)) {
      ++odd.bits;
    } else {
      --odd.bits;
    }
  }
  return (float)odd.value;
#endif
}
