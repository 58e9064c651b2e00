"""Quantizers of activations and kernels, with their parameters.

A name alone stands for a quantizer with its defaults: ``input_quantizer = "ste_sign"``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from binjax.config.section import Rate, Section

Clip = Rate | Literal["none"]
Bits = Annotated[int, Field(ge=1, le=16)]
Sign = Literal["ste_sign", "approx_sign", "swish_sign", "fourier"]
Tau = Annotated[float, Field(gt=0.5, lt=1)]


class QuantizerSection(Section):
    """A quantizer: dumped as its name where all else is default."""

    @model_serializer(mode="wrap")
    def _as_name(self, handler: SerializerFunctionWrapHandler) -> Any:
        table: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        given = {key: value for key, value in table.items() if value != fields[key].default}
        return {"kind": table["kind"], **given} if given else table["kind"]


class _Sharpening(QuantizerSection):
    t_min: Rate
    t_max: Rate

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.t_min > self.t_max:
            raise ValueError(f"t_min {self.t_min:g} is above t_max {self.t_max:g}")
        return self


class SteSign(QuantizerSection):
    """Sign; gradients pass where the absolute value is at most clip_value."""

    kind: Literal["ste_sign"] = "ste_sign"
    clip_value: Clip = 1.0
    """ "none" passes all"""


class ApproxSign(QuantizerSection):
    """Sign with the triangular gradient of Bi-Real Net."""

    kind: Literal["approx_sign"] = "approx_sign"


class SwishSign(QuantizerSection):
    """Sign with the gradient of SignSwish (BNN+)."""

    kind: Literal["swish_sign"] = "swish_sign"
    beta: Rate = 5.0


class BoundedSign(QuantizerSection):
    """Sign with the gradient 2/bound up to a bound (PokeBNN)."""

    kind: Literal["bounded_sign"] = "bounded_sign"
    bound: Rate = 3.0


class Fourier(QuantizerSection):
    """Sign with the derivative of its Fourier series (FDA-BNN)."""

    kind: Literal["fourier"] = "fourier"
    terms: Annotated[int, Field(ge=1, le=1000)] = 10
    omega: Rate = 1.5707963267948966


class Ede(_Sharpening):
    """Sign whose gradient sharpens over the run (IR-Net)."""

    kind: Literal["ede"] = "ede"
    t_min: Rate = 0.1
    t_max: Rate = 10.0


class Rbnn(_Sharpening):
    """Sign whose triangular gradient sharpens over the run (RBNN)."""

    kind: Literal["rbnn"] = "rbnn"
    t_min: Rate = 0.01
    t_max: Rate = 10.0


class Dorefa(QuantizerSection):
    """k bits (DoReFa-Net)."""

    kind: Literal["dorefa"] = "dorefa"
    k_bit: Bits = 2
    mode: Literal["activations", "weights"] = "activations"


class SteTern(QuantizerSection):
    """-1, 0 or 1."""

    kind: Literal["ste_tern"] = "ste_tern"
    threshold_value: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    ternary_weight_networks: bool = False
    """take 0.7 times the mean magnitude as threshold"""
    clip_value: Clip = 1.0


class Absmax(QuantizerSection):
    """k bits that reach up to the largest magnitude (PokeBNN's real layers)."""

    kind: Literal["absmax"] = "absmax"
    k_bit: Bits = 8
    per: Literal["tensor", "image", "channel", "token"] = "tensor"
    """what shares a scale; kernels: channel"""
    positive: bool = False
    """values below 0 become 0"""

    @model_validator(mode="after")
    def _some_levels(self) -> Self:
        if self.k_bit == 1 and not self.positive:
            raise ValueError("k_bit is 1, which is for positive = true; give 2 to 16")
        return self


class Noop(QuantizerSection):
    """No quantization."""

    kind: Literal["noop"] = "noop"
    precision: Annotated[int, Field(ge=1, le=64)] = 32
    """bits that summaries count"""


class StochasticSign(QuantizerSection):
    """Drawn in training, the sign in evaluation."""

    kind: Literal["stochastic_sign"] = "stochastic_sign"


class SteHeaviside(QuantizerSection):
    """1 where positive, else 0."""

    kind: Literal["ste_heaviside"] = "ste_heaviside"
    clip_value: Clip = 1.0


class RSign(QuantizerSection):
    """Sign with a learned threshold per channel (ReActNet)."""

    kind: Literal["rsign"] = "rsign"
    sign: Sign = "approx_sign"


class AdaBinActivations(QuantizerSection):
    """Two learned values per layer (AdaBin)."""

    kind: Literal["adabin_activations"] = "adabin_activations"
    sign: Sign = "approx_sign"


class AbsmaxInt8(QuantizerSection):
    """8 bits, scaled by the largest of each token (BitNet b1.58)."""

    kind: Literal["absmax_int8"] = "absmax_int8"


class MagnitudeAwareSign(QuantizerSection):
    """Sign times the channel's mean magnitude, a constant in the backward pass (Bi-Real Net)."""

    kind: Literal["magnitude_aware_sign"] = "magnitude_aware_sign"
    clip_value: Clip = 1.0
    scale_gradient: bool = True
    """false: gradients pass without the scale, as in ReActNet's code"""


class AbsmaxSign(QuantizerSection):
    """Sign times half of the channel's largest magnitude (PokeBNN)."""

    kind: Literal["absmax_sign"] = "absmax_sign"


class LayerSign(QuantizerSection):
    """Sign times the mean magnitude of the whole kernel (DoReFa-Net)."""

    kind: Literal["layer_sign"] = "layer_sign"


class XnorWeightScale(QuantizerSection):
    """Sign times the channel's mean magnitude, with its gradient (XNOR-Net)."""

    kind: Literal["xnor_weight_scale"] = "xnor_weight_scale"


class LibraPb(_Sharpening):
    """Sign of standardized weights times a power of two, annealed (IR-Net)."""

    kind: Literal["libra_pb"] = "libra_pb"
    t_min: Rate = 0.1
    t_max: Rate = 10.0


class Recu(QuantizerSection):
    """Sign of standardized weights whose outliers are pulled back, annealed (ReCU)."""

    kind: Literal["recu"] = "recu"
    tau_min: Tau = 0.85
    tau_max: Tau = 0.99

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.tau_min > self.tau_max:
            raise ValueError(f"tau_min {self.tau_min} is above tau_max {self.tau_max}")
        return self


class ProgressiveSign(QuantizerSection):
    """Weights that become their signs as a temperature falls (BNext)."""

    kind: Literal["progressive_sign"] = "progressive_sign"
    t_end: Annotated[float, Field(gt=0, lt=1)] = 1e-7
    until: Annotated[float, Field(gt=0, le=1)] = 0.3
    """share of the run after which they are"""


class AdaBinWeights(_Sharpening):
    """Two values per channel, about its mean; the gradient sharpens over the run (AdaBin)."""

    kind: Literal["adabin_weights"] = "adabin_weights"
    t_min: Rate = 0.1
    t_max: Rate = 10.0


class AbsmeanTernary(QuantizerSection):
    """-1, 0 or 1 times the mean magnitude (BitNet b1.58)."""

    kind: Literal["absmean_ternary"] = "absmean_ternary"


class ScaledSign(QuantizerSection):
    """Sign with a choice of preparation, gradient and scale per channel."""

    kind: Literal["scaled_sign"] = "scaled_sign"
    sign: Sign = "ste_sign"
    prepare: Literal["none", "center", "standardize"] = "none"
    scale: Literal["none", "mean", "power_of_two", "learned"] = "none"


def _kind_alone(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Both = (
    SteSign
    | ApproxSign
    | SwishSign
    | BoundedSign
    | Fourier
    | Ede
    | Rbnn
    | Dorefa
    | SteTern
    | Absmax
    | Noop
)
ForInputs = StochasticSign | SteHeaviside | RSign | AdaBinActivations | AbsmaxInt8
ForKernels = (
    MagnitudeAwareSign
    | AbsmaxSign
    | LayerSign
    | ProgressiveSign
    | XnorWeightScale
    | LibraPb
    | Recu
    | AdaBinWeights
    | AbsmeanTernary
    | ScaledSign
)
Quantizer = Annotated[
    Annotated[Both | ForInputs, Field(discriminator="kind")], BeforeValidator(_kind_alone)
]
KernelQuantizer = Annotated[
    Annotated[Both | ForKernels, Field(discriminator="kind")], BeforeValidator(_kind_alone)
]
