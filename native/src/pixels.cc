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

BitsOut bits_out(uint32_t* out, int64_t columns, const S32& threshold, const Flags& flip) {
  return {out, ceil_div(columns, 32), threshold.typed_data(), flip.typed_data(), true};
}

int64_t columns(const U32& w) {
  return w.dimensions().size() == 2 ? w.dimensions()[0] : 0;
}

template <class Out>
ffi::Error matmul(ffi::ThreadPool& pool, const U8& x, const U32& w, const Out& out,
                  int64_t elements) {
  const Sizes xs = x.dimensions(), ws = w.dimensions();
  const bool fits = xs.size() == 2 && ws.size() == 2 && exact(xs[1]) &&
                    ws[1] == ceil_div(xs[1], 32) && elements == xs[0] * out.stride;
  if (!fits)
    return mismatch("binjax pixel_matmul: [m, k], [n, words] and a result of [m, n] expected");
  advise(out.out, elements * 4);
  return guarded([&] {
    multiply<true>(pool, xs[0], Weights{w.typed_data(), ws[0], ws[1], 1},
                   pixels::MatrixSource(x.typed_data(), xs[1]), out);
  });
}

ffi::Error matmul_scaled(ffi::ThreadPool pool, U8 x, U32 w, ffi::Result<F32> out) {
  return matmul(pool, x, w, scaled_out(out->typed_data(), columns(w)),
                static_cast<int64_t>(out->element_count()));
}

ffi::Error matmul_int32(ffi::ThreadPool pool, U8 x, U32 w, ffi::Result<S32> out) {
  return matmul(pool, x, w, Int32Out{out->typed_data(), columns(w)},
                static_cast<int64_t>(out->element_count()));
}

ffi::Error matmul_threshold(ffi::ThreadPool pool, U8 x, U32 w, S32 threshold, Flags flip,
                            ffi::Result<U32> out) {
  const int64_t n = columns(w);
  if (!covers(threshold.dimensions(), n) || !covers(flip.dimensions(), n)) {
    return mismatch("binjax pixel_matmul: threshold and flip of [n] expected");
  }
  return matmul(pool, x, w, bits_out(out->typed_data(), n, threshold, flip),
                static_cast<int64_t>(out->element_count()));
}

template <class Out>
ffi::Error conv(ffi::ThreadPool& pool, const U8& x, const U32& w, const Out& out, Sizes result,
                Sizes kernel, Sizes strides, Sizes dilation, Sizes padding) {
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
  auto s =
      conv_shape(Sizes(image, 5), Sizes(weights, 4), result, xs[3], strides, dilation, padding, 0);
  if (!s) return s.error();
  if (result[3] != out.stride) return wrong();
  const int64_t rows = s->n * s->out_h * s->out_w;
  if (rows == 0 || s->n_out == 0) return ffi::Error::Success();
  advise(out.out, rows * out.stride * 4);
  return guarded([&] {
    const pixels::ConvSource source(pool, *s, x.typed_data(), w.typed_data());
    multiply<true>(pool, rows, Weights{w.typed_data(), s->n_out, ws[1], 1}, source, out);
  });
}

ffi::Error conv_scaled(ffi::ThreadPool pool, U8 x, U32 w, ffi::Result<F32> out, Sizes kernel,
                       Sizes strides, Sizes dilation, Sizes padding) {
  return conv(pool, x, w, scaled_out(out->typed_data(), columns(w)), out->dimensions(), kernel,
              strides, dilation, padding);
}

ffi::Error conv_int32(ffi::ThreadPool pool, U8 x, U32 w, ffi::Result<S32> out, Sizes kernel,
                      Sizes strides, Sizes dilation, Sizes padding) {
  return conv(pool, x, w, Int32Out{out->typed_data(), columns(w)}, out->dimensions(), kernel,
              strides, dilation, padding);
}

ffi::Error conv_threshold(ffi::ThreadPool pool, U8 x, U32 w, S32 threshold, Flags flip,
                          ffi::Result<U32> out, Sizes kernel, Sizes strides, Sizes dilation,
                          Sizes padding) {
  const int64_t n = columns(w);
  if (!covers(threshold.dimensions(), n) || !covers(flip.dimensions(), n)) {
    return mismatch("binjax pixel_conv: threshold and flip of [n_out] expected");
  }
  return conv(pool, x, w, bits_out(out->typed_data(), n, threshold, flip), out->dimensions(),
              kernel, strides, dilation, padding);
}

}  // namespace

#define BINJAX_PIXEL_CONV_ATTRS \
  Attr<Sizes>("kernel").Attr<Sizes>("strides").Attr<Sizes>("dilation").Attr<Sizes>("padding")

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pixel_matmul_scaled, matmul_scaled,
                              BINJAX_BIND.Arg<U8>().Arg<U32>().Ret<F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pixel_matmul_int32, matmul_int32,
                              BINJAX_BIND.Arg<U8>().Arg<U32>().Ret<S32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pixel_matmul_threshold, matmul_threshold,
                              BINJAX_BIND.Arg<U8>().Arg<U32>().Arg<S32>().Arg<Flags>().Ret<U32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pixel_conv_scaled, conv_scaled,
                              BINJAX_BIND.Arg<U8>().Arg<U32>().Ret<F32>().BINJAX_PIXEL_CONV_ATTRS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pixel_conv_int32, conv_int32,
                              BINJAX_BIND.Arg<U8>().Arg<U32>().Ret<S32>().BINJAX_PIXEL_CONV_ATTRS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    binjax_pixel_conv_threshold, conv_threshold,
    BINJAX_BIND.Arg<U8>().Arg<U32>().Arg<S32>().Arg<Flags>().Ret<U32>().BINJAX_PIXEL_CONV_ATTRS);
#pragma GCC visibility pop

}  // namespace binjax
