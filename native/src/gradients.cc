// XLA FFI handlers of the gradients of binary products.
#include <cstdint>

#include "conv_shape.h"
#include "ffi.h"
#include "input_gradient_avx512.h"
#include "input_gradient_lanes.h"
#include "isa.h"
#include "kernel_gradient.h"
#include "multiply.h"

namespace binjax {
namespace {

// ---- Of the kernels

#if BINJAX_X86
BINJAX_AVX512 void kernel_task512(const KernelGradient& k, int64_t index, float* scratch) {
  task<16>(k, index, scratch);
}
BINJAX_AVX2 void kernel_task256(const KernelGradient& k, int64_t index, float* scratch) {
  task<8>(k, index, scratch);
}
#endif
void kernel_task128(const KernelGradient& k, int64_t index, float* scratch) {
  task<4>(k, index, scratch);
}

void kernel_gradient(ffi::ThreadPool& pool, KernelGradient k) {
  const ConvShape& s = k.s;
  int lanes = 4;
  auto run = kernel_task128;
#if BINJAX_X86
  if (active_isa() == Isa::kAvx512) lanes = 16, run = kernel_task512;
  if (active_isa() == Isa::kAvx2) lanes = 8, run = kernel_task256;
#endif
  const int64_t taps = s.kh * s.kw, width = s.n_out / s.groups;
  const int64_t fit = std::max<int64_t>(32, kAccumulatorBytes / (taps * lanes * 4));
  const int64_t most = taps == 1 ? kMatrixChannels : fit;
  k.vectors = taps == 1 ? std::min(kRowVectors, ceil_div(width, lanes)) : 1;
  k.block = ceil_div(s.channels, ceil_div(s.channels, most));
  k.channel_tasks = ceil_div(s.channels, k.block);
  k.column_tasks = ceil_div(width, k.vectors * lanes);

  Memory bits = allocate(k.chunks() * s.h * s.w * k.pixel_bits() * 8);
  uint64_t* turned = static_cast<uint64_t*>(bits.get());
  parallel(pool, k.chunks() * s.h, [&](int64_t i) { turn_images(k, turned, i / s.h, i % s.h); });
  k.bits = turned;
  const std::vector<uint64_t> outside(static_cast<size_t>(k.block),
                                      s.pad_value > 0 ? ~uint64_t(0) : 0);
  k.outside = s.pad_value == 0 ? nullptr : outside.data();

  const int64_t tasks = s.groups * k.channel_tasks * k.column_tasks;
  const int64_t floats = kTableFloats * lanes + k.vectors * taps * k.block * lanes;
  const int64_t scratch = ceil_div(floats, 16) * 16;
  Memory memory = allocate(workers(pool, tasks) * scratch * 4);
  float* base = static_cast<float*>(memory.get());
  parallel_workers(pool, tasks,
                   [&](int64_t task, int64_t worker) { run(k, task, base + worker * scratch); });
}

// ---- Of the images

struct InputTask {
  int64_t image, y, x, group, channel;
};

#if BINJAX_X86
BINJAX_AVX2 void input_task256(const InputGradient& k, const InputTask& t, float* scratch) {
  InputGradientLanes<8>::run(k, t.image, t.y, t.x, t.group, t.channel, scratch);
}
#endif
void input_task128(const InputGradient& k, const InputTask& t, float* scratch) {
  InputGradientLanes<4>::run(k, t.image, t.y, t.x, t.group, t.channel, scratch);
}

// How pixels and channels are divided: `step` neighbouring pixels are computed together, `most` is
// the length of a row whose tables fit the second-level cache.
void divide_pixels(InputGradient& k, int64_t threads, int64_t step, int64_t most) {
  const ConvShape& s = k.s;
  k.wide = std::min(s.w, std::max(most / step * step, step) * s.stride[1]);
  k.high = ceil_div(s.h, std::min(s.h, ceil_div(8 * threads, s.n)));
  const int64_t spatial = s.n * ceil_div(s.w, k.wide) * ceil_div(s.h, k.high) * s.groups;
  const int64_t blocks = ceil_div(s.channels, 64);
  k.channel_block = ceil_div(blocks, std::min(blocks, ceil_div(8 * threads, spatial))) * 64;
}

// run(task, scratch) for all tasks, `bytes` of scratch memory for each worker.
template <class F>
void all_pixels(ffi::ThreadPool& pool, const InputGradient& k, int64_t bytes, const F& run) {
  const ConvShape& s = k.s;
  const int64_t across = ceil_div(s.w, k.wide), down = ceil_div(s.h, k.high);
  const int64_t parts = ceil_div(s.channels, k.channel_block);
  const int64_t tasks = s.n * s.groups * across * down * parts;
  bytes = ceil_div(bytes, 64) * 64;
  Memory memory = allocate(workers(pool, tasks) * bytes);
  char* base = static_cast<char*>(memory.get());
  parallel_workers(pool, tasks, [&](int64_t task, int64_t worker) {
    InputTask t;
    t.channel = task % parts * k.channel_block;
    task /= parts;
    t.x = task % across * k.wide;
    task /= across;
    t.y = task % down * k.high;
    task /= down;
    t.group = task % s.groups;
    t.image = task / s.groups;
    run(t, reinterpret_cast<float*>(base + worker * bytes));
  });
}

constexpr int64_t kTableBytes = 400 << 10;  // of one task: they stay in the second-level cache

void input_gradient(ffi::ThreadPool& pool, InputGradient k) {
  const ConvShape& s = k.s;
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  const int64_t taps = s.kh * s.kw;
  Memory memory = allocate(s.groups * taps * k.n_words() * k.padded_channels() * 4);
  uint32_t* panel = static_cast<uint32_t*>(memory.get());
  const int64_t tap_words = taps * k.n_words();
  parallel(pool, s.groups * tap_words, [&](int64_t i) {
    turn_kernels(k, panel, i / tap_words, i % tap_words / k.n_words(), i % k.n_words());
  });
  k.panel = panel;

#if BINJAX_X86
  if (active_isa() == Isa::kAvx512) {
    divide_pixels(k, threads, avx512::kMostPixels, kTableBytes / (k.ring() * k.fours() * 64));
    const avx512::InputGradientTask work(k);
    return all_pixels(pool, k, work.scratch_bytes(), [&](const InputTask& t, float* scratch) {
      work.run(t.image, t.y, t.x, t.group, t.channel, scratch);
    });
  }
  if (active_isa() == Isa::kAvx2) {
    divide_pixels(k, threads, 8, 8);
    return all_pixels(pool, k, InputGradientLanes<8>::scratch_bytes(),
                      [&](const InputTask& t, float* scratch) { input_task256(k, t, scratch); });
  }
#endif
  divide_pixels(k, threads, 4, 4);
  all_pixels(pool, k, InputGradientLanes<4>::scratch_bytes(),
             [&](const InputTask& t, float* scratch) { input_task128(k, t, scratch); });
}

// ---- Handlers

bool same(Sizes shape, std::initializer_list<int64_t> wanted) {
  return std::equal(shape.begin(), shape.end(), wanted.begin(), wanted.end());
}

// Whether the convolution multiplies every pixel by the same matrix and does nothing else.
bool is_matrix_product(const ConvShape& s) {
  return s.kh == 1 && s.kw == 1 && s.stride[0] == 1 && s.stride[1] == 1 && !s.padded() &&
         s.groups == 1;
}

// The mask, an operand that may be missing: null then.
ffi::ErrorOr<const uint32_t*> mask_words(const ffi::RemainingArgs& rest,
                                         std::initializer_list<int64_t> wanted) {
  if (rest.size() == 0) return static_cast<const uint32_t*>(nullptr);
  auto mask = rest.get<U32>(0);
  if (!mask) return ffi::Unexpected(mask.error());
  if (rest.size() > 1 || !same(mask->dimensions(), wanted)) {
    return ffi::Unexpected(mismatch("binjax gradient: the mask does not fit"));
  }
  return static_cast<const uint32_t*>(mask->typed_data());
}

ffi::Error kernel_gradient_call(ffi::ThreadPool pool, F32 g, U32 x, ffi::RemainingArgs rest,
                                ffi::Result<F32> out, int64_t channels, Sizes strides,
                                Sizes dilation, Sizes padding, int64_t pad_value) {
  const Sizes to = out->dimensions(), xs = x.dimensions();
  if (to.size() != 4 || xs.size() != 5) return mismatch("binjax kernel gradient: wrong ranks");
  const int64_t ws[] = {to[3], to[0], to[1], xs[4]};
  auto s =
      conv_shape(xs, Sizes(ws, 4), g.dimensions(), channels, strides, dilation, padding, pad_value);
  if (!s) return s.error();
  if (g.dimensions()[3] != s->n_out || to[2] != channels) {
    return mismatch("binjax kernel gradient: shapes do not fit together");
  }
  const auto mask = mask_words(rest, {s->kh, s->kw, channels, ceil_div(s->n_out, 32)});
  if (!mask) return mask.error();
  if (out->element_count() == 0) return ffi::Error::Success();
  advise(out->typed_data(), static_cast<int64_t>(out->size_bytes()));
  return guarded([&] {
    KernelGradient k{};
    k.s = *s;
    if (is_matrix_product(*s)) {  // all pixels as images: words full of bits
      k.s.n = s->n * s->h * s->w;
      k.s.h = k.s.w = k.s.out_h = k.s.out_w = 1;
    }
    k.g = g.typed_data();
    k.x = x.typed_data();
    k.mask = *mask;
    k.out = out->typed_data();
    kernel_gradient(pool, k);
  });
}

ffi::Error input_gradient_call(ffi::ThreadPool pool, F32 g, U32 w, ffi::RemainingArgs rest,
                               ffi::Result<F32> out, int64_t channels, Sizes strides,
                               Sizes dilation, Sizes padding, int64_t pad_value) {
  const Sizes to = out->dimensions(), ws = w.dimensions();
  if (to.size() != 4 || ws.size() != 4 || channels < 1 || to[3] % channels) {
    return mismatch("binjax input gradient: wrong ranks");
  }
  const int64_t xs[] = {to[0], to[1], to[2], to[3] / channels, ws[3]};
  auto s =
      conv_shape(Sizes(xs, 5), ws, g.dimensions(), channels, strides, dilation, padding, pad_value);
  if (!s) return s.error();
  if (g.dimensions()[3] != s->n_out) {
    return mismatch("binjax input gradient: shapes do not fit together");
  }
  const auto mask = mask_words(rest, {s->n, s->h, s->w, s->groups, s->words});
  if (!mask) return mask.error();
  if (out->element_count() == 0) return ffi::Error::Success();
  advise(out->typed_data(), static_cast<int64_t>(out->size_bytes()));
  return guarded([&] {
    InputGradient k{};
    k.s = *s;
    if (is_matrix_product(*s)) {  // all pixels as one row: neighbours share what is loaded
      k.s.w = k.s.out_w = s->n * s->h * s->w;
      k.s.n = k.s.h = k.s.out_h = 1;
    }
    k.g = g.typed_data();
    k.w = w.typed_data();
    k.mask = *mask;
    k.out = out->typed_data();
    input_gradient(pool, k);
  });
}

}  // namespace

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    binjax_kernel_gradient, kernel_gradient_call,
    BINJAX_BIND.Arg<F32>().Arg<U32>().RemainingArgs().Ret<F32>().BINJAX_CONV_ATTRS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    binjax_input_gradient, input_gradient_call,
    BINJAX_BIND.Arg<F32>().Arg<U32>().RemainingArgs().Ret<F32>().BINJAX_CONV_ATTRS);
#pragma GCC visibility pop

}  // namespace binjax
