"""Rotation in place against complex numbers, and models of several types with and without it."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from families import FAMILIES, LLAMA, NEOX, TIED, V, make_model
from torch import Tensor
from transformers import PreTrainedModel

from raysft.model.fast.rotary import apply_rotary_pos_emb, use_rotation

ROTATED = {"llama": LLAMA, "qwen3": TIED, "gemma2": FAMILIES["gemma2"], "granite": FAMILIES["granite"]}
OLMO2 = LLAMA | {"model_type": "olmo2"}
"""Its factors stay in fp32, and what they turn is rounded to the model's precision."""
LEFT = {"cohere": FAMILIES["cohere"], "gpt2": FAMILIES["gpt2"], "neox": NEOX, "olmo2": OLMO2}


def fresh_model(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """A model whose type has transformers' own rotation during the test, whatever tests before it did."""
    model = make_model(fields)
    name = type(model).__module__
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    if hasattr(again, "apply_rotary_pos_emb"):
        monkeypatch.setattr(sys.modules[name], "apply_rotary_pos_emb", again.apply_rotary_pos_emb)
    return model


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """The halves of the last dimension as complex numbers, times e^(i angle)."""
    half = x.shape[-1] // 2
    product = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((product.real, product.imag), -1)


@pytest.mark.parametrize("heads_at", [1, 2])
def test_halves_turn_like_complex_numbers(heads_at: int) -> None:
    torch.manual_seed(1)
    angles = drawn(2, 5, 4)
    cos, sin = (torch.cat((one, one), -1) for one in (angles.cos(), angles.sin()))
    q, k = (drawn(2, heads, 5, 8) if heads_at == 1 else drawn(2, 5, heads, 8) for heads in (6, 3))
    found = apply_rotary_pos_emb(q, k, cos, sin, heads_at)
    for one, answer in zip((q, k), found, strict=True):
        torch.testing.assert_close(answer, turned(one, angles.unsqueeze(heads_at)))


def test_the_gradient_is_that_of_finite_differences() -> None:
    """Also where the two halves of cos and sin differ, and through a transposed view, as models call it."""
    torch.manual_seed(2)
    q, k = (drawn(1, 3, heads, 4).requires_grad_() for heads in (2, 1))
    cos, sin = drawn(1, 3, 4), drawn(1, 3, 4)

    def rotate(q: Tensor, k: Tensor) -> Any:
        return apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos, sin)

    assert torch.autograd.gradcheck(rotate, (q, k))


def answers(model: PreTrainedModel) -> list[Tensor]:
    """Logits of a text and the gradients of all weights."""
    ids = torch.arange(12).reshape(1, 12) * 7 % V
    model.zero_grad()
    logits = model(input_ids=ids, use_cache=False).logits
    logits.log_softmax(-1)[..., 3].sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", ROTATED)
def test_a_model_answers_as_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh_model(ROTATED[name], monkeypatch)
    before = answers(model)
    assert use_rotation(model)
    assert sys.modules[type(model).__module__].apply_rotary_pos_emb is apply_rotary_pos_emb
    after = answers(model)
    assert len(before) == len(after)
    for theirs, ours in zip(before, after, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert not use_rotation(model), "it is in place"


@pytest.mark.parametrize("name", LEFT)
def test_another_rotation_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh_model(LEFT[name], monkeypatch)
    module = sys.modules[type(model).__module__]
    before = vars(module).get("apply_rotary_pos_emb")
    assert not use_rotation(model)
    assert vars(module).get("apply_rotary_pos_emb") is before


@pytest.mark.parametrize("wrong", ["sign", "neighbours", "kernel"])
def test_what_computes_something_else_is_not_replaced(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh_model(LLAMA, monkeypatch)
    module = sys.modules[type(model).__module__]
    theirs = module.apply_rotary_pos_emb

    def other(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        if wrong == "sign":
            return theirs(q, k, cos, -sin)  # type: ignore[no-any-return]
        if wrong == "neighbours":
            cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
            q, k = (x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin for x in (q, k))
            return q, k
        return theirs(q, k, cos, sin)  # type: ignore[no-any-return]

    other.__module__ = "a_kernel" if wrong == "kernel" else module.__name__
    monkeypatch.setattr(module, "apply_rotary_pos_emb", other)
    assert not use_rotation(model)
    assert module.apply_rotary_pos_emb is other


def test_half_precision_is_not_less_exact() -> None:
    """Than the sum of two rounded products, which is what transformers computes."""
    torch.manual_seed(3)
    q, cos, sin = (torch.randn(1, *shape, 32).bfloat16() for shape in ((2, 64), (64,), (64,)))
    exact, _ = apply_rotary_pos_emb(*(x.double() for x in (q, q, cos, sin)))
    ours, _ = apply_rotary_pos_emb(q, q, cos, sin)
    theirs = q * cos[:, None] + torch.cat((-q[..., 16:], q[..., :16]), -1) * sin[:, None]
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).abs().mean() <= (theirs - exact).abs().mean()


@pytest.mark.parametrize("fields", [*ROTATED.values(), *LEFT.values()], ids=[*ROTATED, *LEFT])
def test_a_model_in_bf16_answers_as_before(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh_model(fields, monkeypatch).bfloat16()
    before = answers(model)
    use_rotation(model)
    after = answers(model)
    assert len(before) == len(after)
    for theirs, ours in zip(before, after, strict=True):
        assert float((ours - theirs).norm()) <= 0.05 * float(theirs.norm())
