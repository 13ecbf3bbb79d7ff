"""What people rate: items made of systems' answers, items whose right rating is known, and the order of each rater.

Nothing that a rater is shown tells which system an answer is of: sides and order follow from the study's seed, the
rater's name and the item's number. Pure but for the reading of files.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, Literal

from raysft.data.formats.prompts import read_question
from raysft.data.formats.values import Record
from raysft.data.read.kinds import kind_of
from raysft.data.read.readers import read_range
from raysft.data.records import Conversation, Refusal
from raysft.errors import DataError

Mode = Literal["pairwise", "scale"]
CRITERIA = ("relevance", "accuracy", "fluency", "helpfulness", "safety")
VERDICTS = ("first", "second", "tie", "both_bad")
"""Which answer of a pair is better."""
LOWEST, HIGHEST = 1, 5
"""Ends of the scale."""
TRAINING = 0.5
"""Share of the gold items with which raters begin, told what is right; the others lie hidden among the rest."""


@dataclass(frozen=True)
class Item:
    """What is rated at once: two answers to a prompt, or one."""

    number: int
    """From 0 on; its place in the study."""
    prompt: str
    """As raters read it."""
    systems: tuple[str, ...]
    """Who gave each answer; empty for gold items."""
    answers: tuple[str, ...]
    gold: Any = None
    """What is right: a verdict, or {criterion: score}; None: nobody knows."""
    why: str = ""
    """Why that is right, for the training."""
    is_training: bool = False

    @property
    def is_judged(self) -> bool:
        """Does it count for the systems?"""
        return self.gold is None


@dataclass(frozen=True)
class Study:
    """What is rated, and how."""

    mode: Mode
    criteria: tuple[str, ...]
    """What is rated from 1 to 5; empty for pairs."""
    seed: int
    items: tuple[Item, ...]

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {**asdict(self), "items": [asdict(item) for item in self.items]}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Study:
        """What to_json() gave."""
        items = [
            Item(**{**item, "systems": tuple(item["systems"]), "answers": tuple(item["answers"])})
            for item in content["items"]
        ]
        return Study(content["mode"], tuple(content["criteria"]), content["seed"], tuple(items))

    def order(self, rater: str) -> list[int]:
        """Numbers of the items in the order in which a rater gets them: training first, then by chance."""
        first = [item.number for item in self.items if item.is_training]
        rest = [item.number for item in self.items if not item.is_training]
        return first + sorted(rest, key=lambda number: self._chance("order", rater, number))

    def is_flipped(self, rater: str, number: int) -> bool:
        """Is the second answer of a pair on the left?"""
        return len(self.items[number].answers) == 2 and bool(self._chance("side", rater, number)[0] & 1)

    def shown(self, rater: str, number: int) -> tuple[str, ...]:
        """The answers of an item from left to right."""
        answers = self.items[number].answers
        return answers[::-1] if self.is_flipped(rater, number) else answers

    def value_of(self, rater: str, number: int, said: Any) -> Any:
        """What a rater said of what was shown, as it is stored: `left` becomes `first` or `second`.

        Raises ValueError with what is wrong.
        """
        if self.mode == "pairwise":
            sides = ("second", "first") if self.is_flipped(rater, number) else ("first", "second")
            meant = {"left": sides[0], "right": sides[1], "tie": "tie", "both_bad": "both_bad"}
            if not isinstance(said, str) or said not in meant:
                raise ValueError(f"expected one of {', '.join(meant)}")
            return meant[said]
        if not isinstance(said, dict) or said.keys() != {*self.criteria}:
            raise ValueError(f"expected a score of each of {', '.join(self.criteria)}")
        if not self.is_value(said):
            raise ValueError(f"expected whole numbers from {LOWEST} to {HIGHEST}")
        return {name: said[name] for name in self.criteria}

    def is_value(self, value: Any) -> bool:
        """Is it a rating as it is stored?"""
        if self.mode == "pairwise":
            return isinstance(value, str) and value in VERDICTS
        return (
            isinstance(value, dict)
            and value.keys() == {*self.criteria}
            and all(type(score) is int and LOWEST <= score <= HIGHEST for score in value.values())
        )

    def said_of(self, rater: str, number: int, value: Any) -> Any:
        """The other way round: what the rater had said."""
        if value not in ("first", "second"):
            return value
        return "left" if (value == "second") == self.is_flipped(rater, number) else "right"

    def _chance(self, what: str, rater: str, number: int) -> bytes:
        return hashlib.sha256(f"{self.seed}/{what}/{rater}/{number}".encode()).digest()


def is_right(item: Item, value: Any) -> bool:
    """Does a rating agree with a gold item? Scores: each that is known, to a point."""
    if isinstance(item.gold, str):
        return bool(value == item.gold)
    return all(abs(value[name] - score) <= 1 for name, score in item.gold.items() if name in value)


def make_study(
    mode: Mode,
    answers: Mapping[str, str],
    *,
    gold: str | None = None,
    criteria: Sequence[str] = CRITERIA,
    seed: int = 0,
    most: int = 0,
) -> Study:
    """A study of what systems answered to the same questions.

    answers: {system: file, as `raysft generate` writes it}. gold: a file of items whose rating is known. most: items
    to draw at random; 0: all. Pairs of equal answers are left out. Raises DataError.
    """
    said = {system: _read_answers(file) for system, file in answers.items()}
    first = next(iter(said.values()))
    for system, found in said.items():
        if [prompt for prompt, _ in found] != [prompt for prompt, _ in first]:
            raise DataError(
                "systems have answered different questions",
                got=f"{len(found):,} answers in {answers[system]}, {len(first):,} in {next(iter(answers.values()))}"
                if len(found) != len(first)
                else f"other questions in {answers[system]}",
                expected="answers of all systems to the same questions, in the same order",
                fix="raysft generate with the same --in for each of them",
            )
    items = [
        item
        for place, (prompt, _) in enumerate(first)
        for item in _items(mode, prompt, {system: found[place][1] for system, found in said.items()})
    ]
    if most and most < len(items):
        items = [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), most))]
    if not items:
        raise DataError(
            "there is nothing to rate",
            got="no question to which the systems' answers differ",
            expected="one at least",
            fix="name other answers",
        )
    every = [*(_read_gold(gold, mode, criteria) if gold else ()), *items]
    numbered = tuple(replace(item, number=number) for number, item in enumerate(every))
    return Study(mode, () if mode == "pairwise" else tuple(criteria), seed, numbered)


def _items(mode: Mode, prompt: str, texts: Mapping[str, str]) -> list[Item]:
    if mode == "scale":
        return [Item(0, prompt, (system,), (text,)) for system, text in texts.items()]
    return [
        Item(0, prompt, pair, (texts[pair[0]], texts[pair[1]]))
        for pair in combinations(texts, 2)
        if texts[pair[0]].strip() != texts[pair[1]].strip()
    ]


def _read_answers(location: str) -> list[tuple[str, str]]:
    """(prompt, answer) of each line. One without an answer counts as an empty one."""
    found = []
    for number, record in _records(location):
        asked = record.get("record")
        if not isinstance(asked, dict) or not isinstance(record.get("generated"), str | None):
            got = f"no `record` with a text in `generated`: {str(record)[:80]}"
            raise _no_item(location, number, got, "a line as `raysft generate` writes it")
        question = read_question(asked, number)
        if isinstance(question, Refusal):
            raise _no_item(location, number, f"{question.reason}: {question.detail}", "the record of a question")
        found.append((_whole(_shown(question)), _whole(record["generated"] or "")))
    if not found:
        raise DataError(
            f"{location} holds no answer", got="no record", expected="one at least", fix="name another file"
        )
    return found


def _whole(text: str) -> str:
    """A model can leave half a character at an answer's end, which neither a page nor a database takes."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _shown(question: Conversation) -> str:
    """The turns of a question as a rater reads them; the last is a stand-in for the answer."""
    turns = question.messages[:-1]
    if len(turns) == 1:
        return turns[0].content
    return "\n\n".join(f"[{turn.role}] {turn.content}" for turn in turns)


def _read_gold(location: str, mode: Mode, criteria: Sequence[str]) -> list[Item]:
    """Items whose rating is known; the first TRAINING of them are the training."""
    names = ("first", "second") if mode == "pairwise" else ("answer",)
    expected = (
        f"prompt, first, second, best (one of {', '.join(VERDICTS)}) and, if you like, why"
        if mode == "pairwise"
        else f"prompt, answer, scores ({{criterion: {LOWEST} to {HIGHEST}}} of {', '.join(criteria)}) and why"
    )
    found = []
    for number, record in _records(location):
        texts = [record.get(name) for name in ("prompt", *names)]
        gold = record.get("best" if mode == "pairwise" else "scores")
        if not all(isinstance(text, str) for text in texts) or not _is_gold(gold, mode, criteria):
            raise _no_item(location, number, f"{str(record)[:120]}", expected)
        prompt, *answers = (_whole(str(text)) for text in texts)
        found.append(Item(0, prompt, (), tuple(answers), gold, _whole(str(record.get("why") or ""))))
    of_training = math.ceil(TRAINING * len(found))
    return [replace(item, is_training=place < of_training) for place, item in enumerate(found)]


def _is_gold(gold: object, mode: Mode, criteria: Sequence[str]) -> bool:
    if mode == "pairwise":
        return gold in VERDICTS
    return (
        isinstance(gold, dict)
        and bool(gold)
        and gold.keys() <= {*criteria}
        and all(type(score) is int and LOWEST <= score <= HIGHEST for score in gold.values())
    )


def _records(location: str) -> Iterator[tuple[int, Record]]:
    for number, (_, record) in enumerate(read_range(location, kind_of(location))):
        if isinstance(record, Refusal):
            raise _no_item(location, number, f"{record.reason}: {record.detail}", "a record")
        yield number, record


def _no_item(location: str, number: int, got: str, expected: str) -> DataError:
    return DataError(
        f"record {number + 1} of {location} cannot be rated", got=got, expected=expected, fix="correct or remove it"
    )
