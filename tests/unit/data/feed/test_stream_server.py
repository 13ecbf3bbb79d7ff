"""Windows for all ranks: each made once, the two newest kept, and an error for everybody who asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from raysft.data.feed import stream_server
from raysft.data.feed.stream import Cursor, Window
from raysft.data.feed.stream_server import WindowServer
from raysft.errors import DataError

PLACES = [(0, 0), (0, 1), (0, 2), (1, 0)]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What went into the object store, which is a list here."""
    stored: list[Any] = []
    monkeypatch.setattr(stream_server.ray, "put", lambda rows: stored.append(rows) or len(stored) - 1)
    return stored


def serve(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> WindowServer:
    def windows(source: Any, start: Cursor) -> Iterator[Window]:
        for epoch, index in PLACES:
            yield Window(epoch, index, (0, 0), (0, 0), pa.table({"place": [[epoch, index]]}))
        if error is not None:
            raise error
        yield Window(1, 1, (0, 0), (0, 0), None)

    monkeypatch.setattr(stream_server, "windows", windows)
    monkeypatch.setattr(stream_server, "_STALL_S", 5.0)
    nothing: Any = None
    return WindowServer(nothing, Cursor())


def test_every_rank_gets_the_same_window_and_its_rows_are_stored_once(
    monkeypatch: pytest.MonkeyPatch, put: list[Any]
) -> None:
    server = serve(monkeypatch)
    for epoch, index in PLACES:
        first, second = server.window(epoch, index), server.window(epoch, index)
        assert (first.epoch, first.index, first.rows) == (second.epoch, second.index, second.rows)
        (reference,) = first.rows
        assert put[reference].to_pylist() == [{"place": [epoch, index]}]
    assert len(put) == len(PLACES)
    assert server.window(1, 1).rows is None, "the end of the stream"


def test_a_rank_that_is_one_window_behind_is_served(monkeypatch: pytest.MonkeyPatch, put: list[Any]) -> None:
    server = serve(monkeypatch)
    server.window(0, 0)
    server.window(0, 1)
    assert (server.window(0, 0).index, server.window(0, 1).index) == (0, 1)
    assert len(put) == 2


def test_an_error_reaches_all_ranks(monkeypatch: pytest.MonkeyPatch, put: list[Any]) -> None:
    server = serve(monkeypatch, DataError("it broke", got="a", expected="b", fix="c"))
    for epoch, index in PLACES:
        server.window(epoch, index)
    for _ in range(3):
        with pytest.raises(DataError, match="it broke"):
            server.window(1, 1)


def test_a_stream_that_stalls_says_so(monkeypatch: pytest.MonkeyPatch, put: list[Any]) -> None:
    server = serve(monkeypatch)
    for epoch, index in PLACES:
        server.window(epoch, index)
    server.window(1, 1)
    monkeypatch.setattr(stream_server, "_STALL_S", 0.05)
    with pytest.raises(DataError, match="has stalled") as caught:
        server.window(2, 0)
    assert "ray status" in caught.value.fix
