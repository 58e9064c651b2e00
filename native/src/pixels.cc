// XLA FFI handlers of the first layer: 8-bit images, packed +-1 weights, scaled results.
#include "pixels.h"

#include <cstdint>

#include "ffi.h"

namespace binjax {
namespace {

using U8 = ffi::Buffer<ffi::U8>;

// Sums of k products of up to 255 are exact in float32 below 2^24, and so is float32(sum).
bool exact(int64_t k) {
  return k > 0 && k * pixels::kLargest < 1 << 24;
}

ScaledOut scaled_out(float* out, int64_t columns) {
  return {out, columns, 1.0f / static_cast<float>(pixels::kLargest)};
}

ffi::Error pixel_matmul(ffi::ThreadPool pool, U8 x, U32 w, ffi::Result<F32> out) {
  const Sizes xs = x.dimensions(), ws = w.dimensions();
  const bool fits = xs.size() == 2 && ws.size() == 2 && exact(xs[1]) &&
                    ws[1] == ceil_div(xs[1], 32) &&
                    static_cast<int64_t>(out->element_count()) == xs[0] * ws[0];
  if (!fits)
    return mismatch("binjax pixel_matmul: [m, k], [n, words] and a result of [m, n] expected");
  advise(out->typed_data(), xs[0] * ws[0] * 4);
  return guarded([&] {
    multiply<true>(pool, xs[0], Weights{w.typed_data(), ws[0], ws[1], 1},
                   pixels::MatrixSource(x.typed_data(), xs[1]),
                   scaled_out(out->typed_data(), ws[0]));
  });
}

ffi::Error pixel_conv(ffi::ThreadPool pool, U8 x, U32 w, ffi::Result<F32> out, Sizes kernel,
                      Sizes strides, Sizes dilation, Sizes padding) {
  const Sizes xs = x.dimensions(), ws = w.dimensions();
  const auto wrong = [] {
    return mismatch("binjax pixel_conv: shapes and attributes do not fit together");
  };
  if (xs.size() != 4 || ws.size() != 2 || kernel.size() != 2) return wrong();
  const int64_t k = kernel[0] * kernel[1] * xs[3], words = ceil_div(xs[3], 32);
  if (!exact(k) || ws[1] != ceil_div(k, 32)) return wrong();
  // As a convolution of one group, whose words are not used.
  const int64_t image[] = {xs[0], xs[1], xs[2], 1, words};
  const int64_t weights[] = {ws[0], kernel[0], kernel[1], words};
  auto s = conv_shape(Sizes(image, 5), Sizes(weights, 4), out->dimensions(), xs[3], strides,
                      dilation, padding, 0);
  if (!s) return s.error();
  if (out->dimensions()[3] != s->n_out) return wrong();
  const int64_t rows = s->n * s->out_h * s->out_w;
  if (rows == 0 || s->n_out == 0) return ffi::Error::Success();
  advise(out->typed_data(), rows * s->n_out * 4);
  return guarded([&] {
    const pixels::ConvSource source(pool, *s, x.typed_data(), w.typed_data());
    multiply<true>(pool, rows, Weights{w.typed_data(), s->n_out, ws[1], 1}, source,
                   scaled_out(out->typed_data(), s->n_out));
  });
}

}  // namespace

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pixel_matmul, pixel_matmul,
                              BINJAX_BIND.Arg<U8>().Arg<U32>().Ret<F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pixel_conv, pixel_conv,
                              BINJAX_BIND.Arg<U8>()
                                  .Arg<U32>()
                                  .Ret<F32>()
                                  .Attr<Sizes>("kernel")
                                  .Attr<Sizes>("strides")
                                  .Attr<Sizes>("dilation")
                                  .Attr<Sizes>("padding"));
#pragma GCC visibility pop

}  // namespace binjax
