// XLA FFI handlers of the CPU back end. Shapes and meanings are in binjax/xnor; each handler checks
// what it needs to stay inside its buffers.
#include <cstdint>

#include "conv.h"
#include "ffi.h"
#include "multiply.h"
#include "pack.h"

namespace binjax {
namespace {

// ---- Packing

// f(one), where one is the bit pattern of 1.0 in an unsigned integer of the type's width.
template <class F>
ffi::Error by_type(ffi::DataType type, const F& f) {
  switch (type) {
    case ffi::F16: f(uint16_t{0x3c00}); break;
    case ffi::BF16: f(uint16_t{0x3f80}); break;
    case ffi::F32: f(uint32_t{0x3f800000}); break;
    case ffi::F64: f(uint64_t{0x3ff0000000000000}); break;
    default: return mismatch("binjax pack: float16, bfloat16, float32 or float64 expected");
  }
  return ffi::Error::Success();
}

ffi::Error pack_rows(ffi::ThreadPool& pool, const ffi::AnyBuffer& x, U32& out, U32* inside) {
  const Sizes shape = x.dimensions();
  if (shape.size() == 0) return mismatch("binjax pack: at least one axis expected");
  const int64_t n = shape.back(), words = ceil_div(n, 32);
  if (n == 0 || x.element_count() == 0) return ffi::Error::Success();
  const int64_t rows = static_cast<int64_t>(x.element_count()) / n;
  const auto fits = [&](const U32& to) {
    return static_cast<int64_t>(to.element_count()) == rows * words;
  };
  if (!fits(out) || (inside && !fits(*inside))) {
    return mismatch("binjax pack: wrong size of the result");
  }
  return by_type(x.element_type(), [&](auto one) {
    using T = decltype(one);
    pack::rows(pool, static_cast<const T*>(x.untyped_data()), rows, n, out.typed_data(), one,
               inside ? inside->typed_data() : nullptr);
  });
}

ffi::Error pack_rows_signs(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::Result<U32> out) {
  return pack_rows(pool, x, *out, nullptr);
}

ffi::Error pack_rows_ste(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::Result<U32> out,
                         ffi::Result<U32> inside) {
  return pack_rows(pool, x, *out, &*inside);
}

ffi::Error pack_columns(ffi::ThreadPool& pool, const ffi::AnyBuffer& x, U32& out, U32* inside) {
  const Sizes shape = x.dimensions();
  if (shape.size() != 3) return mismatch("binjax pack: [taps, k, n] expected");
  const int64_t taps = shape[0], k = shape[1], n = shape[2];
  if (x.element_count() == 0) return ffi::Error::Success();
  if (static_cast<int64_t>(out.element_count()) != n * taps * ceil_div(k, 32) ||
      (inside && static_cast<int64_t>(inside->element_count()) != taps * k * ceil_div(n, 32))) {
    return mismatch("binjax pack: wrong size of the result");
  }
  return by_type(x.element_type(), [&](auto one) {
    using T = decltype(one);
    pack::transposed(pool, static_cast<const T*>(x.untyped_data()), taps, k, n, out.typed_data(),
                     one, inside ? inside->typed_data() : nullptr);
  });
}

ffi::Error pack_columns_signs(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::Result<U32> out) {
  return pack_columns(pool, x, *out, nullptr);
}

ffi::Error pack_columns_ste(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::Result<U32> out,
                            ffi::Result<U32> inside) {
  return pack_columns(pool, x, *out, &*inside);
}

// ---- Epilogues from buffers; `columns` is the width of the product.

Int32Out int32_out(int32_t* out, int64_t columns) {
  return {out, columns};
}

AffineOut affine_out(float* out, int64_t columns, const F32& scale, const F32& bias) {
  return {out, columns, scale.typed_data(), bias.typed_data()};
}

BitsOut bits_out(uint32_t* out, int64_t columns, const S32& threshold, const Flags& flip,
                 int64_t groups) {
  return {out, ceil_div(columns, 32), threshold.typed_data(), flip.typed_data(),
          groups == 1 || columns / groups % 32 == 0};
}

// ---- Matrix product

template <class Out>
ffi::Error matmul(ffi::ThreadPool& pool, const U32& x, const U32& w, int64_t k, const Out& out,
                  int64_t elements) {
  const Sizes xs = x.dimensions(), ws = w.dimensions();
  const bool fits = xs.size() == 2 && ws.size() == 2 && xs[1] == ws[1] && ws[1] > 0 &&
                    elements == xs[0] * out.stride;
  if (!fits)
    return mismatch("binjax matmul: [m, words], [n, words] and a result of [m, n] expected");
  advise(out.out, elements * 4);
  return guarded([&] {
    multiply(pool, xs[0], Weights{w.typed_data(), ws[0], ws[1], 1},
             MatrixSource(x.typed_data(), xs[1], k), out);
  });
}

ffi::Error matmul_int32(ffi::ThreadPool pool, U32 x, U32 w, ffi::Result<S32> out, int64_t k) {
  const int64_t n = w.dimensions().size() == 2 ? w.dimensions()[0] : 0;
  return matmul(pool, x, w, k, int32_out(out->typed_data(), n),
                static_cast<int64_t>(out->element_count()));
}

// The third operand is the memory of the result.
ffi::Error matmul_int32_out(ffi::ThreadPool pool, U32 x, U32 w, S32, ffi::Result<S32> out,
                            int64_t k) {
  return matmul_int32(pool, x, w, out, k);
}

ffi::Error matmul_affine(ffi::ThreadPool pool, U32 x, U32 w, F32 scale, F32 bias,
                         ffi::Result<F32> out, int64_t k) {
  const int64_t n = w.dimensions().size() == 2 ? w.dimensions()[0] : 0;
  if (!covers(scale.dimensions(), n) || !covers(bias.dimensions(), n)) {
    return mismatch("binjax matmul: scale and bias of [n] expected");
  }
  return matmul(pool, x, w, k, affine_out(out->typed_data(), n, scale, bias),
                static_cast<int64_t>(out->element_count()));
}

ffi::Error matmul_threshold(ffi::ThreadPool pool, U32 x, U32 w, S32 threshold, Flags flip,
                            ffi::Result<U32> out, int64_t k) {
  const int64_t n = w.dimensions().size() == 2 ? w.dimensions()[0] : 0;
  if (!covers(threshold.dimensions(), n) || !covers(flip.dimensions(), n)) {
    return mismatch("binjax matmul: threshold and flip of [n] expected");
  }
  return matmul(pool, x, w, k, bits_out(out->typed_data(), n, threshold, flip, 1),
                static_cast<int64_t>(out->element_count()));
}

// ---- Convolution

template <class Out>
ffi::Error conv(ffi::ThreadPool& pool, const U32& x, const U32& w, const ConvShape& s,
                const Out& out) {
  const int64_t rows = s.n * s.out_h * s.out_w;
  if (rows == 0 || s.n_out == 0) return ffi::Error::Success();
  advise(out.out, rows * out.stride * 4);
  return guarded([&] {
    const ConvSource source(pool, s, x.typed_data(), w.typed_data());
    multiply(pool, rows, Weights{w.typed_data(), s.n_out, s.kh * s.kw * s.words, s.groups}, source,
             out);
  });
}

ffi::Error conv_int32(ffi::ThreadPool pool, U32 x, U32 w, ffi::Result<S32> out, int64_t channels,
                      Sizes strides, Sizes dilation, Sizes padding, int64_t pad_value) {
  auto s = conv_shape(x.dimensions(), w.dimensions(), out->dimensions(), channels, strides,
                      dilation, padding, pad_value);
  if (!s) return s.error();
  if (out->dimensions()[3] != s->n_out) return mismatch("binjax conv: [n, h, w, n_out] expected");
  return conv(pool, x, w, *s, int32_out(out->typed_data(), s->n_out));
}

ffi::Error conv_affine(ffi::ThreadPool pool, U32 x, U32 w, F32 scale, F32 bias,
                       ffi::Result<F32> out, int64_t channels, Sizes strides, Sizes dilation,
                       Sizes padding, int64_t pad_value) {
  auto s = conv_shape(x.dimensions(), w.dimensions(), out->dimensions(), channels, strides,
                      dilation, padding, pad_value);
  if (!s) return s.error();
  if (out->dimensions()[3] != s->n_out || !covers(scale.dimensions(), s->n_out) ||
      !covers(bias.dimensions(), s->n_out)) {
    return mismatch("binjax conv: scale and bias of [n_out], result [n, h, w, n_out] expected");
  }
  return conv(pool, x, w, *s, affine_out(out->typed_data(), s->n_out, scale, bias));
}

ffi::Error conv_threshold(ffi::ThreadPool pool, U32 x, U32 w, S32 threshold, Flags flip,
                          ffi::Result<U32> out, int64_t channels, Sizes strides, Sizes dilation,
                          Sizes padding, int64_t pad_value) {
  auto s = conv_shape(x.dimensions(), w.dimensions(), out->dimensions(), channels, strides,
                      dilation, padding, pad_value);
  if (!s) return s.error();
  if (out->dimensions()[3] != ceil_div(s->n_out, 32) || !covers(threshold.dimensions(), s->n_out) ||
      !covers(flip.dimensions(), s->n_out)) {
    return mismatch("binjax conv: threshold and flip of [n_out], result [n, h, w, words] expected");
  }
  const BitsOut bits = bits_out(out->typed_data(), s->n_out, threshold, flip, s->groups);
  if (!bits.aligned) std::memset(bits.out, 0, out->size_bytes());
  return conv(pool, x, w, *s, bits);
}

}  // namespace

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pack_rows, pack_rows_signs,
                              BINJAX_BIND.Arg<ffi::AnyBuffer>().Ret<U32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pack_rows_ste, pack_rows_ste,
                              BINJAX_BIND.Arg<ffi::AnyBuffer>().Ret<U32>().Ret<U32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pack_columns, pack_columns_signs,
                              BINJAX_BIND.Arg<ffi::AnyBuffer>().Ret<U32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_pack_columns_ste, pack_columns_ste,
                              BINJAX_BIND.Arg<ffi::AnyBuffer>().Ret<U32>().Ret<U32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_matmul_int32, matmul_int32,
                              BINJAX_BIND.Arg<U32>().Arg<U32>().Ret<S32>().Attr<int64_t>("k"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    binjax_matmul_int32_out, matmul_int32_out,
    BINJAX_BIND.Arg<U32>().Arg<U32>().Arg<S32>().Ret<S32>().Attr<int64_t>("k"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    binjax_matmul_affine, matmul_affine,
    BINJAX_BIND.Arg<U32>().Arg<U32>().Arg<F32>().Arg<F32>().Ret<F32>().Attr<int64_t>("k"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    binjax_matmul_threshold, matmul_threshold,
    BINJAX_BIND.Arg<U32>().Arg<U32>().Arg<S32>().Arg<Flags>().Ret<U32>().Attr<int64_t>("k"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(binjax_conv_int32, conv_int32,
                              BINJAX_BIND.Arg<U32>().Arg<U32>().Ret<S32>().BINJAX_CONV_ATTRS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    binjax_conv_affine, conv_affine,
    BINJAX_BIND.Arg<U32>().Arg<U32>().Arg<F32>().Arg<F32>().Ret<F32>().BINJAX_CONV_ATTRS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    binjax_conv_threshold, conv_threshold,
    BINJAX_BIND.Arg<U32>().Arg<U32>().Arg<S32>().Arg<Flags>().Ret<U32>().BINJAX_CONV_ATTRS);
#pragma GCC visibility pop

}  // namespace binjax

// Version of the FFI headers compiled in: 1000 major + minor.
extern "C" __attribute__((visibility("default"))) int binjax_ffi_api_version() {
  return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR;
}
