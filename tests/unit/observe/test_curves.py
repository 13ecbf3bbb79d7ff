"""Levels and noise of curves."""

from __future__ import annotations

import pytest
from curves import planned

from raysft.observe.curves import curves_of, loss_line


def test_noise_is_a_standard_deviation() -> None:
    curves = curves_of(planned(lambda step: 2.0, 2000, noise=0.05))
    assert curves.noise == pytest.approx(0.1, rel=0.1)
    assert (curves.first, curves.last) == (pytest.approx(2.0, rel=0.02), pytest.approx(2.0, rel=0.02))


def test_a_level_about_a_step() -> None:
    curves = curves_of(planned(float, 200, noise=0.0))
    assert curves.around(100) == 100.0
    assert curves.around(1) == pytest.approx(3.5, abs=1)
    assert str(curves.around(500)) == "nan"


def test_the_loss_in_a_line() -> None:
    lines = planned(lambda step: 5.0 - 0.01 * step, 300, noise=0.0, held_out={0: 5.5, 150: 3.0, 300: 3.5})
    assert loss_line(lines) == "loss         4.965 to 2.07 in 300 steps; held out 5.5 to 3.5, best 3 at step 150"
    assert loss_line(planned(float, 1, noise=0.0)) == "loss         1 to 1 in 1 steps"
    assert loss_line([]) == "loss         no step is recorded"
