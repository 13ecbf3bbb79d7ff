"""A pipeline stage as DeepSpeed calls it: micro-batches in the order of the passes, the loss on the last one only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import FakeStore, make_recipe
from families import LLAMA, V, make_model
from torch import Tensor, nn

from raysft.data.feed.collate import collate
from raysft.engine.passes import Passes, Work
from raysft.model.fast.loss_head import install_loss_head
from raysft.model.stages import Stage, stage_layers
from raysft.objectives.batch import on_device
from raysft.objectives.module import ObjectiveModule, make_objective

SCALE = torch.tensor([0.25], dtype=torch.float64)


@pytest.fixture(scope="module")
def batches() -> list[Any]:
    """Two micro-batches of other lengths."""
    store = FakeStore([[5, 4], [3], [6, 2, 2]], vocab_size=V)
    rows = ([0, 1], [2])
    return [
        on_device(collate(store.read_rows(some), number, packing=False), torch.device("cpu"))
        for number, some in enumerate(rows)
    ]


def passes() -> tuple[list[Passes], ObjectiveModule]:
    """Both stages of a model, and the same model whole."""
    objective = make_objective(make_recipe())
    models = [make_model(LLAMA) for _ in range(3)]  # the same weights
    for model in models:
        install_loss_head(model)
    parts = zip(models, stage_layers(models[2], 2), strict=False)
    return [Passes(Stage(*part), objective) for part in parts], ObjectiveModule(models[2], objective)


def test_the_last_stage_gives_the_loss_of_the_whole_model(batches: list[Any]) -> None:
    (first, last), whole = passes()
    for stage in (first, last):
        stage.begin(Work(batches, SCALE))
    expected = [whole(*batch.flat(whole.objective.columns)).sums["nll"] for batch in batches]
    nothing = torch.zeros(0)
    hidden = [first(nothing) for _ in batches]  # 1F1B: the first stage runs ahead
    losses = [last(one) for one in hidden]
    assert [float(loss) for loss in losses] == pytest.approx([0.25 * float(one) for one in expected], rel=1e-5)
    assert float(last.sums[0]) == pytest.approx(float(sum(expected)), rel=1e-5)
    assert float(first.sums[0]) == 0.0
    last.begin(Work(batches[1:], SCALE))
    assert float(last.sums[0]) == 0.0, "sums are of one step"
    assert float(last(hidden[1].detach())) == pytest.approx(0.25 * float(expected[1]), rel=1e-5)


def test_gradients_flow_through_both_stages(batches: list[Any]) -> None:
    (first, last), whole = passes()
    for stage in (first, last):
        stage.begin(Work(batches, SCALE))
    last(first(torch.zeros(0))).backward()
    (0.25 * whole(*batches[0].flat(whole.objective.columns)).sums["nll"]).backward()
    wanted = {name.removeprefix("model."): p.grad for name, p in whole.named_parameters() if p.grad is not None}
    norms = sorted(float(g.norm()) for g in wanted.values())
    found = sorted(float(p.grad.norm()) for s in (first, last) for p in s.parameters() if p.grad is not None)
    assert found == pytest.approx(norms, rel=1e-4)


class Dropping(nn.Module):
    """A stage that drops at random, without a head."""

    embedding, head = None, None

    def forward(self, hidden: Tensor, *others: Any) -> Tensor:
        return nn.functional.dropout(hidden, 0.5)


def test_dropout_follows_the_micro_batchs_seed(batches: list[Any]) -> None:
    stage: Any = Dropping()
    made = Passes(stage, make_objective(make_recipe()))
    ones = torch.ones(64)
    found = []
    for seeds in ((5, 9), (9, 5)):
        made.begin(Work(batches, SCALE, seeds))
        found.append([made(ones).tolist() for _ in seeds])
    assert found[0] == found[1][::-1]
    assert found[0][0] != found[0][1]
