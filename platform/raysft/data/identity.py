"""What makes a token store the one it is: the sides of a recipe's data and their fingerprints. No Ray.

A fingerprint covers everything that changes tokens, rows or their order in the store: the files' contents, the
fields, the tokenizer, the template, the rules with the files they read, and the version of the code.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from raysft.data.clean.cleaner import rules_hash
from raysft.data.conversations import check_source_columns
from raysft.data.keys import keys_hash
from raysft.data.remote import open_bytes
from raysft.data.sources import SourceFile, content_hashes, expand
from raysft.data.stage import EncodeStage
from raysft.data.stops import recipe_template
from raysft.data.stream import StreamSource
from raysft.data.template import Template
from raysft.data.tokenizer import recipe_tokenizer, tokenizer_hash, tokenizer_source
from raysft.data.windows import WINDOW
from raysft.recipe.rules import AUGMENTING, WHOLE_DATA, Leakage, Map
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import MixtureSection, SourceSection
from raysft.storage import absolute, join

logger = logging.getLogger(__name__)

STAGE_VERSION = 3
"""Raise it when the same inputs would give other tokens or rows."""


@dataclass(frozen=True)
class Side:
    """One store: `train` or `eval`."""

    name: str
    location: str
    fingerprint: str
    inputs: dict[str, Any]
    files: list[SourceFile]
    stage: EncodeStage
    shards: str
    """Sides of the same pass over the files share their shards: its name."""


def describe_sides(recipe: Recipe) -> list[Side]:
    """The training side, and the held-out side where the recipe has one."""
    data = recipe.data
    check_source_columns(data)
    tokenizer = recipe_tokenizer(recipe)
    template = recipe_template(recipe, tokenizer)
    common = {"tokenizer": tokenizer_hash(tokenizer), "template": _template_hash(template)}
    if data.eval and data.eval_fraction:
        logger.warning("data.eval_fraction is ignored: data.eval names held-out files")
    share = 0.0 if data.eval else data.eval_fraction
    files = expand(data.sources, format=data.format, columns=data.columns)
    listed = _listed(recipe, files)
    eval_listed: list[Any] = []
    sides = []
    if data.eval:
        held_out = expand([SourceSection(path=data.eval, name="eval")], format=data.format, columns=data.columns)
        eval_listed = _listed(recipe, held_out)
        sides.append(_side(recipe, "eval", held_out, template, {**common, "files": eval_listed, "held_out": 1.0}))
    elif share:
        sides.append(_side(recipe, "eval", files, template, {**common, "files": listed, "held_out": share}))
    compared = eval_listed if any(isinstance(rule, Leakage) for rule in data.rules) else []
    inputs = {**common, "files": listed, "held_out": share, "compared_with": compared}
    return [_side(recipe, "train", files, template, inputs), *sides]


def stream_source(recipe: Recipe, *, cpus_per_task: int) -> StreamSource:
    """What a run in stream mode reads; the same on every process that asks."""
    side = describe_sides(recipe)[0]
    return StreamSource(tuple(side.files), side.stage, recipe.data.max_tokens, cpus_per_task, side.fingerprint)


def _side(recipe: Recipe, name: str, files: list[SourceFile], template: Template, inputs: dict[str, Any]) -> Side:
    data, model = recipe.data, recipe.model
    held_out = inputs["held_out"]
    rules = [rule for rule in data.rules if not isinstance(rule, WHOLE_DATA)]
    if name == "eval":
        rules = [rule for rule in rules if not isinstance(rule, AUGMENTING)]
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
        "rules": rules_hash(rules),
    }
    if name == "train":
        whole["whole_data_rules"] = keys_hash(data.rules)
        whole["mixture"] = [
            data.mixture.model_dump(mode="json"),
            [[source.weight, source.epochs] for source in data.sources],
        ]
        whole["seed"] = recipe.seed if _is_random(recipe) else None
    fingerprint = hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    stage = EncodeStage(
        tokenizer_source(recipe),
        model.revision,
        model.trust_remote_code,
        template,
        data,
        held_out,
        recipe.seed,
        json.dumps([rules_hash(data.rules), keys_hash(data.rules)]),
    )
    location = join(absolute(recipe.storage), "tokens", fingerprint)
    return Side(name, location, fingerprint, whole, files, stage, "held-out" if held_out == 1 else "all")


def _is_random(recipe: Recipe) -> bool:
    """Does the training store depend on the seed?"""
    data = recipe.data
    mixed = data.mixture != MixtureSection() or any(s.weight is not None or s.epochs != 1 for s in data.sources)
    return mixed or any(isinstance(rule, (*AUGMENTING, Map)) for rule in data.rules)


def _listed(recipe: Recipe, files: list[SourceFile]) -> list[Any]:
    """Each file with what its bytes are: by a hash of all of them, of both ends in stream mode.

    Its source is a number: the same data under another name gives the same tokens.
    """
    if recipe.data.mode == "stream":
        hashes = [_ends_hash(file) for file in files]
    else:
        hashes = content_hashes(files, join(absolute(recipe.storage), "tokens", "hashes.json"))
    sources = list(dict.fromkeys(file.source for file in files))
    return [
        [sources.index(file.source), file.kind, file.format, dict(file.columns), digest]
        for file, digest in zip(files, hashes, strict=True)
    ]


def _ends_hash(file: SourceFile) -> str:
    """sha256 of the size and of the first and last MiB: training must not wait until everything is read."""
    with open_bytes(file.location) as stream:
        head = stream.read(1 << 20)
        stream.seek(max(0, file.num_bytes - (1 << 20)))
        return hashlib.sha256(b"%d:" % file.num_bytes + head + stream.read(1 << 20)).hexdigest()


def _template_hash(template: Template) -> str:
    special = template.special_tokens
    texts = [one.text for one in (template, template.with_tools) if one is not None]
    content = json.dumps([texts, special.named, special.texts, special.added, special.stops])
    return hashlib.sha256(content.encode()).hexdigest()
