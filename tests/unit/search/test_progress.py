from __future__ import annotations

import io
import logging

import pytest
from replay import search_recipe
from rich.console import Console

from raysft.recipe.tune import TuneSection
from raysft.search.progress import SearchProgress
from raysft.search.schedulers import TrialVerdict
from raysft.search.study import State, Trial

SPACE = {"optimizer.learning_rate": {"distribution": "uniform", "low": 0.1, "high": 0.2}}


def section() -> TuneSection:
    tune = search_recipe(SPACE, budget={"trials": 8}).tune
    assert tune is not None
    return tune


def trial(number: int, state: State = "running", values: tuple[float, ...] | None = None) -> Trial:
    return Trial(number, {"optimizer.learning_rate": 0.125}, state, values, curve=(), facts={})


def play(progress: SearchProgress) -> None:
    with progress:
        progress.started(trial(3))
        progress.started(trial(4))
        progress.reported(3, 10, 20, (1.5,), TrialVerdict.GO_ON)
        progress.reported(3, 20, 20, (0.75,), TrialVerdict.GO_ON)
        progress.ended(3, "finished", "")
        progress.ended(4, "running", "asked to stop")


def test_bars_on_a_terminal() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = SearchProgress(section(), [trial(0, "finished", (0.5,)), trial(1, "failed")], screen)
    play(progress)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    for words in ("trial 3", "trial 4", "learning_rate 0.125", "3/8", "best 0.5, trial 0"):
        assert words in text, words


def test_lines_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    screen = Console(file=io.StringIO(), force_terminal=False)
    play(SearchProgress(section(), [], screen))
    assert screen.file.getvalue().strip() == ""  # type: ignore[attr-defined]
    assert caplog.messages == [
        "trial 3: learning_rate 0.125",
        "trial 4: learning_rate 0.125",
        "trial 3 step 10/20: held_out/loss 1.5",
        "trial 3 step 20/20: held_out/loss 0.75",
        "trial 3 finished",
        "trial 4 interrupted: asked to stop",
    ]
