"""What a person wants to see of the data: which tokens are trained, and the certificate of a store.

Needs no Ray: a preview reads the first records itself, through the same functions as prepare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import numpy as np
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from raysft.data.chat import Example, encode, render, trained_spans
from raysft.data.formats import check_columns, to_conversation
from raysft.data.offsets import locate, tokenize
from raysft.data.records import Conversation, Refusal
from raysft.data.rendering import Template
from raysft.data.sources import RawRecord, SourceFile, describe_line, expand, file_and_position, read_all
from raysft.data.tokenizer import load_tokenizer, template_for, tokenizer_source
from raysft.recipe.schema import Recipe

_TRAINED, _STRADDLING, _PLAIN = "bold green", "bold white on red", "dim"


def preview(recipe: Recipe, num_samples: int, *, color: bool) -> Text:
    """The first samples as they are tokenized. Trained tokens in colour, or between [[ and ]] without it."""
    data, model = recipe.data, recipe.model
    check_columns(data.columns, data.format)
    tokenizer = load_tokenizer(
        tokenizer_source(recipe), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    template = template_for(data.template, tokenizer)
    files = expand(data.sources, format=data.format, columns=data.columns)
    text = Text()
    shown: list[Example] = []
    for raw in islice(read_all(files), num_samples):
        text.append(f"--- {describe_line(raw.sample_id, files)} ", style="bold" if color else "")
        conversation = _conversation(raw, files)
        result = _encoded(conversation, tokenizer, template, recipe)
        if isinstance(result, Refusal):
            text.append(f"refused, {result.reason}: {result.detail}\n")
            continue
        shown += result
        for number, example in enumerate(result, 1):
            cut = ", cut to data.max_tokens" if example.truncated else ""
            part = f"part {number} of {len(result)}: " if len(result) > 1 else ""
            num_trained = np.count_nonzero(example.target)
            text.append(f"{part}{len(example.input_ids)} tokens, {num_trained} trained{cut}\n")
            for piece, style in _pieces(conversation, tokenizer, template, recipe, example=example):
                marked = piece if color or style == _PLAIN else f"[[{piece}]]"
                text.append(marked, style=style if color else "")
            text.append("\n")
    tokens = sum(len(example.input_ids) for example in shown)
    targets = sum(int(np.count_nonzero(example.target)) for example in shown)
    text.append(f"--- certificate: {targets} of {tokens} tokens trained ({targets / max(tokens, 1):.1%}), ")
    text.append(f"{sum(example.straddles for example in shown)} straddle\n")
    return text


def certificate(manifest: dict[str, Any]) -> list[str]:
    """What a store's manifest says about its masks and about what was left out."""
    counts = manifest["counts"]
    refused = sum(counts["refused"].values())
    lines = [
        f"{counts['examples']:,} samples of {counts['records_read']:,} records, {refused:,} refused",
        f"{counts['rows']:,} rows of {manifest['max_tokens']:,} tokens, {counts['fill']:.2%} full",
        f"{counts['target_tokens']:,} of {counts['tokens']:,} tokens trained "
        f"({counts['target_tokens'] / max(counts['tokens'], 1):.1%})",
        f"{counts['straddles']:,} tokens straddle the border of a trained text",
    ]
    if counts["truncated"]:
        lines.append(f"{counts['truncated']:,} samples cut at {manifest['max_tokens']:,} tokens")
    for reason, count in counts["refused"].items():
        first = manifest["refusals"][reason][0]
        lines.append(f"refused {count:,} x {reason}; first: {first['where']}: {first['detail']}")
    return lines


def _conversation(raw: RawRecord, files: Sequence[SourceFile]) -> Conversation | Refusal:
    if isinstance(raw.value, Refusal):
        return raw.value
    file = files[file_and_position(raw.sample_id)[0]]
    return to_conversation(raw.value, id=raw.sample_id, source=file.source, format=file.format, columns=file.columns)


def _encoded(
    conversation: Conversation | Refusal, tokenizer: PreTrainedTokenizerFast, template: Template, recipe: Recipe
) -> tuple[Example, ...] | Refusal:
    if isinstance(conversation, Refusal):
        return conversation
    (result,) = encode(
        [conversation],
        tokenizer,
        template,
        train_on=recipe.data.train_on,
        max_tokens=recipe.data.max_tokens,
        over_long=recipe.data.over_long,
    )
    return result


def _pieces(
    conversation: Conversation | Refusal,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    recipe: Recipe,
    *,
    example: Example,
) -> Iterator[tuple[str, str]]:
    """(text, style) of each run of the example's tokens of the same kind."""
    rendered = conversation if isinstance(conversation, Refusal) else render(conversation, template)
    if isinstance(conversation, Refusal) or isinstance(rendered, Refusal):
        return
    spans = trained_spans(conversation, rendered, recipe.data.train_on)
    if isinstance(spans, Refusal):
        return
    tokens = tokenize(tokenizer, [rendered.text])
    _, straddles = locate([rendered.text], tokens, [spans])
    raw = rendered.text.encode() if tokens.in_bytes[0] else rendered.text
    own = slice(example.start, example.start + len(example.input_ids))
    kinds = [
        _STRADDLING if straddling else _TRAINED if trained else _PLAIN
        for trained, straddling in zip(example.target, straddles[own], strict=True)
    ]
    for style, run in groupby(range(len(kinds)), key=kinds.__getitem__):
        places = list(run)
        piece = raw[tokens.starts[own][places[0]] : tokens.ends[own][places[-1]]]
        yield piece.decode(errors="replace") if isinstance(piece, bytes) else piece, style
