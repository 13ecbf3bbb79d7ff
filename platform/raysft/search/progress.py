"""What a person sees while a search runs: on a terminal a table of bars, one for each trial under way, else lines."""

from __future__ import annotations

import logging
from types import TracebackType

from rich.console import Console
from rich.progress import TaskID, TimeElapsedColumn

from raysft.observe.tune_report import shown
from raysft.recipe.tune import TuneSection
from raysft.run.bars import bars
from raysft.search.schedulers import TrialVerdict
from raysft.search.study import Trial
from raysft.search.tune_driver import SearchListener

logger = logging.getLogger(__name__)


class SearchProgress(SearchListener):
    """From __enter__ to __exit__. The lines about starts and ends are said in both cases."""

    def __init__(self, tune: TuneSection, trials: list[Trial], console: Console | None = None) -> None:
        self._tune = tune
        self._num_ended = sum(trial.state != "running" for trial in trials)
        self._best: tuple[float, int] | None = None
        for trial in trials:
            if trial.state == "finished" and trial.values:
                self._compare(trial.number, trial.values)
        self._bars = bars(TimeElapsedColumn(), console=console)
        self._whole = self._bars.add_task("search", total=tune.budget.trials, completed=self._num_ended, text="")
        self._tasks: dict[int, TaskID] = {}
        self._newest: dict[int, tuple[float, ...]] = {}

    def __enter__(self) -> SearchProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def started(self, trial: Trial) -> None:
        """See SearchListener."""
        words = ", ".join(f"{name.rpartition('.')[2]} {shown(value)}" for name, value in trial.point.items())
        step = trial.curve[-1][0] if trial.curve else 0
        logger.info("trial %d%s: %s", trial.number, f" goes on from step {step}" if step else "", words)
        self._tasks[trial.number] = self._bars.add_task(
            f"trial {trial.number}", total=None, completed=step, text=words
        )

    def reported(self, number: int, step: int, total: int, values: tuple[float, ...], verdict: TrialVerdict) -> None:
        """See SearchListener."""
        words = ", ".join(f"{name} {shown(value)}" for name, value in zip(self._tune.metrics, values, strict=True))
        words += {"stop": ", stopped"}.get(verdict.value, "")
        self._newest[number] = values
        self._bars.update(self._tasks[number], total=total, completed=step, text=words)
        if self._bars.disable:
            logger.info("trial %d step %d/%d: %s", number, step, total, words)

    def ended(self, number: int, state: str, why: str) -> None:
        """See SearchListener."""
        logger.info("trial %d %s%s", number, {"running": "interrupted"}.get(state, state), f": {why}" if why else "")
        self._bars.remove_task(self._tasks.pop(number))
        values = self._newest.pop(number, None)
        if state == "finished" and values:
            self._compare(number, values)
        self._num_ended += state != "running"
        best = f"best {shown(self._best[0])}, trial {self._best[1]}" if self._best else ""
        self._bars.update(self._whole, completed=self._num_ended, text=best)

    def _compare(self, number: int, values: tuple[float, ...]) -> None:
        """Keep the best trial; of several metrics there is none."""
        if len(values) == 1:
            better = max if self._tune.modes[0] == "max" else min
            new = (values[0], number)
            self._best = better(self._best or new, new, key=lambda entry: entry[0])
