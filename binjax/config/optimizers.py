"""Optimizers, schedules, and which parameters they are for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from binjax.config.section import Listed, NonNegative, Positive, Rate, Section, Share

Decay = Annotated[float, Field(ge=0, le=1)]


class ConstantSchedule(Section):
    """The learning rate stays as it is."""

    kind: Literal["constant"] = "constant"
    warmup_epochs: NonNegative = 0
    """of rising from zero along a line"""


class ExponentialSchedule(Section):
    """By a constant factor an epoch, reaching ``end`` after the last one (Theano)."""

    kind: Literal["exponential"] = "exponential"
    end: Rate = 3e-7


class ShiftSchedule(Section):
    """Halved every so many epochs: a right shift (Torch)."""

    kind: Literal["shift"] = "shift"
    every_epochs: Positive = 20


class StepSchedule(Section):
    """Multiplied by a factor every so many epochs."""

    kind: Literal["step"] = "step"
    every_epochs: Positive = 30
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: NonNegative = 0
    """of rising from zero along a line"""


class PiecewiseSchedule(Section):
    """Given rates from given epochs on, such as BinaryNet.pytorch's regimes."""

    kind: Literal["piecewise"] = "piecewise"
    epochs: Listed[NonNegative]
    """ascending, the first is 0"""
    rates: Listed[Rate]
    """one for each"""
    weight_decays: Listed[Decay] | None = None
    """one for each, in place of the rule's weight_decay; default that"""
    warmup_epochs: NonNegative = 0
    """of rising from zero along a line"""


class LinearSchedule(Section):
    """From the learning rate to zero along a line, behind the warm-up."""

    kind: Literal["linear"] = "linear"
    warmup_epochs: NonNegative = 0
    """of rising from zero along a line"""


class CosineSchedule(Section):
    """From the learning rate to zero along half a cosine, behind the warm-up."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: NonNegative = 0
    """of rising from zero along a line"""


class InverseTimeSchedule(Section):
    """``rate / (1 + decay·step)``: Keras's ``decay`` argument, which Larq's tutorial uses."""

    kind: Literal["inverse_time"] = "inverse_time"
    decay: Rate = 1e-4


Schedule = Annotated[
    ConstantSchedule
    | ExponentialSchedule
    | ShiftSchedule
    | CosineSchedule
    | InverseTimeSchedule
    | StepSchedule
    | PiecewiseSchedule
    | LinearSchedule,
    Field(discriminator="kind"),
]


class _Rule(Section):
    schedule: Schedule = ConstantSchedule()
    weight_decay: Decay = 0.0
    decay_on: Listed[str] = ("kernels",)
    """parameters that decay: all, kernels, those of real layers (real), latent weights (binary), or
    patterns of paths such as "block1/conv/kernel", whose * stands for anything, / too"""
    decay_except: Listed[str] | None = None
    """of these, parameters that do not, in the same words; default none"""


class AdamRule(_Rule):
    """Adam (optax)."""

    kind: Literal["adam"] = "adam"
    learning_rate: Rate = 1e-3
    b1: Share = 0.9
    b2: Share = 0.999
    eps: Rate = 1e-8
    decay: Literal["coupled", "decoupled"] = "coupled"
    """weight decay as a part of the gradient, or of the update (AdamW)"""


class SgdRule(_Rule):
    """Stochastic gradient descent with momentum (optax)."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Rate = 0.1
    momentum: Share = 0.9
    nesterov: bool = False


class ShiftAdaMaxRule(_Rule):
    """Shift-based AdaMax; ``variant = "torch"`` rounds its state as the Torch code does."""

    kind: Literal["shift_adamax"] = "shift_adamax"
    learning_rate: Rate = 2**-10
    b1: Share = 0.875
    b2: Share = 1 - 2**-10
    eps: Rate = 2**-27
    variant: Literal["paper", "torch"] = "paper"


Rule = Annotated[AdamRule | SgdRule | ShiftAdaMaxRule, Field(discriminator="kind")]


class _Case(Section):
    match: Listed[str]
    """parameters it trains in place of the main rule, in the words of decay_on"""


class AdamCase(_Case, AdamRule):
    """Adam (optax)."""


class SgdCase(_Case, SgdRule):
    """Stochastic gradient descent with momentum (optax)."""


class ShiftAdaMaxCase(_Case, ShiftAdaMaxRule):
    """Shift-based AdaMax; ``variant = "torch"`` rounds its state as the Torch code does."""


Case = Annotated[AdamCase | SgdCase | ShiftAdaMaxCase, Field(discriminator="kind")]


class _Whole(Section):
    clip_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """gradients of all parameters together, whichever rule trains them, are scaled down to this L2
    norm, before anything else; 0: never"""
    cases: Listed[Case] | None = None
    """rules of their own for parameters chosen by name, each for at most one; default none"""


class _Latent(_Whole):
    glorot_scale: Literal["none", "exact", "power_of_two"] = "none"
    """multiply updates of binary weights by 1/sqrt(1.5/(fan_in + fan_out))"""
    clip: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """latent weights stay in [-clip, clip], beyond which most quantizers pass no gradient; 0:
    anywhere"""
    others: Rule | None = None
    """what trains other parameters than latent weights that no case claims; default the same"""


class Adam(_Latent, AdamRule):
    """Adam (optax)."""


class Sgd(_Latent, SgdRule):
    """Stochastic gradient descent with momentum (optax)."""


class ShiftAdaMax(_Latent, ShiftAdaMaxRule):
    """Shift-based AdaMax; ``variant = "torch"`` rounds its state as the Torch code does."""


class Bop(_Whole):
    """Flips ±1 weights without latent ones (Bop); another optimizer trains the other parameters."""

    kind: Literal["bop"] = "bop"
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-8
    """a weight flips when its averaged gradient agrees with it by more"""
    threshold_schedule: Schedule = ConstantSchedule()
    gamma: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """rate of the average"""
    gamma_schedule: Schedule = ConstantSchedule()
    order: Literal[1, 2] = 1
    """2: the average is divided by the root of the averaged square"""
    sigma: Annotated[float, Field(gt=0, le=1)] = 1e-2
    """rate of the averaged square (order 2)"""
    unbiased: bool = False
    """correct for averages that begin at zero (order 2)"""
    others: Rule = AdamRule()
    """what trains the other parameters that no case claims"""

    @property
    def learning_rate(self) -> float:
        """Of the other parameters."""
        return self.others.learning_rate

    @property
    def schedule(self) -> Schedule:
        """Of the other parameters' learning rate."""
        return self.others.schedule


Optimizer = Annotated[Adam | Sgd | ShiftAdaMax | Bop, Field(discriminator="kind")]
