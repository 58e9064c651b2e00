"""Keyword arguments of Keras's layers as those of ours, or where their meaning lives here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flax import nnx

from binjax.layers.base import Initializer

_INIT = nnx.initializers

INITIALIZERS: Mapping[str, Initializer] = MappingProxyType(
    {
        "glorot_uniform": _INIT.glorot_uniform(),
        "glorot_normal": _INIT.glorot_normal(),
        "he_uniform": _INIT.he_uniform(),
        "he_normal": _INIT.he_normal(),
        "lecun_uniform": _INIT.lecun_uniform(),
        "lecun_normal": _INIT.lecun_normal(),
        "random_normal": _INIT.normal(0.05),
        "zeros": _INIT.zeros_init(),
        "ones": _INIT.ones_init(),
    }
)
"""Keras's initializers of kernels by name."""

_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "activation": "put binjax.layers.Activation behind the layer",
        "activity_regularizer": "add it to the loss",
        "bias_constraint": "chain it behind the optimizer",
        "bias_regularizer": "add it to the loss, or decay weights in the optimizer",
        "input_shape": "n_in says what a layer takes",
        "name": "binjax.layers.Sequential names its layers",
    }
)
_DEFAULTS: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "data_format": (None, "channels_last"),
        "bias_initializer": (None, "zeros"),
        "implementation": (1, 2, 3),
        "trainable": (True,),
    }
)


def translate(layer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a Keras layer as options of ours.

    ``kernel_initializer`` (also ``depthwise_`` and ``pointwise_``, if they are equal) becomes
    ``kernel_init``; arguments that have their default vanish.

    Raises:
        ValueError: an argument that has no meaning for a layer here, with what to do instead;
            unknown initializer.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name.endswith("_initializer") and name != "bias_initializer":
            init = _initializer(layer, name, value)
            if found.setdefault("kernel_init", init) is not init:
                raise ValueError(f"{layer}: one initializer for both kernels, got two")
        elif name in _DEFAULTS:
            if value not in _DEFAULTS[name]:
                raise ValueError(
                    f"{layer}: {name} is {value!r}; only {_DEFAULTS[name][-1]!r} is here"
                )
        elif name in _ELSEWHERE or name.endswith(("_constraint", "_regularizer")):
            if value is not None:
                raise ValueError(f"{layer}: no {name} here; {_elsewhere(name)}")
        else:
            found[name] = value
    return found


def valid_only(layer: str, padding: str) -> None:
    """Refuse another padding than "valid".

    Raises:
        ValueError: it is.
    """
    if padding != "valid":
        raise ValueError(f'{layer}: padding is {padding!r}; only "valid" is here: pad the input')


def padding_name(padding: Any) -> Any:
    """Keras's name of a padding in capitals; what is no name is the layer's to take or refuse."""
    return padding.upper() if isinstance(padding, str) else padding


def refuse_kernel_quantizer(layer: str, options: Mapping[str, Any]) -> None:
    """Refuse a name that Larq's depthwise and separable layers do not have.

    Raises:
        TypeError: it is there.
    """
    if "kernel_quantizer" in options:
        names = "depthwise_quantizer"
        names += " and pointwise_quantizer" if "Separable" in layer else ""
        raise TypeError(f"{layer} has no kernel_quantizer; Larq's name is {names}")


def _elsewhere(name: str) -> str:
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    if name.endswith("_constraint"):
        return "optimizers clip latent weights, binjax.optim.clip_latent"
    return _ELSEWHERE["bias_regularizer"]


def _initializer(layer: str, name: str, value: Any) -> Initializer:
    if not isinstance(value, str):
        init: Initializer = value
        return init
    if value not in INITIALIZERS:
        raise ValueError(f"{layer}: {name} is {value!r}; known: {', '.join(INITIALIZERS)}")
    return INITIALIZERS[value]
