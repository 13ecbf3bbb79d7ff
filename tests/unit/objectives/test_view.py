"""Objectives on batches of several trials in one pass, on empty ones, and on parts of rows: as each is alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fakes import make_recipe
from torch import Tensor

from raysft.data.feed.collate import MicroBatch, collate
from raysft.data.store.packed_rows import Row
from raysft.model.fast.log_probs import LogitShape
from raysft.model.fast.loss import OutputHead
from raysft.model.fast.loss_head import LossHead
from raysft.objectives.batch import DeviceBatch, in_one_row, on_device
from raysft.objectives.module import make_objective
from raysft.objectives.objective import Objective
from raysft.objectives.sft import kl_divergence
from raysft.objectives.view import View
from raysft.recipe.columns import Field

D, V, K = 8, 19, 2
CPU = torch.device("cpu")
OBJECTIVES: dict[str, Any] = {
    "sft": {},
    "guarded": {"kl_weight": 0.5, "kl_top_k": K},
    "dpo": {"kind": "dpo", "beta": 0.7},
}


def objective(name: str) -> Objective:
    return make_objective(make_recipe(objective=OBJECTIVES[name]))


def row(lengths: list[int], fields: tuple[Field, ...], seed: int) -> Row:
    """Segments two to an atom; answers are the second halves."""
    draw, tokens = np.random.default_rng(seed), sum(lengths)
    per: dict[str, dict[str, np.ndarray]] = {"token": {}, "segment": {}}
    for field in fields:
        count = tokens if field.per == "token" else len(lengths)
        shape = (count, field.width) if field.width > 1 else (count,)
        values = draw.integers(0, V, shape) if field.dtype == "<i4" else np.log(draw.uniform(0.05, 0.4, shape))
        per[field.per][field.name] = values.astype(field.dtype)
    if "reference_ids" in per["token"]:
        per["token"]["reference_ids"][:, 1] = (per["token"]["reference_ids"][:, 0] + 1) % V
    return Row(
        {
            "input_ids": draw.integers(0, V, tokens).astype(np.int32),
            "target": np.concatenate([np.arange(n) >= n // 2 for n in lengths]).astype(np.float32),
            **per["token"],
        },
        {
            "length": np.array(lengths, np.int32),
            "sample_id": np.arange(len(lengths)),
            "atom": np.arange(len(lengths), dtype=np.int32) // 2,
            **per["segment"],
        },
    )


def head() -> OutputHead:
    torch.manual_seed(0)
    module = LossHead(D, V, bias=False)
    module.requires_grad_(False)
    return OutputHead(module, LogitShape())


def hidden_of(batch: DeviceBatch) -> Tensor:
    """A stand-in for a model: each token by itself, and its place."""
    table = torch.randn(V, D, generator=torch.Generator().manual_seed(2))
    return table[batch.input_ids] + 0.1 * batch.position_ids.unsqueeze(-1)


def batches(fields: tuple[Field, ...]) -> list[MicroBatch]:
    rows = [[row([5, 3, 4, 6], fields, 1)], [row([2, 7], fields, 2), row([3, 3, 5, 4], fields, 3)]]
    return [
        *(collate(some, 0, packing=True, fields=fields) for some in rows),
        collate([], 1, packing=True, fields=fields),
    ]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_trials_in_one_pass_have_the_sums_they_have_alone(name: str) -> None:
    wanted = objective(name)
    given = [on_device(batch, CPU) for batch in batches(wanted.columns)]
    alone = [wanted.loss(View(hidden_of(batch), head(), batch), batch) for batch in given]
    joined, extents = in_one_row(given, wanted.columns)
    hidden = torch.cat([hidden_of(batch).flatten(0, 1) for batch in given]).unsqueeze(0).requires_grad_()
    found = wanted.loss(View(hidden, head(), joined, trials=extents), joined)
    for term in wanted.terms:
        expected = torch.stack([loss.sums[term.name] for loss in alone])
        torch.testing.assert_close(found.sums[term.name], expected)
        assert float(expected[0]) != 0
        assert float(expected[2]) == 0, "nothing of an empty micro-batch"
    for metric in wanted.metrics:
        for ours, theirs in zip(
            found.metrics[metric], zip(*(loss.metrics[metric] for loss in alone), strict=True), strict=True
        ):
            torch.testing.assert_close(ours, torch.stack(theirs))
    (gradient,) = torch.autograd.grad(sum(found.sums[term.name][2] for term in wanted.terms), hidden)
    assert float(gradient.abs().sum()) == 0


def test_one_trial_is_not_touched_by_anothers_gradient() -> None:
    wanted = objective("dpo")
    given = [on_device(batch, CPU) for batch in batches(wanted.columns)]
    joined, extents = in_one_row(given, wanted.columns)
    hidden = torch.cat([hidden_of(batch).flatten(0, 1) for batch in given]).unsqueeze(0).requires_grad_()
    found = wanted.loss(View(hidden, head(), joined, trials=extents), joined)
    (gradient,) = torch.autograd.grad(found.sums["dpo"][0], hidden)
    assert float(gradient[0, : extents[0].positions].abs().sum()) > 0
    assert float(gradient[0, extents[0].positions :].abs().sum()) == 0


def test_what_predicts_is_all_but_the_last_of_each_segment() -> None:
    batch = on_device(batches(())[0], CPU)
    lasts = np.cumsum([5, 3, 4, 6]) - 1
    assert (~batch.predicts[0]).nonzero().flatten().tolist() == lasts.tolist()
    assert batch.is_first_of_atom.tolist() == [True, False, True, False]
    assert on_device(batches(())[2], CPU).num_atoms == 0


def test_the_divergence_is_zero_of_equals_and_never_below() -> None:
    draw = torch.Generator().manual_seed(4)
    ours, theirs = (torch.log_softmax(torch.randn(50, 30, generator=draw), -1)[:, :K] for _ in range(2))
    torch.testing.assert_close(kl_divergence(ours, ours), torch.zeros(50))
    assert float(kl_divergence(theirs, ours).min()) > 0
    sure = torch.log(torch.tensor([[1.0 - 1e-9, 1e-9]]))
    assert bool(kl_divergence(sure, theirs[:1]).isfinite().all())
    assert bool(kl_divergence(theirs[:1], sure).isfinite().all())
