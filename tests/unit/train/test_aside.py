"""What ranks tell each other with a step, against numbers by hand."""

from __future__ import annotations

from raysft.engine.protocol import StepCosts
from raysft.train.aside import Aside, heard


def test_the_slowest_rank_tells_where_the_time_went() -> None:
    asides = [Aside(0.1, 0).numbers(), Aside(0.5, 2).numbers(), Aside(0.2, 1).numbers()]
    found = heard(asides, StepCosts(passes_s=(0.6, 0.1, 0.6), forward_s=(0.3, 0.05, 0.0), peak_bytes=1))
    assert (found.data_wait_s, found.forward_backward_s) == (0.2, 0.6)  # 0.8 in all; the others 0.7 and 0.6
    assert found.notice == 2
    assert found.rank_s == (0.4, 0.55, 0.2)
