"""The end of a group of workers: who answers is left alone, who hangs is killed, nobody is waited for long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raysft.runtime import teardown
from raysft.runtime.teardown import PATIENCE_S, PromptEnd


@pytest.mark.parametrize("silent", [set(), {1}, {0, 2}, {0, 1, 2}])
def test_only_those_that_do_not_answer_are_killed(monkeypatch: pytest.MonkeyPatch, silent: set[int]) -> None:
    asked: list[int] = []
    killed: list[Any] = []

    def actor(number: int) -> Any:
        def remote() -> str:
            asked.append(number)
            return f"answer {number}"

        return SimpleNamespace(number=number, shutdown=SimpleNamespace(remote=remote))

    def wait(answers: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        assert asked == [0, 1, 2], "all are asked before one is waited for"
        assert (num_returns, timeout) == (3, PATIENCE_S)
        hung = [answer for number, answer in enumerate(answers) if number in silent]
        return [answer for answer in answers if answer not in hung], hung

    monkeypatch.setattr(teardown.ray, "wait", wait)
    monkeypatch.setattr(teardown.ray, "kill", killed.append)
    workers = [SimpleNamespace(actor=actor(number)) for number in range(3)]
    group: Any = SimpleNamespace(get_workers=lambda: workers)
    PromptEnd().before_worker_group_shutdown(group)
    assert {one.number for one in killed} == silent
    assert PATIENCE_S < 5, "what Ray Train waits by itself"
