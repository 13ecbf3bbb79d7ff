"""Do samples stay apart in the engine that is about to train: in its dtype, by its kernels, on its layout?

What model/fast/start_check.py asks comes before an engine casts the model, cuts it and shares it out. Here the engine
itself is asked, through eval_step: of four rows, in which a sample a or b stands behind a neighbour x or y. Losses
add up over samples, f(a, x) = g(a) + h(x), so that whatever they are

    f(a, x) - f(a, y) - f(b, x) + f(b, y) = 0.

Rounding does not stand in the way: rows of one shape run the same kernels, in which a token's numbers do not depend
on what the other tokens are. So a tolerance of fp32 holds in every dtype, and a sample that sees its neighbour leaves
more (decision 076). Experts, and sums in no fixed order, do round otherwise from row to row: then the same samples,
each in a row of its own, tell how much of it is rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

import numpy as np

from raysft.data.feed.collate import collate
from raysft.data.store.packed_rows import Row
from raysft.engine.protocol import Engine
from raysft.errors import ModelError
from raysft.objectives.module import make_objective
from raysft.recipe.columns import Field
from raysft.recipe.objective_traits import answers_of, data_columns
from raysft.recipe.schema import Recipe

TOLERANCE = 1e-5
"""Largest sum of the four, over the largest of them: the rounding of fp32 sums."""

MORE_ROUNDING = 8.0
"""How many times as large as in rows of their own it may be instead, where these do not add up either."""

ROUNDS = 5
"""Different samples that are asked of then: the median of what packed ones leave, the most of what others do."""

_NEIGHBOUR_TOKENS, _TOKENS = 37, 29
_ANSWERS = {"pair": 2, "ranked": 3}
"""{what a record becomes: segments of its atom}, where these are not one."""


def check_engine(engine: Engine, recipe: Recipe, vocab_size: int) -> float:
    """Raises ModelError, on every rank, where packed samples see each other or a loss is not finite. Collective.

    Returns what was left of the first four, over the largest of them; 0.0 where nothing is asked.

    Four short passes; many more only where these do not add up. Vectors of texts are left out: their loss compares
    all samples of a step, which is no sum over them.
    """
    if answers_of(recipe) == "matched":
        return 0.0
    asked = _Asked(engine, recipe, vocab_size)
    first = asked.rest(0, packing=recipe.data.packing)
    if not math.isfinite(first):
        raise ModelError(
            "a loss is not finite before training",
            got=f"{first} of samples of random tokens, train.precision = {recipe.train.precision}",
            expected="finite losses",
            fix="set train.precision: fp32 or another model.attention; if it stays, the weights are damaged",
        )
    if first <= TOLERANCE or not recipe.data.packing:
        return first
    found = median([first, *(asked.rest(number, packing=True) for number in range(1, ROUNDS))])
    rounding = max(asked.rest(number, packing=False) for number in range(ROUNDS))
    if not found <= TOLERANCE + MORE_ROUNDING * rounding:
        raise ModelError(
            "packed samples see each other in the engine that is to train",
            got=f"losses that change by {found:.2g} of themselves with the neighbour in the row, "
            f"{rounding:.2g} in rows of their own, train.precision = {recipe.train.precision}",
            expected=f"at most {TOLERANCE:g}, or {MORE_ROUNDING:g} times as much as in rows of their own",
            fix="set data.packing: false, train.precision: fp32 or another model.attention",
        )
    return first


@dataclass(frozen=True)
class _Asked:
    """Who is asked, and of what."""

    engine: Engine
    recipe: Recipe
    vocab_size: int

    def rest(self, number: int, *, packing: bool) -> float:
        """What is left of the four, over the largest of them: the most of all terms and metrics. Not finite: a loss
        is not. number: of the samples."""
        random = np.random.default_rng(number)
        sizes, answers = (_NEIGHBOUR_TOKENS, _TOKENS), _ANSWERS.get(answers_of(self.recipe), 1)
        neighbours, samples = (
            [[random.integers(0, self.vocab_size, self._length(size)) for _ in range(answers)] for _ in range(2)]
            for size in sizes
        )
        found = np.array(
            [[self._sums(_row([x, a], data_columns(self.recipe)), packing) for x in neighbours] for a in samples]
        )  # [2, 2, measures]
        if not np.isfinite(found).all():
            return math.nan
        left = np.abs(found[0, 0] - found[0, 1] - found[1, 0] + found[1, 1])
        largest = np.abs(found).max(axis=(0, 1))
        return float((left / np.where(largest > 0, largest, 1.0)).max())

    def _length(self, tokens: int) -> int:
        """Tokens of a segment: no more than a sample can have."""
        return min(tokens, self.recipe.data.max_tokens)

    def _sums(self, row: Row, packing: bool) -> list[float]:
        """The sums of all terms, and of all metrics, of a row that each replica is given."""
        batch = collate([row], 0, packing=packing, fields=data_columns(self.recipe))
        found = self.engine.eval_step([batch], make_objective(self.recipe).units([row]))
        return [*found.terms.values(), *(total for total, _ in found.metrics.values())]


def _row(atoms: list[list[np.ndarray]], columns: tuple[Field, ...]) -> Row:
    """A row of atoms of segments of tokens, every token but each segment's first a target."""
    segments = [segment for atom in atoms for segment in atom]
    lengths = np.array([len(segment) for segment in segments], np.int32)
    places = np.concatenate([np.arange(len(atom)) for atom in atoms])
    starts = np.cumsum(lengths) - lengths
    target = np.ones(lengths.sum(), np.float32)
    target[starts] = 0.0
    token: dict[str, np.ndarray] = {"input_ids": np.concatenate(segments), "target": target}
    segment: dict[str, np.ndarray] = {
        "length": lengths,
        "sample_id": np.arange(len(segments)),
        "atom": np.repeat(np.arange(len(atoms)), [len(atom) for atom in atoms]),
    }
    atom: dict[str, np.ndarray] = {}
    for column in columns:
        if column.per == "token":
            token[column.name] = _likeliest(column, len(target))
        elif column.per == "segment":
            segment[column.name] = -places.astype(column.dtype)  # of answers the best one first
        else:
            shape = (len(atoms), column.width) if column.width > 1 else len(atoms)
            atom[column.name] = np.zeros(shape, column.dtype)
    return Row(token, segment, atom)


def _likeliest(column: Field, tokens: int) -> np.ndarray:
    """What another model holds likeliest: the first ids, with half of the mass, alike."""
    kinds = np.dtype(column.dtype).kind
    each = np.arange(column.width) if kinds in "iu" else np.full(column.width, -math.log(2 * column.width))
    found: np.ndarray = np.tile(each, (tokens, 1)).astype(column.dtype)
    return found
