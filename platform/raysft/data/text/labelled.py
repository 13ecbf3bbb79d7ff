"""Texts with labels -> samples: the text's tokens, and which of the recipe's labels it has. Pure.

The text is tokenized as plain text: no template, the special tokens around it that its tokenizer puts there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from raysft.data.records import Conversation, Refusal
from raysft.data.text.fitting import Example, OverLong
from raysft.recipe.columns import UNKNOWN, Classes

Encoded = tuple[Example, ...] | Refusal


def encode_labelled(
    conversations: Sequence[Conversation],
    encode: Callable[[list[Conversation]], list[Encoded]],
    classes: Classes,
    max_tokens: int,
    over_long: OverLong,
) -> list[Encoded]:
    """An Example for each conversation, or why there is none. encode: chat.encode without a limit of tokens.

    A text that is too long is refused, or cut before its last token, which is the special one that ends texts.
    """
    return [
        found if isinstance(found, Refusal) else _labelled(conversation, found[0], classes, max_tokens, over_long)
        for conversation, found in zip(conversations, encode(list(conversations)), strict=True)
    ]


def _labelled(
    conversation: Conversation, sample: Example, classes: Classes, max_tokens: int, over_long: OverLong
) -> Encoded:
    value = _value(conversation, classes)
    if isinstance(value, Refusal):
        return value
    if len(sample.input_ids) > max_tokens:
        if over_long == "drop":
            return Refusal("over_long", f"{len(sample.input_ids)} tokens, at most {max_tokens} fit a row")
        sample = cut_before_last(sample, max_tokens)
    return (sample._replace(values={classes.field.name: value}),)


def _value(conversation: Conversation, classes: Classes) -> float | list[float] | Refusal:
    """What stands in the column of classes."""
    label, is_text = conversation.label, conversation.messages[0].role == "text"
    if label is None or not (label or classes.several):
        if classes.optional and is_text and len(conversation.messages) == 1:
            return [UNKNOWN] * len(classes.labels) if classes.several else UNKNOWN
        return Refusal(
            "no_label",
            "the record has no label; expected {text, label}, or data.columns: {label: COLUMN} (with "
            "objective.domains a text without one is learnt from, too)",
        )
    if conversation.weight != 1.0:
        return Refusal("weighted_text", f"a weight of {conversation.weight:g}; expected none: see class_weights")
    own = label.split("\n") if label else []
    if strange := [label for label in own if label not in classes.labels]:
        told = f"the label {strange[0]!r}; expected one of objective.labels: {', '.join(classes.labels)}"
        return Refusal("unknown_label", told + classes.meant(strange[0]))
    if classes.several:
        return [float(label in own) for label in classes.labels]
    if len(own) != 1:
        return Refusal("several_labels", f"{len(own)} labels; expected one, or objective.multi_label: true")
    return float(classes.labels.index(own[0]))


def cut_before_last(sample: Example, limit: int) -> Example:
    """The first tokens and the last one, `limit` in all."""
    kept = np.r_[0 : limit - 1, len(sample.input_ids) - 1]
    return sample._replace(
        input_ids=sample.input_ids[kept],
        target=sample.target[kept],
        flags=sample.flags[kept],
        truncated=True,
        removed={"text": len(sample.input_ids) - limit},
    )
