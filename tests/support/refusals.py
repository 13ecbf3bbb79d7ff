"""A recipe that its checks refuse."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe

from raysft.errors import RecipeError
from raysft.recipe.checks import check_recipe


def refuse(**sections: Any) -> str:
    """The error's text, which has all four of its parts."""
    with pytest.raises(RecipeError) as caught:
        check_recipe(make_recipe(**sections))
    error = caught.value
    assert error.what
    assert error.got
    assert error.expected
    assert error.fix
    return str(error)
