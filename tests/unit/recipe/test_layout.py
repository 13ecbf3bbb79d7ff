"""The grid of workers: every rank has one place, and neighbours on the tensor axis have neighbouring ranks."""

from __future__ import annotations

import itertools

from raysft.recipe.layout import Coordinate, Layout


def test_places_are_the_product_of_the_axes_in_order() -> None:
    layout = Layout(stages=2, replicas=3, sequence=2, tensor=2)
    expected = [Coordinate(*place) for place in itertools.product(range(2), range(3), range(2), range(2))]
    assert [layout.coordinate(rank) for rank in range(layout.size)] == expected
    assert [layout.rank(place) for place in expected] == list(range(24))


def test_groups_are_the_ranks_that_differ_on_the_axes_alone() -> None:
    layout = Layout(stages=2, replicas=2, sequence=1, tensor=2)
    assert layout.groups("tensor") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert layout.groups("replica") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert layout.groups("stage") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert layout.groups("replica", "sequence") == layout.groups("replica")
