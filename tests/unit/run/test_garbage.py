"""The search for garbage is left out inside, and is afterwards what it was, also after an error."""

from __future__ import annotations

import gc

import pytest

from raysft.run.garbage import no_collection


@no_collection()
def _fails_inside() -> None:
    assert not gc.isenabled()
    raise KeyError


@pytest.mark.parametrize("was_on", [True, False])
def test_it_is_afterwards_as_it_was(was_on: bool) -> None:
    (gc.enable if was_on else gc.disable)()
    try:
        with pytest.raises(KeyError):
            _fails_inside()
        assert gc.isenabled() == was_on
    finally:
        gc.enable()
