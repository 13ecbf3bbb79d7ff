"""A raw record of a source file -> conversations, as the recipe's data section says. Pure.

Here prepare, preview and the data report turn what was read into what is used, all in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

from raysft.data.formats import Reading, check_columns, check_turns, read_record
from raysft.data.read.sources import RawRecord, SourceFile
from raysft.data.records import Answers, Conversation, Refusal, judged
from raysft.recipe.columns import Classes
from raysft.recipe.sections.data import DataSection, SourceSection


def reading_of(
    file: SourceFile, data: DataSection, answers: Answers = "one", categories: Sequence[Classes] = ()
) -> Reading:
    """How the records of a file are read. categories: what they say of a few values, in columns of their own, too."""
    mixture = data.mixture
    named = (mixture.weight_column, mixture.balance_by, mixture.curriculum, *(one.column for one in categories))
    return Reading(
        format=file.format,
        columns=file.columns,
        ignored=frozenset(data.ignore_columns),
        described=frozenset(filter(None, named)),
        on_unread=data.on_unread,
        several_answers=data.several_answers,
        judged=answers == "judged",
        labelled=answers == "labelled",
        matched=answers == "matched",
    )


def read_raw(raw: RawRecord, file: SourceFile, reading: Reading) -> tuple[Conversation, ...] | Refusal:
    """The record's conversations, or why there are none."""
    if isinstance(raw.value, Refusal):
        return raw.value
    found = read_record(raw.value, reading, id=raw.sample_id, source=file.source)
    return found if isinstance(found, Refusal) or not reading.judged else _all_judged(found)


def _all_judged(conversations: Sequence[Conversation]) -> tuple[Conversation, ...] | Refusal:
    found: list[Conversation] = []
    for conversation in conversations:
        answers = judged(conversation)
        if isinstance(answers, Refusal):
            return answers
        for answer in answers:
            if problem := check_turns(answer.messages):
                return problem
        found += answers
    return tuple(found)


def check_source_columns(data: DataSection, more: Sequence[SourceSection] = ()) -> None:
    """Raise DataError when a source's column mapping has a name that its format does not have."""
    for source in (*data.sources, *more):
        check_columns(data.columns if source.columns is None else source.columns, source.format or data.format)
