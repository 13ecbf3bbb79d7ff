"""The columns that a format reads are those that data.columns may map."""

from __future__ import annotations

import pytest
from records import EXAMPLES, TURNS, kept, refused

from raysft.data.formats import check_columns
from raysft.data.formats.fields import FIELDS
from raysft.errors import DataError
from raysft.recipe.sections.data import DataSection


def test_unknown_columns_name_the_nearest():
    with pytest.raises(DataError, match="did you mean 'instruction'"):
        check_columns({"instrution": "q"})
    with pytest.raises(DataError, match="'history'"):
        check_columns({"history": "q"}, "messages")
    check_columns({"instruction": "question", "output": "answer"})


def test_every_format_has_an_example():
    named = set(DataSection.model_fields["format"].annotation.__args__) - {"auto"}
    assert (
        named == {*EXAMPLES, "tested", "matched"} == set(FIELDS)
    )  # not detected for all: test_tested.py, test_matching.py


def test_a_mapped_format_knows_its_own_names():
    check_columns({"noisy_answer": "wrong", "critique": "why"}, "critique")
    with pytest.raises(DataError, match="the format critique does not have"):
        check_columns({"output": "a"}, "critique")
    found = kept(
        {"q": "1", "bad": "2", "why": "3"}, columns={"question": "q", "noisy_answer": "bad", "critique": "why"}
    )
    assert found.messages[-1].content == "3"


def test_a_mapping_that_the_format_does_not_use_is_refused() -> None:
    columns = {"instruction": "question", "output": "answer"}
    found = refused({"question": "q", "answer": "a", "messages": TURNS}, columns=columns)
    assert (found.reason, "`question`" in found.detail) == ("unused_mapping", True)
    absent = kept({"messages": TURNS}, columns={"system": "sytem"})
    assert [(note.kind, note.name) for note in absent.notes] == [("absent", "system: sytem")]
