"""Answers that are compared: preferred and rejected ones, and several with scores or ranks. Pure."""

from __future__ import annotations

from typing import Any

from raysft.data.formats.answers import RecordContent, read_answer
from raysft.data.formats.asked import read_prompt, require, with_system
from raysft.data.formats.fields import CHOSEN, OTHER_ENDS, PROMPTS, REJECTED, RESPONSES, SCORES, TURNS
from raysft.data.formats.spoken import spoken_turns
from raysft.data.formats.turns import read_messages
from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import RefusedError, is_empty, read_list, read_number, short_value
from raysft.data.records import Candidate, Message


def read_preference(account: KeyLedger) -> RecordContent:
    """`chosen` and `rejected` are answers, or whole conversations that part at some turn.

    ms-swift's records have the preferred answer at the end of a talk, and the other in `rejected_response`.
    """
    other = account.first(OTHER_ENDS)
    if CHOSEN in account.record or other is None:
        require(account, {CHOSEN, REJECTED}, "preference")
        chosen, rejected = (read_answer(account.get(name), name, account) for name in (CHOSEN, REJECTED))
    else:
        chosen, rejected = _two_ends(account, other)
    if _is_whole(chosen) and _is_whole(rejected):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        while shared and not (chosen[shared].role == rejected[shared].role == "assistant"):
            shared -= 1
        if not shared:
            raise RefusedError("role_order", "chosen and rejected part before the first answer")
        _pass_over_the_same(account, chosen[:shared])
        prompt, chosen, rejected = with_system(account, chosen[:shared]), chosen[shared:], rejected[shared:]
    else:
        prompt = read_prompt(account, "preference")
        _check_repeated(prompt, chosen, rejected)
    candidates = (Candidate(tuple(chosen), 1.0), Candidate(tuple(rejected), 0.0))
    return RecordContent(prompt + chosen, candidates)


def _two_ends(account: KeyLedger, other: str) -> tuple[list[Message], list[Message]]:
    """A whole talk, and the same with the answer of the column `other` in its last answer's place."""
    if turns := account.first(TURNS):
        talk = read_messages(account.get(turns), turns, account)
    else:
        talk = [*read_prompt(account, "preference"), *read_answer(account.get("response"), "response", account)]
    if len(talk) < 2 or talk[-1].role != "assistant":
        raise RefusedError(
            "missing_column", f"`{other}` needs an answer that is better: `{CHOSEN}`, or a last answer"
        )
    rejected = read_answer(account.get(other), other, account)
    return talk, rejected if _is_whole(rejected) else [*talk[:-1], *rejected]


def _pass_over_the_same(account: KeyLedger, prompt: list[Message]) -> None:
    """A prompt written as a talk that both conversations begin with says nothing more."""
    column = account.first(PROMPTS)
    said = account.record.get(column) if column else None
    if column and isinstance(said, str) and [turn for turn in spoken_turns(said) if turn.content] == prompt:
        account.used.add(column)


def _check_repeated(prompt: list[Message], *answers: list[Message]) -> None:
    """Some files write the prompt in `chosen` and `rejected` as well: it would be trained as an answer."""
    asked = prompt[-1].content.strip() if prompt else ""
    if asked and all(answer and answer[0].content.strip().startswith(asked) for answer in answers):
        raise RefusedError(
            "repeated_prompt",
            f"chosen and rejected both begin with the prompt {short_value(asked)}; "
            "leave it out of them, or write turns",
        )


def read_ranking(account: KeyLedger) -> RecordContent:
    column = account.first(RESPONSES)
    if column is None:
        require(account, {"|".join(RESPONSES)}, "ranking")
        raise RefusedError("wrong_type", f"`{'|'.join(RESPONSES)}` is null")
    responses = read_list(account.get(column), column)
    if not responses:
        raise RefusedError("wrong_type", f"`{column}` must be a list of answers, got {short_value(responses)}")
    scores = _scores(account, responses, column)
    answers = [read_answer(response, column, account) for response in responses]
    candidates = tuple(Candidate(tuple(a), score) for a, score in zip(answers, scores, strict=True))
    best = max(range(len(scores)), key=scores.__getitem__)  # the first of equals
    return RecordContent(read_prompt(account, "ranking") + answers[best], candidates)


def _scores(account: KeyLedger, responses: list[Any], column: str) -> list[float]:
    """Higher is better; ranks count from the best on."""
    for key, own_keys in SCORES.items():
        sign = -1.0 if key == "ranks" else 1.0
        if not is_empty(account.record.get(key)):
            values = read_list(account.get(key), key)
            if len(values) != len(responses):
                raise RefusedError(
                    "wrong_type", f"`{key}` must be a list as long as `{column}`, got {short_value(values)}"
                )
            return [sign * read_number(value, key) for value in values]
        for own in own_keys:
            if all(isinstance(response, dict) and response.get(own) is not None for response in responses):
                return [sign * read_number(response[own], own) for response in responses]
    raise RefusedError("missing_column", f"ranking needs scores or ranks, or a score or rank in each of `{column}`")


def _is_whole(messages: list[Message]) -> bool:
    return bool(messages) and messages[0].role in ("system", "user")
