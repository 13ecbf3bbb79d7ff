"""What ranks tell each other of a step: units once, sums added, no unit without a number."""

from __future__ import annotations

import math

import numpy as np
import torch

from raysft.engine.step import assemble, divisors, vector
from raysft.objectives.base import Term
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.reduce import Sums, reduced

NLL, KL = Term("nll", "target_token"), Term("kl", "segment", 0.5)


def test_ranks_are_assembled_units_once_and_sums_added() -> None:
    units = torch.tensor([104.0, 11.0], dtype=torch.float64)
    told = (([30, 4], [3, 4], 7), ([2, 1], [1, 1], 5))
    ranks = [
        vector(units, *(torch.tensor(some, dtype=torch.float64) for some in (sums, metrics)), n)
        for sums, metrics, n in told
    ]
    objective = Objective((NLL, KL), lambda view, batch: Loss({}), metrics=("accuracy",))
    found, tokens = assemble(np.stack([rank.numpy() for rank in ranks]), objective)
    sums = Sums({"nll": 32.0, "kl": 5.0}, {"nll": 104.0, "kl": 11.0}, {"accuracy": (4.0, 5.0)})
    assert found == reduced([sums], (NLL, KL))
    assert found.metrics == {"accuracy": 0.8}
    assert tokens == 12


def test_no_units_divide_by_infinity_and_nan_stays() -> None:
    """The probe's units are no number: its gradients must not be either."""
    found = divisors(torch.tensor([0.0, 2.0, math.nan]))
    assert found[:2].tolist() == [math.inf, 2.0]
    assert found[2].isnan()
