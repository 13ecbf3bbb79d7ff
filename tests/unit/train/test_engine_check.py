"""What the check of an engine says of losses that add up, that do not, and that are rounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from fakes import FakeEngine, make_recipe

from raysft.errors import ModelError
from raysft.objectives.batch import HostBatch
from raysft.objectives.reduce import Sums
from raysft.train.engine_check import ROUNDS, check_engine

VOCAB = 50


@dataclass
class Summing(FakeEngine):
    """Its loss: what `loss` says of the segments of a micro-batch and of its shape."""

    loss: Callable[[list[np.ndarray], tuple[int, ...]], float] = lambda segments, shape: 0.0
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def eval_step(self, micro_batches: Sequence[HostBatch], units: Mapping[str, float]) -> Sums:
        (batch,) = micro_batches
        self.asked.append(batch.input_ids.shape)
        assert units["nll"] == (batch.labels >= 0).sum()
        numbers = range(int(batch.segment_of.max()) + 1)
        segments = [batch.input_ids[batch.segment_of == number] for number in numbers]
        return Sums({"nll": self.loss(segments, batch.input_ids.shape)}, dict(units))


def apart(segments: list[np.ndarray], shape: tuple[int, ...]) -> float:
    return float(sum(np.sin(segment).sum() + 40.0 for segment in segments))


def mixed(segments: list[np.ndarray]) -> float:
    """Something of both that is no sum of theirs."""
    return float(np.sin(segments[0].sum() * 1.7 + segments[1].sum()))


def leaking(segments: list[np.ndarray], shape: tuple[int, ...]) -> float:
    """A packed sample sees a little of its neighbour."""
    return apart(segments, shape) + (1e-2 * mixed(segments) if shape[0] == 1 else 0.0)


def rounding(segments: list[np.ndarray], shape: tuple[int, ...]) -> float:
    """Rounds by what else is in the pass, whatever row it is in."""
    return apart(segments, shape) + 1e-2 * mixed(segments)


def test_samples_that_stay_apart_cost_four_passes() -> None:
    engine = Summing(loss=apart)
    check_engine(engine, make_recipe(), VOCAB)
    assert engine.asked == [(1, 37 + 29)] * 4


def test_a_neighbour_that_is_seen_is_refused() -> None:
    with pytest.raises(ModelError, match="packed samples see each other in the engine") as raised:
        check_engine(Summing(loss=leaking), make_recipe(), VOCAB)
    assert "train.precision = " in raised.value.got


def test_what_rounds_alike_in_rows_of_their_own_is_rounding() -> None:
    engine = Summing(loss=rounding)
    check_engine(engine, make_recipe(), VOCAB)
    assert len(engine.asked) == 8 * ROUNDS


def test_losses_that_are_not_finite() -> None:
    with pytest.raises(ModelError, match="not finite"):
        check_engine(Summing(loss=lambda segments, shape: math.nan), make_recipe(), VOCAB)


def test_unpacked_rows_have_no_neighbours() -> None:
    engine = Summing(loss=lambda segments, shape: rounding(segments, shape))
    check_engine(engine, make_recipe(data={"packing": False}), VOCAB)
    assert engine.asked == [(2, 37)] * 4


def test_segments_are_no_longer_than_samples_can_be() -> None:
    engine = Summing(loss=apart)
    check_engine(engine, make_recipe(data={"max_tokens": 16}), VOCAB)
    assert engine.asked == [(1, 32)] * 4
