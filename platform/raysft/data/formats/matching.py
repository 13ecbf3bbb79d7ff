"""The format `matched`: a text, one that matches it, and any number that do not. Pure.

The columns of sentence-transformers (anchor, positive, negative; sentence1, sentence2), and the lists of
FlagEmbedding (query, pos, neg).
"""

from __future__ import annotations

from raysft.data.formats.answers import RecordContent
from raysft.data.formats.fields import ANCHORS, NEGATIVES, POSITIVES
from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import RefusedError, column_names, decoded, is_empty, read_text, short_value
from raysft.data.records import Candidate, Message
from raysft.recipe.columns import bare


def read_matched(account: KeyLedger) -> RecordContent:
    """The text as a question, the one that matches it as its answer; the others as answers that are worse."""
    anchor, positive = account.first(ANCHORS), account.first(POSITIVES)
    if anchor is None or positive is None:
        raise RefusedError(
            "missing_column",
            f"matched needs {'|'.join(ANCHORS)}, and {'|'.join(POSITIVES)}; "
            f"columns seen: {column_names(account.record)}",
        )
    if not account.reading.matched:
        raise RefusedError(
            "matched_texts",
            "texts that match, of which none answers another; objective.kind: contrastive learns from them, or map "
            f"question and answer (data.columns: {{instruction: {anchor}, output: {positive}}})",
        )
    for name in ("label", "score"):
        if not is_empty(account.record.get(name)):
            raise RefusedError(
                "labelled_texts",
                f"`{name}` says how far two texts match ({short_value(account.record[name])}), and they would be "
                f"taken to match; keep those that do, and then data.ignore_columns: [{name}]",
            )
    question, answer = (
        Message("user", _only(account, anchor)),
        Message("assistant", _only(account, positive)),
    )
    names = [name for name in NEGATIVES if account.record.get(name) is not None]
    negatives = {bare(text): text for name in names for text in _each(account, name)}
    if not negatives:
        return RecordContent([question, answer])
    others = [Candidate((Message("assistant", text),), 0.0) for text in negatives.values()]
    return RecordContent([question, answer], (Candidate((answer,), 1.0), *others))


def _only(account: KeyLedger, column: str) -> str:
    """The one text of a column, which may stand in a list."""
    texts = _each(account, column)
    if len(texts) != 1:
        raise RefusedError(
            "several_texts", f"`{column}` holds {len(texts)} texts, expected one; write a record for each of them"
        )
    return texts[0]


def _each(account: KeyLedger, column: str) -> list[str]:
    """The texts of a column: one, or a list of them, which may be written as JSON."""
    value = account.get(column)
    found = decoded(value) if isinstance(value, str) and value[:1] == "[" else value
    is_list = isinstance(found, list) and (found is value or all(isinstance(text, str) for text in found))
    return [read_text(text, column) for text in found] if is_list else [read_text(value, column)]
