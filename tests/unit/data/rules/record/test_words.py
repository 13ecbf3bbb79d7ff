from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysft.data.rules.record.words import Lexicon, read_synonyms, read_word_list
from raysft.errors import DataError


def found(lexicon: Lexicon, text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in lexicon.find(text)]


LEXICON = Lexicon(
    {
        "kill": "violence",
        "blow up": "violence",
        "Straße": "german",
        "坏蛋": "insult",
        "AV女优": "adult",
        "ไทย": "thai",
    }
)


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("Kill it! KILL; kill", ["Kill", "KILL", "kill"]),
        ("skill, killer, kills, over_kill", []),
        ("they blow up\nand Blow-Up, blow it up", ["blow up", "Blow-Up"]),
        ("STRASSE und Straße", ["STRASSE", "Straße"]),
        ("他是个坏蛋吗？坏 蛋", ["坏蛋"]),
        ("av女优", ["av女优"]),
        ("ภาษาไทยดี", ["ไทย"]),
        ("😀kill😀", ["kill"]),
        ("İİ kill 坏蛋", ["kill", "坏蛋"]),
        ("", []),
    ],
)
def test_find(text: str, hits: list[str]) -> None:
    assert [what for _, what in found(LEXICON, text)] == hits


def test_the_longest_entry_counts_and_the_first_list() -> None:
    lexicon = Lexicon({"bomb": "a", "dirty bomb": "b", "Bomb": "c", "炸": "d", "炸弹": "e"})
    assert found(lexicon, "a dirty bomb, a bomb, 炸弹炸") == [
        ("b", "dirty bomb"),
        ("a", "bomb"),
        ("e", "炸弹"),
        ("d", "炸"),
    ]


@given(st.text())
def test_any_text(text: str) -> None:
    assert all(text[span.start : span.end] for span in LEXICON.find(text))


def test_a_long_list_is_as_fast_as_a_short_one() -> None:
    text = "these are quite ordinary words in an ordinary text " * 100
    long = Lexicon({f"{word}{i}": "x" for i in range(10_000) for word in ("word", "two words", "坏")})

    def seconds(lexicon: Lexicon) -> float:
        """The best of ten: a collection of all garbage of these tests takes half a second, whenever it comes."""
        found = []
        for _ in range(10):
            start = time.process_time()
            lexicon.find(text)
            found.append(time.process_time() - start)
        return min(found)

    short = Lexicon({"word": "x", "two words": "x", "坏": "x"})
    assert seconds(long) < 5 * seconds(short) + 0.004


def test_word_lists(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff# a comment\nfirst\r\n\n two words \n坏蛋".encode())
    assert read_word_list(str(path)) == ["first", "two words", "坏蛋"]


@pytest.mark.parametrize(
    ("content", "where"), [(b"ok\n\n***\n", ":3"), (b"ok\n\xff\xfe\n", ":2"), (b"# nothing\n", "empty")]
)
def test_bad_word_lists(tmp_path: Path, content: bytes, where: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=where):
        read_word_list(str(path))
    with pytest.raises(DataError, match="cannot read"):
        read_word_list(str(tmp_path / "none.txt"))


def test_synonyms(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("big\tlarge, huge\n# c\nquick\tfast\nbig\tgreat\n", "utf-8")
    assert read_synonyms(str(path)) == {"big": ("large", "huge", "great"), "quick": ("fast",)}


@pytest.mark.parametrize(("content", "where"), [("big large\n", ":1"), ("a\tb\nbig\t ,\n", ":2"), ("", "empty")])
def test_bad_synonyms(tmp_path: Path, content: str, where: str) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match=where):
        read_synonyms(str(path))
