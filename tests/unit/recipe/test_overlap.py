"""When gradients are summed, in words."""

from __future__ import annotations

from fakes import make_recipe

from raysft.recipe.overlap import overlap_lines


def words(zero: int, gpus: int = 1, workers: int = 2, **parallel: object) -> str:
    cluster = {"workers": workers, "gpus_per_worker": gpus}
    return "".join(overlap_lines(make_recipe(parallel={"zero": zero, **parallel}, cluster=cluster)))


def test_runs_on_several_gpus_say_it_and_those_that_name_it() -> None:
    assert "while backward goes on (parallel.overlap: not set)" in words(3)
    assert "backward waits (parallel.overlap: false)" in words(3, overlap=False)
    assert "backward waits (parallel.overlap: not set)" in words(2)
    assert "after backward (parallel.overlap: not set)" in words(0)
    assert words(3, gpus=0) == words(3, workers=1) == ""
    assert "while backward goes on (parallel.overlap: true)" in words(2, gpus=0, overlap=True)
