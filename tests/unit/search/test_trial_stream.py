"""What a trial says from its start to its end."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from fakes import make_recipe

from raysft import errors
from raysft.errors import RaysftError, from_fields, to_fields
from raysft.recipe.schema import Recipe
from raysft.search.sweep import TrialEnd
from raysft.search.trial_stream import TrialStream

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RaysftError)]


SAID = {"got": "a pipe", "expected": "none", "fix": "call a plumber"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_a_trial_is_said_whole(kind: type[RaysftError], tmp_path: Path) -> None:
    def train(recipe: Recipe, planned: Callable[[int], None]) -> NoReturn:
        raise kind("it broke", **SAID)

    *_, last = TrialStream(make_recipe(storage=str(tmp_path)), train).messages([])
    ended = TrialEnd(**json.loads(last)["ended"])
    assert (ended.status, ended.error) == ("failed", to_fields(kind("it broke", **SAID)))
    assert ended.error is not None
    assert type(from_fields(ended.error)) is kind
