"""Objectives on batches of several trials in one pass, on empty ones, and on parts of rows: as each is alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import make_recipe
from objective_rows import CPU, D, K, V, batches
from torch import Tensor

from raysft.model.fast.log_probs import LogitShape
from raysft.model.fast.loss import OutputHead
from raysft.model.fast.loss_head import LossHead
from raysft.objectives.batch import DeviceBatch, in_one_row, on_device
from raysft.objectives.module import make_objective
from raysft.objectives.objective import Objective
from raysft.objectives.view import View

OBJECTIVES: dict[str, Any] = {
    "sft": {},
    "guarded": {"kl_weight": 0.5, "kl_top_k": K},
    "smooth": {"label_smoothing": 0.2},
    "dft": {"kind": "dft"},
    "asft": {"kind": "dft", "kl_weight": 0.1, "kl_top_k": K},
    "eaft": {"kind": "eaft", "entropy_top_k": 5, "power": 0.5},
    "distill": {"kind": "distill", "teachers": ["t"], "teacher_top_k": K, "temperature": 2.0},
    "reverse": {"kind": "distill", "teachers": ["t"], "teacher_top_k": K, "divergence": "reverse", "share": 1},
    "js": {"kind": "distill", "teachers": ["t"], "teacher_top_k": K, "divergence": "js"},
    "dpo": {"kind": "dpo", "beta": 0.7},
    "ipo": {"kind": "dpo", "loss": "ipo", "sft_weight": 0.5},
    "cpo": {"kind": "cpo", "loss": "hinge"},
    "simpo": {"kind": "simpo"},
    "orpo": {"kind": "orpo"},
    "kto": {"kind": "kto", "beta": 0.5},
}


def objective(name: str) -> Objective:
    return make_objective(make_recipe(objective=OBJECTIVES[name]))


def head() -> OutputHead:
    torch.manual_seed(0)
    module = LossHead(D, V, bias=False)
    module.requires_grad_(False)
    return OutputHead(module, LogitShape())


def hidden_of(batch: DeviceBatch) -> Tensor:
    """A stand-in for a model: each token by itself, and its place."""
    table = torch.randn(V, D, generator=torch.Generator().manual_seed(2))
    return table[batch.input_ids] + 0.1 * batch.position_ids.unsqueeze(-1)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_trials_in_one_pass_have_the_sums_they_have_alone(name: str) -> None:
    wanted = objective(name)
    numbers = dict.fromkeys((*wanted.step_means, *wanted.scheduled), 0.3)
    given = [on_device(batch, CPU, numbers) for batch in batches(wanted.columns)]
    alone = [wanted.loss(View(hidden_of(batch), head(), batch), batch) for batch in given]
    joined, extents = in_one_row(given, wanted.batch_columns)
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
    joined, extents = in_one_row(given, wanted.batch_columns)
    hidden = torch.cat([hidden_of(batch).flatten(0, 1) for batch in given]).unsqueeze(0).requires_grad_()
    found = wanted.loss(View(hidden, head(), joined, trials=extents), joined)
    (gradient,) = torch.autograd.grad(found.sums["dpo"][0], hidden)
    assert float(gradient[0, : extents[0].positions].abs().sum()) > 0
    assert float(gradient[0, extents[0].positions :].abs().sum()) == 0
