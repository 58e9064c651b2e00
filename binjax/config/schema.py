"""The settings of a run, their types, ranges and defaults: frozen pydantic models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from binjax.config.data import Data
from binjax.config.networks import MLP, Model
from binjax.config.optimizers import Adam, Optimizer
from binjax.config.section import Listed, NonNegative, Positive, Rate, Section, Share


class Checkpoint(Section):
    """When the state is saved. The best epoch's checkpoint is always kept."""

    every_epochs: Positive = 1
    every_steps: NonNegative = 0
    """also every so many steps within an epoch; 0 = never"""
    keep: Positive = 2
    """how many of the latest are kept"""


class Telemetry(Section):
    """What is measured beside flips, margins and so on, for the line of each epoch."""

    gradient_cosine: bool = False
    """of gradients of latent weights and those of the network with hard tanh for signs, on one
    batch; both have to be compiled"""
    ff_ratio: bool = False
    """the share of binary weights that flip in a step, the epoch's mean; steps have to look"""


class Parallel(Section):
    """Over which devices training is split. ``batch_size`` is that of all of them together."""

    devices: NonNegative | None = None
    """how many devices a batch is split over; 0 = all; default one, under --distributed all"""
    timeout: Positive = 300
    """seconds that the processes of --distributed wait for one another at the start"""


class Distill(Section):
    """Imitate the network of another run."""

    teacher: str
    """its run folder; the best epoch is taken"""
    weight: Annotated[float, Field(ge=0, le=1)] = 1.0
    """of the divergence from the teacher's scores; the loss on labels gets the rest"""
    temperature: Rate = 1.0
    """of both softmaxes"""
    attention: Listed[str] | None = None
    """layers whose attention maps are compared, "ours" or "ours=theirs" """
    attention_weight: Rate = 1.0
    """of each comparison"""
    attention_maps: Literal["l2", "max"] = "l2"
    """of L2 norm 1 and compared by L2 distance, or of largest entry 1 and by mean squares"""


Backend = Literal["auto", "float", "xla", "native", "triton"]
Memory = Literal["full", "int16", "lean"]


class Config(Section):
    """A run of binjax."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """JAX keeps 32 bits of it"""
    epochs: Positive = 10
    batch_size: Positive = 100
    loss: Literal["squared_hinge", "hinge", "cross_entropy"] = "squared_hinge"
    label_smoothing: Share = 0.0
    """share of the target spread over all classes; cross_entropy only"""
    data: Data = Data()
    model: Model = MLP()
    optimizer: Optimizer = Adam()
    init_from: str | None = None
    """run folder whose weights the network starts from, by path; default none"""
    distill: Distill | None = None
    """a teacher to imitate; default none"""
    checkpoint: Checkpoint = Checkpoint()
    telemetry: Telemetry = Telemetry()
    parallel: Parallel = Parallel()
    backend: Backend = "auto"
    """who multiplies ±1 by ±1: packed kernels of a kind, the best of them (auto), or floats"""
    memory: Memory = "full"
    """what the backward pass finds of a binary product: its float values, 16-bit sums, or nothing
    but bits, from which it multiplies again (lean)"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of activations and products; parameters, statistics and losses stay float32"""
