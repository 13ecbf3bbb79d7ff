"""A Ray that dies is told from its processes, or from a head that does not answer for long; one that lives is not."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from raysft.errors import ClusterError, PlatformError, RaysftError
from raysft.runtime import head_watch


def node(**codes: int | None) -> Any:
    """What Ray keeps of the processes that it has started. codes: how each ended; None: it runs."""
    made = {
        name: [SimpleNamespace(process=SimpleNamespace(poll=lambda code=code: code))] for name, code in codes.items()
    }
    return SimpleNamespace(all_processes=made, get_session_dir_path=lambda: "/tmp/session")


def test_processes_that_have_ended_are_named() -> None:
    assert head_watch._processes_of(node(raylet=None, gcs_server=None))() is None
    error = head_watch._processes_of(node(raylet=-9, gcs_server=None))()
    assert isinstance(error, PlatformError)
    assert "raylet ended with code -9" in error.got
    assert "/tmp/session/logs" in error.fix


def test_a_head_may_be_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        look = head_watch._head_of(f"127.0.0.1:{port}")
        assert look() is None
    assert look() is None
    monkeypatch.setattr(head_watch, "AWAY_S", 0.0)
    error = look()
    assert isinstance(error, ClusterError)
    assert str(port) in error.got
    assert head_watch._head_of("")() is None


@pytest.mark.parametrize("over_meanwhile", [False, True])
def test_the_end_is_told_unless_the_block_is_over(monkeypatch: pytest.MonkeyPatch, over_meanwhile: bool) -> None:
    monkeypatch.setattr(head_watch, "LOOK_S", 0.01)
    ended: list[RaysftError] = []
    over = threading.Event()

    def end(error: RaysftError) -> None:
        ended.append(error)
        over.set()

    def look() -> RaysftError:
        if over_meanwhile:
            over.set()
        return PlatformError("Ray has died")

    monkeypatch.setattr(head_watch, "_end", end)
    head_watch._watch(look, over)
    assert len(ended) == (0 if over_meanwhile else 1)
