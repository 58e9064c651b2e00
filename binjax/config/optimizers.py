"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from binjax.config.section import Positive, Rate, Section, Share


class ConstantSchedule(Section):
    """The learning rate stays as it is."""

    kind: Literal["constant"] = "constant"


class ExponentialSchedule(Section):
    """By a constant factor an epoch, reaching ``end`` after the last one (Theano)."""

    kind: Literal["exponential"] = "exponential"
    end: Rate = 3e-7


class ShiftSchedule(Section):
    """Halved every so many epochs: a right shift (Torch)."""

    kind: Literal["shift"] = "shift"
    every_epochs: Positive = 20


class CosineSchedule(Section):
    """From the learning rate to zero along half a cosine."""

    kind: Literal["cosine"] = "cosine"


class InverseTimeSchedule(Section):
    """``rate / (1 + decay·step)``: Keras's ``decay`` argument, which Larq's tutorial uses."""

    kind: Literal["inverse_time"] = "inverse_time"
    decay: Rate = 1e-4


Schedule = Annotated[
    ConstantSchedule | ExponentialSchedule | ShiftSchedule | CosineSchedule | InverseTimeSchedule,
    Field(discriminator="kind"),
]


class _Optimizer(Section):
    schedule: Schedule = ConstantSchedule()
    glorot_scale: Literal["none", "exact", "power_of_two"] = "none"
    """multiply updates of binary weights by 1/sqrt(1.5/(fan_in + fan_out))"""
    clip: Annotated[float, Field(gt=0, le=1)] = 1.0
    """latent weights stay in [-clip, clip]; beyond 1 no gradient would reach them"""


class Adam(_Optimizer):
    """Adam (optax)."""

    kind: Literal["adam"] = "adam"
    learning_rate: Rate = 1e-3
    b1: Share = 0.9
    b2: Share = 0.999
    eps: Rate = 1e-8


class Sgd(_Optimizer):
    """Stochastic gradient descent with momentum (optax)."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Rate = 0.1
    momentum: Share = 0.9


class ShiftAdaMax(_Optimizer):
    """Shift-based AdaMax; ``variant = "torch"`` rounds its state as the Torch code does."""

    kind: Literal["shift_adamax"] = "shift_adamax"
    learning_rate: Rate = 2**-10
    b1: Share = 0.875
    b2: Share = 1 - 2**-10
    eps: Rate = 2**-27
    variant: Literal["paper", "torch"] = "paper"


Optimizer = Annotated[Adam | Sgd | ShiftAdaMax, Field(discriminator="kind")]
