"""The head that takes the loss: against whole logits, with bias, scale and cap, in one chunk of memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import LLAMA, TIED, V, make_model, tiny_fields
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.model.fast import loss_head as head_module
from raysft.model.fast.loss import OutputHead, hidden_states, output_head, weighted_nll
from raysft.model.fast.loss_head import LogitShape, LossHead, Targets, chunk_targets, install_loss_head

SHAPES = {"plain": LogitShape(), "scaled": LogitShape(scale=0.25), "capped": LogitShape(scale=3.0, cap=2.0)}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "chunk_targets", lambda vocab_size, weight: 3)
    monkeypatch.setattr("raysft.model.fast.loss.CHUNK_TARGETS", 4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("small_chunks")
def test_bias_scale_and_soft_cap(shape: str) -> None:
    """Against autograd on whole logits, the formula written out here; fp64."""
    torch.manual_seed(0)
    head, scale, cap = LossHead(4, 11).double(), SHAPES[shape].scale, SHAPES[shape].cap
    hidden, weights = torch.randn(7, 4).double().requires_grad_(), torch.rand(7).double()
    labels = torch.randint(0, 11, (7,))
    logits = scale * (hidden @ head.weight.T + head.bias)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    expected = (nn.functional.cross_entropy(logits, labels, reduction="none") * weights).sum()
    leaves = (hidden, head.weight, head.bias)
    theirs = torch.autograd.grad(expected, leaves)
    found = head(hidden, Targets(labels, weights, SHAPES[shape]))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for ours, other in zip(torch.autograd.grad(found, leaves), theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-12)


def linear_head(vocab_size: int, *, width: int = 16, dtype: torch.dtype = torch.float32) -> OutputHead:
    torch.manual_seed(0)
    return OutputHead(LossHead(width, vocab_size, bias=False, dtype=dtype), LogitShape())


@pytest.mark.usefixtures("small_chunks")
def test_bf16_rounds_neither_the_sum_over_chunks_nor_the_factors() -> None:
    """33 chunks, weights 0.3, upstream 0.1: a sum in bf16 would be off by 2%, each factor by 0.1% or more."""
    half = linear_head(V, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 99, 16, generator=generator).bfloat16().requires_grad_()
    labels = torch.randint(0, V, (1, 99), generator=generator)
    (weighted_nll(hidden, half, labels, torch.full((1, 99), 0.3)) * 0.1).backward()
    wide, weight = hidden.detach().float().requires_grad_(), half.module.weight.detach().float().requires_grad_()
    logits = (wide[0] @ weight.T).bfloat16().float()  # what a plain loss in bf16 sees, too
    (nn.functional.cross_entropy(logits, labels[0], reduction="sum") * 0.3 * 0.1).backward()
    for found, expected in ((hidden.grad, wide.grad), (half.module.weight.grad, weight.grad)):
        assert found.dtype == torch.bfloat16
        assert float((found.float() - expected).norm() / expected.norm()) < 4e-3
        scale = float((found.float() * expected).sum() / (expected * expected).sum())
        assert scale == pytest.approx(1, abs=4e-4)


class Allocated(TorchDispatchMode):
    """Numbers of elements of the tensors that operations make, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        new = (t for t in tree_leaves(result) if isinstance(t, Tensor))
        self.made += [t.numel() for t in new if t.untyped_storage().data_ptr() not in known]
        return result


@pytest.mark.parametrize(("frozen", "copies"), [(False, 1), (True, 0)])
def test_memory_is_one_chunk_and_one_gradient(frozen: bool, copies: int) -> None:
    """No [N, V] ever; the weight's gradient exists once, and never where it is frozen (LoRA)."""
    vocab_size, targets = 100_000, 256
    head = linear_head(vocab_size)
    head.module.requires_grad_(not frozen)
    hidden = torch.randn(1, targets, 16, requires_grad=True)
    labels = torch.randint(0, vocab_size, (1, targets))
    chunk = chunk_targets(vocab_size, torch.empty(0)) * vocab_size
    assert chunk <= 2**24 < targets * vocab_size
    with Allocated() as allocated:
        loss = weighted_nll(hidden, head, labels, torch.ones(1, targets))
        (loss * 0.1).backward()
    assert max(allocated.made) <= chunk
    assert sum(n == vocab_size * 16 for n in allocated.made) == copies


def test_names_and_ties_stay() -> None:
    for fields in (LLAMA, TIED):
        model = make_model(fields)
        before = {name: p.data_ptr() for name, p in model.state_dict(keep_vars=True).items()}
        install_loss_head(model)
        assert {name: p.data_ptr() for name, p in model.state_dict(keep_vars=True).items()} == before
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("minicpm3", {"dim_model_base": 8}),
        ("recurrent_gemma", {"logits_soft_cap": 0.5}),
        ("falcon_h1", {"lm_head_multiplier": 0.3}),
    ],
)
def test_scales_and_caps_of_the_head_by_the_names_of_their_types(model_type: str, fields: dict[str, Any]) -> None:
    config = tiny_fields(model_type) | fields
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).eval()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        hidden, head = hidden_states(model, ids, torch.arange(8)[None]), output_head(model)
        assert head.shape != LogitShape()
        torch.testing.assert_close(
            head.shape.apply_(head.module(hidden)), model(input_ids=ids, use_cache=False).logits
        )
