from __future__ import annotations

import pickle
import sys
from pathlib import Path
from random import Random

import pytest

from raysft.data.records import Conversation, Message
from raysft.data.rules.record.user_function import call, load_function, source_hash
from raysft.errors import DataError, RecipeError

SOURCE = """
from dataclasses import replace

number = 3

def same(conversation, random):
    return conversation

def twice(conversation, random):
    return [conversation, replace(conversation, id=99, source="other", label=str(random.random()))]

def never(conversation, random):
    return None

def fails(conversation, random):
    return conversation.messages[7]

def wrong(conversation, random):
    return "text"

def no_answer(conversation, random):
    return replace(conversation, messages=conversation.messages[:1])
"""
TALK = Conversation(5, (Message("user", "q"), Message("assistant", "a")), source="s")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "rules_of_a_user"
    (tmp_path / f"{name}.py").write_text(SOURCE, "utf-8")
    (tmp_path / "breaks_on_import.py").write_text("1 / 0", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_what_a_function_may_return(module: str) -> None:
    def made(name: str) -> list[Conversation]:
        return call(load_function(f"{module}:{name}"), name, TALK, Random(0))

    assert made("same") == [TALK]
    assert made("never") == []
    first, second = made("twice")
    assert first == TALK
    assert (second.id, second.source, second.tags) == (5, "s", ("augmented:map",))
    assert second.label == str(Random(0).random())


@pytest.mark.parametrize("name", ["fails", "wrong", "no_answer"])
def test_a_bad_function_is_named_with_the_record(module: str, name: str) -> None:
    with pytest.raises(DataError, match=rf"{module}:{name}.*record 5 of s") as caught:
        call(load_function(f"{module}:{name}"), f"{module}:{name}", TALK, Random(0))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    "path", ["no.such.module:f", "breaks_on_import:f", "rules_of_a_user:nothing", "rules_of_a_user:number"]
)
def test_what_cannot_be_imported(module: str, path: str) -> None:
    with pytest.raises(RecipeError, match="rule map"):
        load_function(path)


def test_the_hash_is_of_the_source(module: str) -> None:
    import hashlib

    assert source_hash(f"{module}:same") == hashlib.sha256(SOURCE.encode()).hexdigest()
    with pytest.raises(RecipeError, match="source"):
        source_hash("math:floor")
