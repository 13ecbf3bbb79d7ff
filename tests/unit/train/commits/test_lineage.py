"""Which commits the newest attempt descends from."""

from __future__ import annotations

import random

import pytest

from raysft.train.commits.layout import CommitId
from raysft.train.commits.lineage import Attempt, lineage


def chain(*steps: int, attempt: int = 1) -> list[CommitId]:
    return [CommitId(attempt, step) for step in steps]


A1 = Attempt(1, None)


@pytest.mark.parametrize(
    ("attempts", "commits", "expected"),
    [
        ([], [], []),
        ([], chain(5), []),
        ([A1], [], []),
        ([A1], chain(5, 15, 10), chain(15, 10, 5)),
        # attempt 2 went on from step 10 and has committed nothing yet
        ([A1, Attempt(2, CommitId(1, 10))], chain(5, 10), chain(10, 5)),
        # attempt 1 was fenced at step 10: what it wrote later is of no lineage, whenever it was written
        (
            [A1, Attempt(2, CommitId(1, 10))],
            chain(5, 10, 15, 20) + chain(12, attempt=2),
            chain(12, attempt=2) + chain(10, 5),
        ),
        # attempt 2 began anew, because nothing was intact: the older commits are gone from the lineage
        ([A1, Attempt(2, None)], chain(5, 10) + chain(3, attempt=2), chain(3, attempt=2)),
        # attempt 3 went on from attempt 1, passing attempt 2 over
        (
            [A1, Attempt(2, CommitId(1, 10)), Attempt(3, CommitId(1, 5))],
            chain(5, 10) + chain(15, attempt=2) + chain(8, attempt=3),
            chain(8, attempt=3) + chain(5),
        ),
        # three generations; the middle one branched off at 20 of its own
        (
            [A1, Attempt(2, CommitId(1, 10)), Attempt(3, CommitId(2, 20))],
            chain(10) + chain(20, 30, attempt=2) + chain(25, attempt=3),
            chain(25, attempt=3) + chain(20, attempt=2) + chain(10),
        ),
        # the parent commit was deleted by retention
        ([A1, Attempt(2, CommitId(1, 10))], chain(20, attempt=2), chain(20, attempt=2)),
    ],
)
def test_lineage(attempts: list[Attempt], commits: list[CommitId], expected: list[CommitId]) -> None:
    for seed in range(3):
        shuffled = list(commits)
        random.Random(seed).shuffle(shuffled)
        assert lineage(attempts, shuffled) == expected
