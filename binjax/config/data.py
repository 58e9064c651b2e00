"""Which images a run takes, and what happens to them on the way in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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
