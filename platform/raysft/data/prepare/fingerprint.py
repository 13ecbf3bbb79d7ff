"""What makes a token store the one it is: the sides of a recipe's data and their fingerprints. No Ray.

A fingerprint covers everything that changes tokens, rows or their order in the store: the files' contents, the
fields, the tokenizer, the template, the rules with the files they read, and the version of the code. All of them
are looked at again when a store has been made (`check_unchanged`): else one edited meanwhile would lie under a
fingerprint that is not its own, for everybody who prepares the same data later.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerFast

from raysft.data.formats.conversations import check_source_columns
from raysft.data.prepare.encode import EncodeStage
from raysft.data.read import contents
from raysft.data.read.contents import FileContent
from raysft.data.read.sources import SourceFile, expand
from raysft.data.rules.keys import keys_hash
from raysft.data.rules.record.cleaner import rules_hash
from raysft.data.store.windows import WINDOW
from raysft.data.text.backend import BackendJson
from raysft.data.text.stops import recipe_template
from raysft.data.text.template import Template
from raysft.data.text.tokenizer import recipe_tokenizer, tokenizer_hash
from raysft.errors import DataError
from raysft.recipe.cleaning import AUGMENTING, WHOLE_DATA, Leakage, Map
from raysft.recipe.objective_traits import answers_of, categories_of, written_columns
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import MixtureSection, SourceSection
from raysft.storage import absolute, join

logger = logging.getLogger(__name__)

STAGE_VERSION = 5
"""Raise it when the same inputs would give other tokens or rows."""


@dataclass(frozen=True)
class Side:
    """One store: `train` or `eval`."""

    name: str
    location: str
    fingerprint: str
    inputs: dict[str, Any]
    files: list[SourceFile]
    contents: list[FileContent]
    """What each of `files` held when the fingerprint was made."""
    stage: EncodeStage
    shards: str
    """Sides of the same pass over the files share their shards: its name."""
    is_rolled_back: bool = False
    """The store is an older version's, which the files as they are now do not give."""


def describe_sides(recipe: Recipe) -> list[Side]:
    """The training side, and the held-out side where the recipe has one."""
    data = recipe.data
    check_source_columns(data)
    tokenizer = recipe_tokenizer(recipe)
    template = recipe_template(recipe, tokenizer)
    common = _inputs(tokenizer, template)
    side = partial(_side, recipe, BackendJson.of(tokenizer), template)
    if data.eval and data.eval_fraction:
        logger.warning("data.eval_fraction is ignored: data.eval names held-out files")
    share = 0.0 if data.eval else data.eval_fraction
    train = _Read.of(recipe, expand(data.sources, format=data.format, columns=data.columns, purpose="train"))
    eval_listed: list[Any] = []
    sides = []
    if data.eval:
        held_out = _Read.held_out(recipe, SourceSection(path=data.eval, name="eval"))
        eval_listed = held_out.listed
        sides.append(side("eval", held_out, {**common, "files": eval_listed, "held_out": 1.0}))
    elif share:
        sides.append(side("eval", train, {**common, "files": train.listed, "held_out": share}))
    compared = eval_listed if any(isinstance(rule, Leakage) for rule in data.rules) else []
    inputs = {**common, "files": train.listed, "held_out": share, "compared_with": compared}
    return [side("train", train, inputs), *sides]


def describe_set(recipe: Recipe, source: SourceSection) -> Side:
    """The side that a recipe with these files as data.eval would have. source: has the name `eval`."""
    check_source_columns(recipe.data, (source,))
    tokenizer = recipe_tokenizer(recipe)
    template = recipe_template(recipe, tokenizer)
    read = _Read.held_out(recipe, source)
    inputs = {**_inputs(tokenizer, template), "files": read.listed, "held_out": 1.0}
    return _side(recipe, BackendJson.of(tokenizer), template, "eval", read, inputs)


def check_unchanged(recipe: Recipe, sides: Sequence[Side]) -> None:
    """Raises DataError when a file of the sides, their tokenizer, template or rules are not what they were."""
    for side in sides:
        contents.check_files_unchanged(side.files, side.contents)
    tokenizer = recipe_tokenizer(recipe)
    now = _inputs(tokenizer, recipe_template(recipe, tokenizer)) | _rules(recipe, sides[0].name)
    differ = sorted(name for name, value in now.items() if sides[0].inputs[name] != value)
    if differ:
        raise DataError(
            "what the data is made with changed while it was made",
            got=f"another {', '.join(differ)} than at the start",
            expected="files that nobody writes to; nothing of what was made is kept",
            fix="let the writer finish, then run the same command again",
        )


def _inputs(tokenizer: PreTrainedTokenizerFast, template: Template) -> dict[str, str]:
    return {"tokenizer": tokenizer_hash(tokenizer), "template": _template_hash(template)}


def _rules(recipe: Recipe, name: str) -> dict[str, Any]:
    """What the rules of a side are, with the files that they read."""
    rules = [rule for rule in recipe.data.rules if not isinstance(rule, WHOLE_DATA)]
    if name == "eval":
        return {"rules": rules_hash([rule for rule in rules if not isinstance(rule, AUGMENTING)])}
    return {"rules": rules_hash(rules), "whole_data_rules": keys_hash(recipe.data.rules)}


@dataclass(frozen=True)
class _Read:
    """Files and what their bytes are."""

    files: list[SourceFile]
    contents: list[FileContent]
    listed: list[Any]
    """Their part of the fingerprint. A source is a number: the same data under another name gives the same tokens."""

    @classmethod
    def held_out(cls, recipe: Recipe, source: SourceSection) -> _Read:
        """Files that are all held out."""
        data = recipe.data
        return cls.of(recipe, expand([source], format=data.format, columns=data.columns, purpose="eval"))

    @classmethod
    def of(cls, recipe: Recipe, files: list[SourceFile]) -> _Read:
        """By a hash of all bytes; in stream mode a remote store's checksum will do: training shall not wait."""
        cache = join(absolute(recipe.storage), "tokens", "hashes.json")
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = contents.contents(files, cache, pool.map, trusts_stores=recipe.data.mode == "stream")
        sources = list(dict.fromkeys(file.source for file in files))
        return cls(
            files,
            found,
            [
                [sources.index(file.source), file.kind, file.format, dict(file.columns), one.sha256]
                for file, one in zip(files, found, strict=True)
            ],
        )


def _side(
    recipe: Recipe, tokenizer: BackendJson, template: Template, name: str, read: _Read, inputs: dict[str, Any]
) -> Side:
    data = recipe.data
    held_out = inputs["held_out"]
    whole = {
        **inputs,
        "side": name,
        "stage_version": STAGE_VERSION,
        "window": WINDOW,
        "train_on": data.train_on,
        "max_tokens": data.max_tokens,
        "over_long": data.over_long,
        "stop": data.stop,
        "on_bad_record": data.on_bad_record,
        "on_unread": data.on_unread,
        "ignore_columns": sorted(data.ignore_columns),
        "several_answers": data.several_answers,
        **_rules(recipe, name),
    }
    if name == "train":
        whole["mixture"] = [
            data.mixture.model_dump(mode="json"),
            [[source.weight, source.epochs] for source in data.sources],
        ]
        whole["seed"] = recipe.seed if _is_random(recipe) else None
    if (answers := answers_of(recipe)) != "one":
        whole["answers"] = answers
    if written := [field.name for field in written_columns(recipe)]:
        whole["written"] = [written, *map(asdict, categories_of(recipe))]
    fingerprint = hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    stage = EncodeStage(
        tokenizer,
        template,
        data,
        held_out,
        recipe.seed,
        json.dumps([rules_hash(data.rules), keys_hash(data.rules)]),
        answers,
        written_columns(recipe),
        categories_of(recipe),
    )
    location = join(absolute(recipe.storage), "tokens", fingerprint)
    shards = "held-out" if held_out == 1 else "all"
    return Side(name, location, fingerprint, whole, read.files, read.contents, stage, shards)


def _is_random(recipe: Recipe) -> bool:
    """Does the training store depend on the seed?"""
    data = recipe.data
    mixed = data.mixture != MixtureSection() or any(s.weight is not None or s.epochs != 1 for s in data.sources)
    return mixed or any(isinstance(rule, (*AUGMENTING, Map)) for rule in data.rules)


def _template_hash(template: Template) -> str:
    special = template.special_tokens
    texts = [one.text for one in (template, template.with_tools) if one is not None]
    content = json.dumps([texts, special.named, special.texts, special.added, special.stops])
    return hashlib.sha256(content.encode()).hexdigest()
