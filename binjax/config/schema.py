"""The settings of a run, their types, ranges and defaults: frozen pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Quantizer = Literal["ste_sign", "approx_sign", "swish_sign", "stochastic_sign", "noop"]
KernelQuantizer = Literal["ste_sign", "approx_sign", "swish_sign", "noop"]
Positive = Annotated[int, Field(gt=0, lt=2**24)]
NonNegative = Annotated[int, Field(ge=0, lt=2**24)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], BeforeValidator(_listed), Field(min_length=1)]
"""One or more; a single value may stand without brackets."""


class Section(BaseModel):
    """A frozen table of the file: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class UnitScaling(Section):
    """Pixels to [-1, 1]: ``2·pixel/255 - 1`` (BinaryNet's Theano code)."""

    kind: Literal["unit"] = "unit"


class StandardScaling(Section):
    """Pixels to ``(pixel - mean)/std``, per channel or one number for all."""

    kind: Literal["standard"] = "standard"
    mean: Listed[float]
    """in units of 0..255"""
    std: Listed[Rate]
    """in units of 0..255"""


class Data(Section):
    """Which images, from where, and what happens to them on the way in."""

    name: str = "fashion-mnist-12k"
    """a data set, see `binjax data list`"""
    dir: str | None = None
    """folder of the files; default BINJAX_DATA_DIR, then the user's cache"""
    validation: NonNegative | None = None
    """images taken from the end of the training set; default the data set's own"""
    train_files: Listed[str] | None = None
    """use only these training files of a set that has several"""
    limit_train: Positive | None = None
    """use only the first so many training images"""
    limit_test: Positive | None = None
    """use only the first so many validation and test images"""
    scaling: Annotated[UnitScaling | StandardScaling, Field(discriminator="kind")] = UnitScaling()
    random_crop: NonNegative = 0
    """pad by so many pixels and crop at random (training only)"""
    random_flip: bool = False
    """mirror half of the images (training only)"""


class BatchNorm(Section):
    """Ordinary batch normalization."""

    kind: Literal["batch"] = "batch"
    eps: Rate = 1e-4
    momentum: Share = 0.9
    """share of the old running statistics kept at a step"""
    running: Literal["variance", "inverse_std"] = "variance"
    """the statistic averaged for evaluation; Theano averaged inverse_std"""


class ShiftNorm(Section):
    """Shift-based batch normalization; the last layer keeps the ordinary one."""

    kind: Literal["shift"] = "shift"
    eps: Rate = 1e-5
    momentum: Share = 0.875


Norm = Annotated[BatchNorm | ShiftNorm, Field(discriminator="kind")]


class _Net(Section):
    first_layer: Literal["auto", "float", "pixels"] = "auto"
    """pixels: 8-bit images times ±1 weights on packed kernels, exactly; needs data.scaling.kind =
    "unit" and no input dropout. auto: that where it is possible, else float"""


class _BinaryNet(_Net):
    norm: Norm = BatchNorm()
    input_quantizer: Quantizer = "ste_sign"
    """binarizes activations; stochastic_sign draws in training only"""
    kernel_quantizer: KernelQuantizer = "ste_sign"
    use_bias: bool = True
    """biases in front of batch normalization, as the paper's networks have them"""
    kernel_init: Literal["glorot_uniform", "uniform"] = "glorot_uniform"
    """latent weights at the start; BinaryNet's Theano code draws them uniform in [-1, 1]"""


class MLP(_BinaryNet):
    """The paper's permutation-invariant MNIST network, any widths."""

    kind: Literal["mlp"] = "mlp"
    widths: Listed[Positive] = (4096, 4096, 4096)
    input_dropout: Share = 0.2
    hidden_dropout: Share = 0.5


class Cifar10ConvNet(_BinaryNet):
    """The paper's CIFAR-10 ConvNet: 2x128C3-MP2-2x256C3-MP2-2x512C3-MP2-1024-1024-10."""

    kind: Literal["cifar10_convnet"] = "cifar10_convnet"
    channels: Listed[Positive] = (128, 256, 512)
    """of each pair of convolutions; a 2x2 max-pool follows each pair"""
    widths: tuple[Positive, ...] = (1024, 1024)
    """of the dense layers before the last"""


class SvhnConvNet(_BinaryNet):
    """The paper's SVHN ConvNet: the CIFAR-10 one with half the channels."""

    kind: Literal["svhn_convnet"] = "svhn_convnet"
    channels: Listed[Positive] = (64, 128, 256)
    """of each pair of convolutions; a 2x2 max-pool follows each pair"""
    widths: tuple[Positive, ...] = (1024, 1024)
    """of the dense layers before the last"""


class LarqCifar10(_Net):
    """The CIFAR-10 network of Larq's tutorial."""

    kind: Literal["larq_cifar10"] = "larq_cifar10"


Model = Annotated[MLP | Cifar10ConvNet | SvhnConvNet | LarqCifar10, Field(discriminator="kind")]


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


class Checkpoint(Section):
    """When the state is saved. The best epoch's checkpoint is always kept."""

    every_epochs: Positive = 1
    every_steps: NonNegative = 0
    """also every so many steps within an epoch; 0 = never"""
    keep: Positive = 2
    """how many of the latest are kept"""


class Parallel(Section):
    """Over which devices training is split. ``batch_size`` is that of all of them together."""

    devices: NonNegative | None = None
    """how many devices a batch is split over; 0 = all; default one, under --distributed all"""
    timeout: Positive = 300
    """seconds that the processes of --distributed wait for one another at the start"""


Backend = Literal["auto", "float", "xla", "native", "triton"]
Memory = Literal["full", "int16", "lean"]


class Config(Section):
    """A run of binjax."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """JAX keeps 32 bits of it"""
    epochs: Positive = 10
    batch_size: Positive = 100
    loss: Literal["squared_hinge", "hinge", "cross_entropy"] = "squared_hinge"
    data: Data = Data()
    model: Model = MLP()
    optimizer: Optimizer = Adam()
    checkpoint: Checkpoint = Checkpoint()
    parallel: Parallel = Parallel()
    backend: Backend = "auto"
    """who multiplies ±1 by ±1: packed kernels of a kind, the best of them (auto), or floats"""
    memory: Memory = "full"
    """what the backward pass finds of a binary product: its float values, 16-bit sums, or nothing
    but bits, from which it multiplies again (lean)"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of activations and products; parameters, statistics and losses stay float32"""
