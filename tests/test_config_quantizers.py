"""Quantizers in configs: names alone, tables, mistakes, and that they are those of the library."""

import inspect
import typing

import pytest

from binjax import config
from binjax.config import ConfigError, quantizers
from binjax.config.overrides import apply_overrides
from binjax.layers import QUANTIZER_MODULES
from binjax.layers.quantize import resolve_quantizer
from binjax.ste import QUANTIZERS, Stochastic


def sections(annotation):
    if isinstance(annotation, type):
        return [annotation]
    return [s for a in typing.get_args(annotation) if not isinstance(a, str) for s in sections(a)]


INPUTS = {s.model_fields["kind"].default: s for s in sections(quantizers.Both)}
INPUTS |= {s.model_fields["kind"].default: s for s in sections(quantizers.ForInputs)}
KERNELS = {s.model_fields["kind"].default: s for s in sections(quantizers.Both)}
KERNELS |= {s.model_fields["kind"].default: s for s in sections(quantizers.ForKernels)}


def test_all_quantizers_have_a_section():
    assert set(INPUTS) | set(KERNELS) == set(QUANTIZERS) | set(QUANTIZER_MODULES)


@pytest.mark.parametrize("name", sorted(INPUTS | KERNELS))
def test_parameters_and_defaults_are_the_functions(name):
    section = (INPUTS | KERNELS)[name]
    ours = {key: field.default for key, field in section.model_fields.items() if key != "kind"}
    made = QUANTIZERS.get(name) or QUANTIZER_MODULES[name]
    if isinstance(made, Stochastic):
        assert ours == {}
        return
    theirs = {
        key: parameter.default
        for key, parameter in inspect.signature(
            made.__init__ if isinstance(made, type) else made
        ).parameters.items()
        if key not in ("self", "x", "n", "autodiff", "eps")
    }
    assert ours == theirs
    assert resolve_quantizer(section(**ours).model_dump(), 3) is not None


@pytest.mark.parametrize(
    ("key", "table", "message"),
    [
        (
            "kernel",
            {"kind": "ste_sign", "clip_value": -1},
            ".clip_value: wants greater than 0 or 'n",
        ),
        (
            "kernel",
            {"kind": "recu", "tau_min": 0.95, "tau_max": 0.9},
            ": tau_min 0.95 is above tau",
        ),
        ("input", {"kind": "ede", "t_min": 3.0, "t_max": 0.9}, ": t_min 3 is above t_max 0.9"),
        ("kernel", {"kind": "absmax", "k_bit": 1}, ": k_bit is 1, which is for positive = true"),
        (
            "input",
            "magnitude_aware_sign",
            ".kind: 'magnitude_aware_sign' is a quantizer of kernels",
        ),
        ("kernel", "rsign", ".kind: 'rsign' is a quantizer of inputs only"),
    ],
)
def test_mistakes_name_file_and_key(key, table, message):
    with pytest.raises(ConfigError) as caught:
        model({f"{key}_quantizer": table})
    assert str(caught.value).startswith(f"it: model.{key}_quantizer{message}")
    assert ";" not in str(caught.value).replace("true; give", "")


def model(text, *overrides):
    table = {"model": {"kind": "mlp", **text}}
    settings = config.parse_overrides(overrides)
    apply_overrides(table, settings)
    return config.validate(table, "it").model


def test_a_name_alone_is_a_table_of_defaults():
    short = model({"input_quantizer": "ede"})
    assert short == model({"input_quantizer": {"kind": "ede", "t_min": 0.1}})
    assert short.model_dump()["input_quantizer"] == "ede"
    other = model({"kernel_quantizer": {"kind": "swish_sign", "beta": 3.0}})
    assert other.model_dump()["kernel_quantizer"] == {"kind": "swish_sign", "beta": 3.0}


def test_overrides():
    found = model({"input_quantizer": "swish_sign"}, "--model.input_quantizer.beta", "2.5")
    assert found.input_quantizer == quantizers.SwishSign(beta=2.5)
    found = model({}, "--model.kernel_quantizer", "recu")
    assert found.kernel_quantizer == quantizers.Recu()
    words = ["--model.kernel_quantizer.kind", "dorefa", "--model.kernel_quantizer.k_bit", "4"]
    found = model({"kernel_quantizer": "recu"}, *words)
    assert found.kernel_quantizer == quantizers.Dorefa(k_bit=4)


def test_resolved_configs_reload_equal(tmp_path):
    text = '[model]\nkind = "mlp"\nkernel_quantizer = {kind = "ste_sign", clip_value = "none"}\n'
    path = tmp_path / "it.toml"
    path.write_text(text + 'input_quantizer = "rsign"\n')
    loaded = config.load(path)
    path.write_text(config.dump(loaded))
    assert config.load(path) == loaded
    assert loaded.model.kernel_quantizer.clip_value == "none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            {"input_quantizer": "ste_sing"},
            "it: model.input_quantizer.kind: 'ste_sing' is not known here; did you mean ste_sign",
        ),
        (
            {"kernel_quantizer": "stochastic_sign"},
            "it: model.kernel_quantizer.kind: 'stochastic_sign' is a quantizer of inputs only",
        ),
        (
            {"input_quantizer": {"kind": "dorefa", "k_bit": 0}},
            "it: model.input_quantizer.k_bit: wants greater than or equal to 1, got 0",
        ),
        (
            {"input_quantizer": {"kind": "dorefa", "bits": 2}},
            "it: model.input_quantizer.bits: unknown key; did you mean k_bit?",
        ),
        ({"kernel_quantizer": {"beta": 2}}, "it: model.kernel_quantizer.kind: is missing; one of"),
        ({"kernel_quantizer": 3}, "it: model.kernel_quantizer: wants a section of keys, got 3"),
    ],
)
def test_mistakes_are_one_line(text, message):
    with pytest.raises(ConfigError) as caught:
        model(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
