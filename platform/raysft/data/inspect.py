"""What a person wants to see of the data: which tokens are trained, and the certificate of a store.

Needs no Ray: a preview reads the first records itself, through the same functions as prepare.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from raysft.data.sources import RawRecord, describe_line, expand, read_all
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
    files = expand(data.train)
    text = Text()
    shown: list[Example] = []
    for raw in islice(read_all(files), num_samples):
        text.append(f"--- {describe_line(raw.sample_id, files)} ", style="bold" if color else "")
        conversation = _conversation(raw, recipe)
        result = _encoded(conversation, tokenizer, template, recipe)
        if isinstance(result, Refusal):
            text.append(f"refused, {result.reason}: {result.detail}\n")
            continue
        shown.append(result)
        cut = ", cut at data.max_tokens" if result.truncated else ""
        text.append(f"{len(result.input_ids)} tokens, {np.count_nonzero(result.target)} trained{cut}\n")
        for piece, style in _pieces(conversation, tokenizer, template, recipe, num_tokens=len(result.input_ids)):
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


def _conversation(raw: RawRecord, recipe: Recipe) -> Conversation | Refusal:
    if isinstance(raw.value, Refusal):
        return raw.value
    data = recipe.data
    return to_conversation(raw.value, id=raw.sample_id, source="", format=data.format, columns=data.columns)


def _encoded(
    conversation: Conversation | Refusal, tokenizer: PreTrainedTokenizerFast, template: Template, recipe: Recipe
) -> Example | Refusal:
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
    num_tokens: int,
) -> Iterator[tuple[str, str]]:
    """(text, style) of each run of tokens of the same kind."""
    rendered = conversation if isinstance(conversation, Refusal) else render(conversation, template)
    if isinstance(conversation, Refusal) or isinstance(rendered, Refusal):
        return
    spans = trained_spans(conversation, rendered, recipe.data.train_on)
    if isinstance(spans, Refusal):
        return
    (tokens,) = tokenize(tokenizer, [rendered.text])
    target, straddles = locate(rendered.text, tokens, spans)
    raw = rendered.text.encode() if tokens.in_bytes else rendered.text
    kinds = [_STRADDLING if s else _TRAINED if t else _PLAIN for t, s in zip(target, straddles, strict=True)]
    for style, run in groupby(range(min(num_tokens, len(kinds))), key=kinds.__getitem__):
        places = list(run)
        piece = raw[tokens.starts[places[0]] : tokens.ends[places[-1]]]
        yield piece.decode(errors="replace") if isinstance(piece, bytes) else piece, style
