"""The loss against transformers' own forward and F.cross_entropy on full logits, and what it may allocate."""

from __future__ import annotations

import math

import pytest
import torch
from families import FAMILIES, LLAMA, V, make_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.model.fast import loss_head as head_module
from raysft.model.fast.loss import (
    IGNORE,
    OutputHead,
    hidden_states,
    likeliest_log_probs,
    output_head,
    smooth_log_probs,
    target_log_probs,
    weighted_nll,
)
from raysft.model.fast.loss_head import LogitShape, LossHead, install_loss_head
from raysft.model.fast.places import Places


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "chunk_targets", lambda vocab_size, weight: 3)
    monkeypatch.setattr("raysft.model.fast.loss.CHUNK_TARGETS", 4)


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(ids, positions, labels, weights): one segment a row, some positions not labelled."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, V, (2, 8), generator=generator)
    labels = torch.cat([ids[:, 1:], torch.full((2, 1), IGNORE)], dim=1)
    labels[0, :3] = IGNORE
    return ids, torch.arange(8).expand(2, 8), labels, torch.rand(2, 8, generator=generator) + 0.5


def expected_sum(model: PreTrainedModel) -> Tensor:
    """Weighted sum of F.cross_entropy on transformers' own full logits."""
    ids, _, labels, weights = batch()
    logits = model(input_ids=ids, use_cache=False).logits
    each = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORE)
    return (each * weights.flatten()).sum()


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    """Gradients of a loss, which are then taken away."""
    loss.backward()
    found = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def differences(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None]) -> float:
    assert {k for k, v in ours.items() if v is not None} == {k for k, v in theirs.items() if v is not None}
    return max(float((ours[k] - v).norm() / v.norm()) for k, v in theirs.items() if v is not None)  # type: ignore[operator]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("small_chunks")
def test_loss_and_all_gradients_are_those_of_cross_entropy(family: str, fused: bool) -> None:
    """fp64: chunked in the forward pass (fused), or checkpointed chunks; upstream gradient 0.5."""
    model = make_model(FAMILIES[family]).double()
    expected = expected_sum(model)
    theirs = gradients(model, expected * 0.5)
    if fused:
        install_loss_head(model)
    ids, positions, labels, weights = batch()
    head = output_head(model)
    assert isinstance(head.module, LossHead) == fused
    found = weighted_nll(hidden_states(model, ids, positions), head, labels, weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert differences(gradients(model, found * 0.5), theirs) < 1e-10


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.usefixtures("small_chunks")
def test_parts_have_sums_of_their_own_and_one_that_is_not_finite_stays_alone(fused: bool) -> None:
    """Chunks go over their borders, one has no target, each is weighed by another upstream gradient; fp64."""
    head = linear_head(V, dtype=torch.float64) if fused else OutputHead(nn.Linear(16, V).double(), LogitShape())
    head.module.requires_grad_(False)
    hidden, weights = torch.randn(1, 40, 16).double().requires_grad_(), torch.rand(1, 40).double()
    labels = torch.randint(0, V, (1, 40))
    labels[0, 3:9] = labels[0, 20:24] = IGNORE
    sizes, upstream = [5, 15, 4, 16], torch.tensor([0.5, 2.0, 3.0, 0.1]).double()
    wanted = Places.where(labels != IGNORE)
    parts = wanted.index.new_tensor([5, 20, 24, 40])
    counts = torch.bincount(torch.searchsorted(parts, wanted.index, right=True), minlength=4).tolist()
    found = weighted_nll(hidden, head, labels, weights, Places(wanted.index, tuple(counts)))
    (ours,) = torch.autograd.grad(found, hidden, upstream)
    logits = hidden[0] @ head.module.weight.T + (0 if head.module.bias is None else head.module.bias)
    each = nn.functional.cross_entropy(logits, labels[0], reduction="none", ignore_index=IGNORE) * weights[0]
    expected = torch.stack([part.sum() for part in each.split(sizes)])
    (theirs,) = torch.autograd.grad(expected, hidden, upstream)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    spoilt = hidden.detach().clone()
    spoilt[0, 10] = math.nan
    again = weighted_nll(spoilt.requires_grad_(), head, labels, weights, Places(wanted.index, tuple(counts)))
    (grad,) = torch.autograd.grad(again.sum(), spoilt)
    assert again.isnan().tolist() == [False, True, False, False]
    assert not grad[0, :5].isnan().any()
    assert not grad[0, 20:].isnan().any()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shape", [LogitShape(), LogitShape(scale=0.7, cap=1.5)])
@pytest.mark.usefixtures("small_chunks")
def test_the_mean_over_the_vocabulary_and_the_likeliest_tokens(fused: bool, shape: LogitShape) -> None:
    """Values and all gradients, in fp64, chunks and all; k beyond the vocabulary is all of it."""
    torch.manual_seed(0)
    module = (LossHead(16, V) if fused else nn.Linear(16, V)).double()
    head, hidden = OutputHead(module, shape), torch.randn(2, 8, 16).double().requires_grad_()
    _, _, labels, _ = batch()
    upstream = torch.randn(2, int((labels != IGNORE).sum())).double()
    wanted = [hidden, module.weight, module.bias]

    logits = module(hidden) * shape.scale
    logits = logits if shape.cap is None else shape.cap * torch.tanh(logits / shape.cap)
    log_probs = logits.log_softmax(-1)[labels != IGNORE]  # [N, V]
    expected = (log_probs.gather(-1, labels[labels != IGNORE][:, None])[:, 0], log_probs.mean(-1))
    theirs = torch.autograd.grad(expected, wanted, tuple(upstream))

    found = smooth_log_probs(hidden, head, labels, Places.where(labels != IGNORE))
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)
    for ours, other in zip(torch.autograd.grad(found, wanted, tuple(upstream)), theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-12)
    for k in (3, V + 5):
        likeliest = likeliest_log_probs(hidden, head, Places.where(labels != IGNORE), k)
        torch.testing.assert_close(likeliest, log_probs.sort(-1, descending=True).values[:, :k])
        assert not likeliest.requires_grad
    assert likeliest_log_probs(hidden, head, Places.where(labels == -5), 3).shape == (0, 3)


def test_only_labelled_positions_are_answered_row_by_row() -> None:
    model = make_model(LLAMA)
    ids = torch.arange(1, 13).reshape(2, 6)
    labels = torch.full((2, 6), IGNORE)
    labels[1, 1], labels[0, 4], labels[1, 5] = 33, 44, 55
    with torch.no_grad():
        hidden = hidden_states(model, ids, torch.arange(6).expand(2, 6))
        found = target_log_probs(hidden, output_head(model), labels)
        log_probs = model(input_ids=ids).logits.log_softmax(-1)
    expected = torch.stack([log_probs[0, 4, 44], log_probs[1, 1, 33], log_probs[1, 5, 55]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def linear_head(vocab_size: int, *, width: int = 16, dtype: torch.dtype = torch.float32) -> OutputHead:
    torch.manual_seed(0)
    return OutputHead(LossHead(width, vocab_size, bias=False, dtype=dtype), LogitShape())


def test_a_row_without_targets_has_loss_zero_and_gradients() -> None:
    """Its rank runs forward and backward with the others, and its gradients are added to theirs."""
    head, hidden = linear_head(V), torch.randn(1, 4, 16, requires_grad=True)
    for module in (head.module, nn.Linear(16, V)):
        loss = weighted_nll(hidden, OutputHead(module, head.shape), torch.full((1, 4), IGNORE), torch.ones(1, 4))
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert hidden.grad is not None
        assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_an_adapted_head_is_right(small_chunks: None) -> None:
    """LoRA in the head itself: the path that knows nothing of its weights."""
    from peft import LoraConfig, get_peft_model

    model = make_model(LLAMA).double()
    install_loss_head(model)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)).double()
    assert not isinstance(output_head(model).module, LossHead)
    expected = expected_sum(model)
    theirs = gradients(adapted, expected)
    ids, positions, labels, weights = batch()
    found = weighted_nll(hidden_states(model, ids, positions), output_head(model), labels, weights)
    assert differences(gradients(adapted, found), theirs) < 1e-10
