"""Which tokens generation stops at: the tokenizer's end of text, what the model's files name, the template's own end.

Owns the reading of `generation_config.json`. That trained answers end in one of these is chat.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from raysft.data.text.regions import usual
from raysft.data.text.template import Template
from raysft.data.text.tokenizer import template_for
from raysft.recipe.objective_traits import answers_of
from raysft.recipe.schema import Recipe
from raysft.storage import absolute, join

_FILES = ("generation_config.json", "config.json")


def recipe_template(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Template:
    """The chat template of a recipe, with what the model it starts from stops at."""
    stops = _texts(tokenizer, model_stop_ids(recipe))
    is_needed = answers_of(recipe) not in ("labelled", "matched")
    return template_for(recipe.data.template, tokenizer, stops=stops, is_needed=is_needed)


def stop_token_ids(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids that end generation after training, for an export's `generation_config`: what the model it starts from
    stops at, the tokenizer's end of text, and the token that the template ends an assistant's turn with."""
    template = recipe_template(recipe, tokenizer)
    own = (one for one in (template, template.with_tools) if one is not None and one.text)
    texts = dict.fromkeys(text for one in own for text in usual(one).ends)
    ids = (tokenizer.convert_tokens_to_ids(text) for text in texts)
    return sorted({index for index in ids if isinstance(index, int)})


def model_stop_ids(recipe: Recipe) -> list[int]:
    """What the files of the model to start from name as its ends of text; none for random weights."""
    source = recipe.model.source
    if source == "random":
        return []
    if source.startswith("run://"):
        source = join(absolute(recipe.storage), "runs", source.removeprefix("run://"), "export", "merged")
    return next((ids for name in _FILES if (ids := _ends(_read(source, name, recipe.model.revision)))), [])


def _ends(config: dict[str, Any]) -> list[int]:
    stated = config.get("eos_token_id")
    listed = stated if isinstance(stated, list) else [stated]
    return [index for index in listed if isinstance(index, int) and not isinstance(index, bool)]


def _read(source: str, name: str, revision: str | None) -> dict[str, Any]:
    """A JSON file of a model; empty where it has none, or cannot be reached: loading the weights tells of that."""
    there = Path(source).expanduser()
    try:
        found = there / name if there.is_dir() else cached_file(source, name, revision=revision)
        value = json.loads(Path(found).read_text("utf-8")) if found else {}
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _texts(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> tuple[str, ...]:
    found = [tokenizer.convert_ids_to_tokens(index) for index in ids if 0 <= index < len(tokenizer)]
    return tuple(text for text in found if isinstance(text, str))
