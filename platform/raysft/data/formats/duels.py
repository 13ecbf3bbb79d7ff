"""Two answers in columns of their own, and in others which is better -> a ranking, or two talks that part. Pure.

    response_0, response_1; better_response_id: 0 or 1                 PKU-SafeRLHF
    human_ref_A, human_ref_B; labels: 1 where A is better; history     SHP
    answer_0, answer_1; score_0, score_1; question: {full_text}        WebGPT comparisons
    response1, response2; overall_preference: below 0, the first       HelpSteer3, its turns in `context`
    response_1, response_2; preference_strength: likewise              HelpSteer2
    conversation_a, conversation_b; winner: model_a, model_b, tie      LMSYS' arena; also response_a, response_b

How much better is kept as a score. What neither answer wins is a ranking of equals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from raysft.data.formats.values import Record, number_of, short_value
from raysft.data.records import Refusal

_Scores = tuple[float, float]


class _Duel(NamedTuple):
    """Where a data set has its two answers, and what says which is better."""

    answers: tuple[str, str]
    judged: tuple[str, ...]
    scores: Callable[..., _Scores]
    """What the columns `judged` hold -> a score of each answer. Raises ValueError."""
    asked: str = "prompt"


def _by_number(better: Any) -> _Scores:
    return _one_of({0: (1.0, 0.0), 1: (0.0, 1.0)}, number_of(better))


def _by_first(is_first: Any) -> _Scores:
    return _one_of({1: (1.0, 0.0), 0: (0.0, 1.0)}, number_of(is_first))


def _by_strength(strength: Any) -> _Scores:
    if (value := number_of(strength)) is None:
        raise ValueError("a number, below 0 where the first is better")
    return max(-value, 0.0), max(value, 0.0)


def _by_scores(first: Any, second: Any) -> _Scores:
    found = number_of(first), number_of(second)
    if found[0] is None or found[1] is None:
        raise ValueError("two numbers")
    return found[0], found[1]


def _by_name(winner: Any) -> _Scores:
    name = winner.strip().lower() if isinstance(winner, str) else ""
    if name.startswith("tie"):
        return 0.0, 0.0
    return _one_of(
        {**dict.fromkeys(("model_a", "a"), (1.0, 0.0)), **dict.fromkeys(("model_b", "b"), (0.0, 1.0))}, name
    )


def _one_of(known: dict[Any, _Scores], value: Any) -> _Scores:
    if value not in known:
        raise ValueError(f"one of {', '.join(str(one) for one in known)}")
    return known[value]


_DUELS = {
    duel.answers[0]: duel
    for duel in (
        _Duel(("response_0", "response_1"), ("better_response_id",), _by_number),
        _Duel(("human_ref_A", "human_ref_B"), ("labels",), _by_first, "history"),
        _Duel(("answer_0", "answer_1"), ("score_0", "score_1"), _by_scores, "question"),
        _Duel(("response1", "response2"), ("overall_preference",), _by_strength, "context"),
        _Duel(("response_1", "response_2"), ("preference_strength",), _by_strength),
        _Duel(("response_a", "response_b"), ("winner",), _by_name),
        _Duel(("conversation_a", "conversation_b"), ("winner",), _by_name),
    )
}


def as_compared(record: Record) -> Record | Refusal:
    """The record with its answers under the names of a ranking or a preference, or the record itself."""
    first = next((name for name in record if name in _DUELS), None)
    if first is None or not {*(duel := _DUELS[first]).answers, *duel.judged} <= record.keys():
        return record
    values = [record[name] for name in duel.judged]
    try:
        scores = duel.scores(*values)
    except ValueError as error:
        told = ", ".join(short_value(value) for value in values)
        return Refusal("wrong_type", f"`{', '.join(duel.judged)}` must be {error}, got {told}")
    used = (*duel.answers, *duel.judged)
    found = {name: value for name, value in record.items() if name not in used}
    answers = [record[name] for name in duel.answers]
    if duel.asked in found and duel.asked != "prompt":
        found["prompt"] = _question(found.pop(duel.asked))
    if "prompt" in found:
        return {**found, "responses": answers, "scores": list(scores)}
    if scores[0] == scores[1]:
        return Refusal("no_preference", f"neither answer is better: {short_value(values[0])}")
    better = answers if scores[0] > scores[1] else answers[::-1]
    return {**found, "chosen": better[0], "rejected": better[1]}


def _question(value: Any) -> Any:
    """WebGPT's questions are objects."""
    return value["full_text"] if isinstance(value, dict) and isinstance(value.get("full_text"), str) else value
