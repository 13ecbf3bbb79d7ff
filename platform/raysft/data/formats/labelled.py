"""The format `labelled`: a text, or two beside each other, with a label or several. Pure."""

from __future__ import annotations

from typing import Any

from raysft.data.formats.answers import RecordContent
from raysft.data.formats.asked import require, with_system
from raysft.data.formats.fields import LABELS, PAIRED_TEXTS
from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import RefusedError, decoded, is_empty, read_text, short_value, text_of
from raysft.data.records import Message


def read_labelled(account: KeyLedger) -> RecordContent:
    """The text, two of them in two lines; its label as its answer, or all its labels where labels are learnt: then it
    may have none, which is for others to refuse."""
    is_learnt = account.reading.labelled
    require(account, {"|".join(PAIRED_TEXTS), *(() if is_learnt else ("|".join(LABELS),))}, "labelled")
    first = account.first(PAIRED_TEXTS) or next(name for name in PAIRED_TEXTS if name in account.record)
    texts = [read_text(account.get(first), first)]
    if account.record.get(second := PAIRED_TEXTS[first]) is not None:
        texts.append(read_text(account.get(second), second))
    column = next((name for name in LABELS if name in account.record), LABELS[0])
    if is_learnt:
        return RecordContent([Message("text", "\n".join(texts))], label=_labels(account, column))
    label = _label(account, column)
    messages = [Message("user", "\n".join(texts)), Message("assistant", label)]
    return RecordContent(with_system(account, messages), label=label)


def _labels(account: KeyLedger, column: str) -> str | None:
    """Each of its labels in a line; None: it says nothing of them."""
    labels = decoded(account.get(column))
    if labels is None and is_empty(account.record.get("label_text")):
        return None
    if not isinstance(labels, list):
        return _label(account, column)
    return "\n".join(dict.fromkeys(_label_text(label, column) for label in labels))


def _label(account: KeyLedger, column: str) -> str:
    """Its name where `label_text` gives one, else the label as text."""
    label = account.get(column)
    if isinstance(name := account.record.get("label_text"), str) and name.strip():
        if isinstance(label, str):  # not the number that has this name
            account.used.discard(column)
        return str(account.get("label_text"))
    return _label_text(label, column)


def _label_text(label: Any, column: str) -> str:
    if isinstance(label, str | bool | int) or (isinstance(label, float) and label.is_integer()):
        return text_of(label)
    several = "; several labels are for objective.kind: classify" if isinstance(label, list) else ""
    raise RefusedError("wrong_type", f"`{column}` must be text or a whole number, got {short_value(label)}{several}")
