"""Losses against numpy, their gradients, and what they refuse."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from binjax import losses

RNG = np.random.default_rng(0)
SCORES = RNG.normal(0, 2, (7, 5)).astype(np.float32)
LABELS = RNG.integers(0, 5, 7)
TARGETS = reference.one_vs_rest(LABELS, 5).astype(np.float32)


@pytest.mark.parametrize("name", ["squared_hinge", "hinge"])
def test_values_and_gradients(name: str) -> None:
    ours, theirs = getattr(losses, name), getattr(reference, name)
    np.testing.assert_allclose(ours(SCORES, TARGETS), theirs(SCORES, TARGETS), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(ours)(SCORES, TARGETS), theirs(SCORES, TARGETS), rtol=1e-6)
    gradient = jax.grad(ours)(SCORES, TARGETS)
    if name == "squared_hinge":
        expected = reference.squared_hinge_gradient(SCORES, TARGETS)
    else:
        expected = np.where(TARGETS * SCORES < 1, -TARGETS, 0) / SCORES.size
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (1, 1)], ids=str)
def test_any_batch_shape(shape: tuple[int, ...]) -> None:
    scores = RNG.normal(size=shape).astype(np.float32)
    targets = np.where(RNG.normal(size=shape) > 0, 1, -1).astype(np.float32)
    for name in ("squared_hinge", "hinge"):
        value = getattr(losses, name)(scores, targets)
        assert value.shape == ()
        np.testing.assert_allclose(value, getattr(reference, name)(scores, targets), rtol=1e-6)


def test_margin_of_one_costs_nothing() -> None:
    scores = jnp.array([1.0, -1.0, 3.0])
    targets = jnp.array([1.0, -1.0, 1.0])
    value, gradient = jax.value_and_grad(losses.squared_hinge)(scores, targets)
    assert value == 0 and not gradient.any()
    assert losses.hinge(scores, targets) == 0


def test_squared_hinge_second_derivative() -> None:
    hessian = jax.hessian(losses.squared_hinge)(jnp.array([0.0, 3.0]), jnp.ones(2))
    np.testing.assert_allclose(hessian, [[1, 0], [0, 0]])


def test_cross_entropy() -> None:
    value = losses.cross_entropy(SCORES, LABELS)
    np.testing.assert_allclose(value, reference.cross_entropy(SCORES, LABELS), rtol=1e-6)
    huge = jnp.array([[1e4, 0.0]])
    assert losses.cross_entropy(huge, jnp.array([0])) == 0
    assert losses.cross_entropy(huge, jnp.array([1])) == 1e4


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_one_vs_rest(dtype: jax.typing.DTypeLike) -> None:
    targets = losses.one_vs_rest(LABELS, 5, dtype)
    assert targets.dtype == dtype
    np.testing.assert_array_equal(targets.astype(jnp.float32), TARGETS)
    assert losses.one_vs_rest(np.zeros((2, 3), int), 4, dtype).shape == (2, 3, 4)


@pytest.mark.parametrize("name", ["squared_hinge", "hinge", "cross_entropy"])
def test_losses_of_labels(name: str) -> None:
    loss = losses.LABEL_LOSSES[name]
    expected = (
        reference.cross_entropy(SCORES, LABELS)
        if name == "cross_entropy"
        else getattr(reference, name)(SCORES, TARGETS)
    )
    np.testing.assert_allclose(loss(SCORES, LABELS), expected, rtol=1e-6)


def test_registry_is_read_only() -> None:
    with pytest.raises(TypeError):
        losses.LABEL_LOSSES["mine"] = losses.cross_entropy  # type: ignore[index]


@pytest.mark.parametrize("loss", [losses.squared_hinge, losses.hinge])
@pytest.mark.parametrize("shape", [(7,), (7, 1), (5,), (1, 7, 5)], ids=str)
def test_shapes_must_agree(loss: Callable[..., jax.Array], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(7, 5\).*one_vs_rest"):
        loss(SCORES, jnp.ones(shape))


@pytest.mark.parametrize("name", ["squared_hinge", "hinge", "cross_entropy"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_no_implicit_promotion(
    name: str, dtype: jax.typing.DTypeLike, strict_promotion: None
) -> None:
    scores, labels = jax.ShapeDtypeStruct((7, 5), dtype), jax.ShapeDtypeStruct((7,), jnp.int32)
    assert jax.eval_shape(losses.LABEL_LOSSES[name], scores, labels).dtype == dtype


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_label_smoothing() -> None:
    targets = np.full((7, 5), 0.2 / 5) + 0.8 * np.eye(5)[LABELS]
    expected = -np.mean(np.sum(targets * np.log(softmax(SCORES.astype(np.float64))), -1))
    found = losses.cross_entropy(jnp.asarray(SCORES), jnp.asarray(LABELS), label_smoothing=0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation(temperature: float) -> None:
    teacher = RNG.normal(0, 3, (7, 5)).astype(np.float32)
    p = softmax(teacher.astype(np.float64) / temperature)
    q = softmax(SCORES.astype(np.float64) / temperature)
    expected = temperature**2 * np.mean(np.sum(p * np.log(p / q), -1))
    loss = lambda s, t: losses.distillation(s, t, temperature)  # noqa: E731
    np.testing.assert_allclose(loss(SCORES, teacher), expected, rtol=1e-5)
    ours, theirs = jax.grad(loss, (0, 1))(jnp.asarray(SCORES), jnp.asarray(teacher))
    np.testing.assert_allclose(ours, temperature * (q - p) / 7, atol=1e-6)
    assert not np.any(theirs)
    assert losses.distillation(jnp.asarray(teacher), jnp.asarray(teacher)) == 0


def test_attention_transfer() -> None:
    student, teacher = RNG.normal(size=(3, 4, 5, 6)), RNG.normal(size=(3, 4, 5, 2))

    def attention(x: np.ndarray) -> np.ndarray:
        q = np.mean(x**2, -1).reshape(3, 20)
        return q / np.sqrt(np.sum(q**2, -1, keepdims=True))

    expected = np.mean(np.sqrt(np.sum((attention(student) - attention(teacher)) ** 2, -1)))
    student, teacher = jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32)
    np.testing.assert_allclose(losses.attention_transfer(student, teacher), expected, rtol=1e-5)
    same = jax.grad(lambda x: losses.attention_transfer(x, student))(student)
    assert np.array_equal(same, np.zeros_like(same))


def test_attention_of_larq() -> None:
    student, teacher = RNG.normal(size=(3, 4, 5, 6)), RNG.normal(size=(3, 4, 5, 2))
    maps = [np.mean(x**2, -1).reshape(3, 20) for x in (student, teacher)]
    ours, theirs = (q / q.max(-1, keepdims=True) for q in maps)
    expected = np.mean(np.mean((ours - theirs) ** 2, -1))
    student, teacher = jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32)
    found = losses.attention_transfer(student, teacher, "max")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="maps is"):
        losses.attention_transfer(student, teacher, "l1")


def test_distillation_refuses() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and teacher_scores \(2, 4\)"):
        losses.distillation(jnp.ones((2, 3)), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="temperature is 0"):
        losses.distillation(jnp.ones((2, 3)), jnp.ones((2, 3)), 0)
    with pytest.raises(ValueError, match="one batch, height and width"):
        losses.attention_transfer(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 3, 1)))
