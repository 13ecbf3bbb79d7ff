"""What records say of a sample in columns of their own, of a few values each: as numbers beside its tokens. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from raysft.data.formats.values import is_empty, text_of
from raysft.data.records import Conversation, Refusal
from raysft.data.text.fitting import Example
from raysft.recipe.columns import UNKNOWN, Classes

Encoded = tuple[Example, ...] | Refusal


def with_categories(found: Encoded, conversation: Conversation, categories: Sequence[Classes]) -> Encoded:
    """The examples of a conversation with the value of each category that has a column of its own, or a refusal."""
    for category in categories:
        if isinstance(found, Refusal):
            return found
        if category.column:
            found = _with(found, conversation, category)
    return found


def _with(found: tuple[Example, ...], conversation: Conversation, category: Classes) -> Encoded:
    name, value = category.name, conversation.metadata.get(category.column)
    if is_empty(value) and not category.optional:
        what = (
            f"a record without a {name}; expected one, as text, in `{category.column}` beside the text of each record"
        )
        return Refusal(f"no_{name}", what)
    number = UNKNOWN
    if not is_empty(value):
        text = text_of(value)
        if text not in category.labels:
            told = f"the {name} {text!r}; expected one of {', '.join(category.labels)}"
            return Refusal(f"unknown_{name}", told + category.meant(text))
        number = float(category.labels.index(text))
    return tuple(example._replace(values={**example.values, name: number}) for example in found)
