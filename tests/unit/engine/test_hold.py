"""What an update waits for."""

from __future__ import annotations

from raysft.engine.hold import Hold


def test_an_update_waits_once_for_the_newest_reader() -> None:
    hold, waits = Hold(), list[str]()
    hold.end()
    hold.until(lambda: waits.append("first"))
    hold.until(lambda: waits.append("second"))
    assert waits == []
    hold.end()
    hold.end()
    assert waits == ["second"]
