"""The scorer of `passes_tests`: the code of each answer is run against the tests that are its reference."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raysft.data.formats.tested import setup_and_tests
from raysft.errors import UserError
from raysft.metrics.base import Answer, Score
from raysft.metrics.passes_tests import numbers_of
from raysft.recipe.sections.evaluate import PassesTestsSection
from raysft.sandbox.barriers import Limits
from raysft.sandbox.code import code_of
from raysft.sandbox.jail import NoStartError, judge
from raysft.sandbox.probe import check_sandbox

_AT_ONCE = 8


@dataclass(frozen=True)
class CodeTests:
    """Runs code, once the barriers have been proved in this process."""

    limits: Limits

    @staticmethod
    def of(section: PassesTestsSection) -> CodeTests:
        """Raises UserError where the sandbox does not hold."""
        check_sandbox()
        return CodeTests(Limits(cpu_s=section.cpu_s, memory_bytes=round(section.memory_gib * 2**30)))

    @property
    def by(self) -> str:
        """Scores under other limits, or by another Python, are not compared."""
        version = ".".join(platform.python_version_tuple()[:2])
        return f"Python {version}, {self.limits.cpu_s} s, {self.limits.memory_bytes / 2**30:g} GiB"

    def score(self, answers: Sequence[Answer], references: Sequence[str]) -> list[Score]:
        """See Scorer (evaluate/scorers.py). As many at once as this process may use processors. Raises UserError."""
        with ThreadPoolExecutor(min(_AT_ONCE, len(os.sched_getaffinity(0)))) as threads:
            kinds = list(threads.map(self._kind, answers))
        return [Score(self.by, numbers_of(kind)) for kind in kinds]

    def _kind(self, answer: Answer) -> str:
        setup, tests = setup_and_tests(answer.reference)
        try:
            return judge(code_of(answer.text), tests, setup=setup, limits=self.limits).kind
        except NoStartError as error:
            barrier, problem = error.args
            raise UserError(
                f"the sandbox of answers' code stopped holding: {barrier}",
                got=problem,
                expected="barriers that hold, as they did when the evaluation began",
                fix="try again; where it stays so, leave passes_tests out of evaluate.sets",
            ) from None
