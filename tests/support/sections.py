"""One section of a recipe: as it was read, or how it was refused."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import recipe_content

from raysft.errors import RecipeError
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe


def read(**sections: Any) -> Recipe:
    """A small recipe with these sections instead of its own."""
    return parse_recipe({**recipe_content(), **sections})


def refused(**sections: Any) -> str:
    """What is said of a recipe with these sections."""
    with pytest.raises(RecipeError) as caught:
        read(**sections)
    error = caught.value
    assert error.got
    assert error.expected
    assert error.fix
    return str(error)
