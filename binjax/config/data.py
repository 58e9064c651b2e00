"""Which images a run takes, and what happens to them on the way in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from binjax.config.section import Listed, NonNegative, Positive, Rate, Section


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


class FittedScaling(Section):
    """``standard`` with the mean and deviation of the training images.

    A run computes them once and notes them: its own config.toml says ``standard``.
    """

    kind: Literal["fitted"] = "fitted"
    per: Literal["channel", "set"] = "channel"
    """one mean and deviation for each channel, or one for all pixels"""


class NoScaling(Section):
    """Images as they are: what ``prepare`` has made, or floats of the user's own set."""

    kind: Literal["none"] = "none"


class GCN(Section):
    """Global contrast normalisation of each image (pylearn2's, with its options)."""

    kind: Literal["gcn"] = "gcn"
    scale: Rate = 1.0
    """what the deviation (or norm) of an image becomes"""
    subtract_mean: bool = True
    """the image's own"""
    use_std: bool = True
    """divide by the deviation of its pixels; false: by their Euclidean norm"""
    sqrt_bias: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """added to the variance (or squared norm)"""
    min_divisor: Rate = 1e-8
    """the least an image is divided by, before ``scale``"""


class LCN(Section):
    """LeCun's local contrast normalisation: subtractive, then divisive, each channel alone."""

    kind: Literal["lcn"] = "lcn"
    size: Annotated[int, Field(ge=3, le=255)] = 9
    """of the Gaussian window, odd"""
    sigma: Rate = 2.0
    """of the Gaussian, pixels"""
    threshold: Rate = 1e-4
    """the least that is divided by"""

    @model_validator(mode="after")
    def _odd(self) -> LCN:
        if self.size % 2 == 0:
            raise PydanticCustomError("size", "an odd size (a window has a middle)")
        return self


class ZCA(Section):
    """Whitening by the covariance of the training images."""

    kind: Literal["zca"] = "zca"
    filter_bias: Rate = 0.1
    """added to the covariance's eigenvalues"""


Step = GCN | LCN | ZCA


def _named(value: Any) -> Any:
    """Steps written by their names alone: ``["gcn", "zca"]``, or one without brackets."""
    steps = value if isinstance(value, list | tuple) else (value,)
    return tuple({"kind": step} if isinstance(step, str) else step for step in steps)


Steps = Annotated[tuple[Annotated[Step, Field(discriminator="kind")], ...], BeforeValidator(_named)]


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise PydanticCustomError("range", "two numbers, the smaller one first")
    return value


def _pair(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise PydanticCustomError("range", "two numbers, the smaller one first")
    return tuple(value)


Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factors = Annotated[tuple[Factor, Factor], BeforeValidator(_pair), AfterValidator(_ascending)]
Area = Annotated[float, Field(gt=0, le=1)]
Areas = Annotated[tuple[Area, Area], BeforeValidator(_pair), AfterValidator(_ascending)]
Ratios = Annotated[tuple[Rate, Rate], BeforeValidator(_pair), AfterValidator(_ascending)]


class ResizedCrop(Section):
    """Inception's crop: a window of random area and shape, resized to the network's images."""

    scale: Areas = (0.08, 1.0)
    """least and greatest area, as a share of the image's"""
    ratio: Ratios = (3 / 4, 4 / 3)
    """least and greatest width/height"""


class ColorJitter(Section):
    """Brightness, contrast and saturation times random factors, in random order."""

    brightness: Factors = (0.6, 1.4)
    """least and greatest factor; [1, 1] = leave it"""
    contrast: Factors = (0.6, 1.4)
    """likewise, around the mean of the image's luma"""
    saturation: Factors = (0.6, 1.4)
    """likewise, around each pixel's luma"""


def _square(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise PydanticCustomError("size", "[height, width], or one number for both")
    return tuple(value)


Size = Annotated[tuple[Positive, Positive], BeforeValidator(_square)]
"""(height, width), or one number for both."""


class Data(Section):
    """Which images, from where, and what happens to them on the way in."""

    name: str = "fashion-mnist-12k"
    """a data set, see `binjax data list`"""
    dir: str | None = None
    """folder of the files; default BINJAX_DATA_DIR, then the user's cache"""
    file: str | None = None
    """of the data set "npz", in ``dir`` if that is given"""
    function: str | None = None
    """of the data set "python": "package.module:function" or "file.py:function" """
    image_size: Size | None = None
    """of images in memory, height and width: larger or smaller ones are cut to its proportions,
    around their middle, and resized; of a "folder" it has to be said"""
    channels: Literal[1, 3] = 3
    """of the data set "folder": gray or RGB"""
    memory_gib: Rate = 8.0
    """the most that images may take in memory, GiB"""
    validation: NonNegative | None = None
    """images taken from the end of the training set; default the data set's own"""
    train_files: Listed[str] | None = None
    """use only these training files of a set that has several"""
    limit_train: Positive | None = None
    """use only the first so many training images"""
    limit_test: Positive | None = None
    """use only the first so many validation and test images"""
    prepare: Steps = ()
    """done once on the whole set, before augmentation, in this order: "gcn", "lcn", "zca" """
    scaling: Annotated[
        UnitScaling | StandardScaling | FittedScaling | NoScaling, Field(discriminator="kind")
    ] = UnitScaling()
    crop_size: Size | None = None
    """of what the network sees: the images' centre, in training a random part of them"""
    random_crop: NonNegative = 0
    """pad by so many pixels and crop at random (training only)"""
    resized_crop: ResizedCrop | None = None
    """instead: a random part of the image, resized (training only)"""
    random_flip: bool = False
    """mirror half of the images (training only)"""
    color_jitter: ColorJitter | None = None
    """change brightness, contrast and saturation (training only)"""
    lighting: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """AlexNet's noise along the colours' principal components: its deviation (training only)"""

    @model_validator(mode="before")
    @classmethod
    def _prepared_needs_no_scaling(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("prepare") and "scaling" not in value:
            return {**value, "scaling": NoScaling()}
        return value
