"""The proof that barriers hold, and what is said where one does not."""

from __future__ import annotations

from typing import Any

import pytest
from landlock import needs_landlock

from raysft.errors import UserError
from raysft.sandbox import probe


@needs_landlock
def test_the_probe_holds_here() -> None:
    probe.check_sandbox.cache_clear()
    probe.check_sandbox()


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({"barrier": "landlock", "problem": "Function not implemented"}, "barrier `landlock`"),
        ({"attempts": [["network", "a socket to the network was made"]]}, "barrier `network`"),
        ({}, "barrier `start`"),
    ],
)
def test_a_barrier_that_does_not_hold_refuses(
    found: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "probe", lambda *a: found)
    probe.check_sandbox.cache_clear()
    with pytest.raises(UserError, match=named) as raised:
        probe.check_sandbox()
    assert raised.value.fix
    probe.check_sandbox.cache_clear()
