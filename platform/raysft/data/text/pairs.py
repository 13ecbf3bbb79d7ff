"""Compared answers -> atoms of two samples, first the preferred answer, then the rejected one; or of all, best first.

Each is rendered, masked and tokenized behind the prompt as if it were the only one (chat.py), but no answer in the
prompt, which they share, is trained. Which answers are compared says records.preference, or records.ranking. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from raysft.data.formats import check_turns
from raysft.data.records import Answers, Candidate, Conversation, Message, Refusal, preference, ranking
from raysft.data.text.atoms import joined
from raysft.data.text.backend import Tokenizing
from raysft.data.text.categories import with_categories
from raysft.data.text.chat import Example, OverLong, Stop, Template, encode
from raysft.data.text.judged import encode_judged
from raysft.data.text.labelled import encode_labelled
from raysft.data.text.matched import encode_matched
from raysft.recipe.columns import MARGIN, SCORE, Classes

_SIDES = ("preferred", "rejected")
_NO_LIMIT = 1 << 40


def encode_answers(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizing,
    template: Template,
    answers: Answers,
    *,
    train_on: Literal["all", "last"],
    max_tokens: int,
    over_long: OverLong,
    stop: Stop = "refuse",
    categories: Sequence[Classes] = (),
) -> list[tuple[Example, ...] | Refusal]:
    """chat.encode of one answer for each conversation; or of a pair: an Example with two `segments`; or of a list of
    answers: one with more; or of an answer that is judged (judged.py); or of a text with labels, which are those of
    the first of `categories` (labelled.py); or of a query and the texts that match it or do not, a segment each
    (matched.py). With what else records say of categories (categories.py).

    A pair, or a list, is one atom: it is refused whole, and all of its samples have to fit into max_tokens. over_long
    is `drop` then (recipe/data_checks.py).
    """
    part = partial(encode, tokenizer=tokenizer, template=template, train_on=train_on, stop=stop)
    whole = partial(part, max_tokens=_NO_LIMIT, over_long="drop")
    match answers:
        case "one":
            found = part(conversations, max_tokens=max_tokens, over_long=over_long)
        case "judged":
            found = encode_judged(conversations, whole, max_tokens)
        case "labelled":
            found = encode_labelled(conversations, whole, categories[0], max_tokens, over_long)
        case "matched":
            found = encode_matched(conversations, whole, max_tokens, over_long)
        case "pair":
            found = _encode_compared(conversations, preference, whole, max_tokens)
        case "ranked":
            found = _encode_compared(conversations, ranking, whole, max_tokens)
    return [with_categories(one, talk, categories) for one, talk in zip(found, conversations, strict=True)]


@dataclass(frozen=True)
class _Compared:
    """Answers of a record that are compared, the best first."""

    sides: tuple[Conversation, ...]
    """The conversation with each; only messages of the answer are trained."""
    names: tuple[str, ...]
    """What each is, in a word."""
    scores: tuple[float, ...]


def _encode_compared(
    conversations: Sequence[Conversation],
    choose: Callable[[Conversation], tuple[Candidate, ...] | Refusal],
    whole: Callable[[list[Conversation]], list[tuple[Example, ...] | Refusal]],
    max_tokens: int,
) -> list[tuple[Example, ...] | Refusal]:
    """choose: the answers that are compared, the best first. whole: chat.encode without a limit of tokens."""
    found = [_compared(conversation, choose(conversation)) for conversation in conversations]
    encoded = iter(whole([side for one in found if not isinstance(one, Refusal) for side in one.sides]))
    return [
        one if isinstance(one, Refusal) else _atom(one, [next(encoded) for _ in one.sides], max_tokens)
        for one in found
    ]


def _compared(conversation: Conversation, chosen: tuple[Candidate, ...] | Refusal) -> _Compared | Refusal:
    if isinstance(chosen, Refusal):
        return chosen
    if conversation.weight != 1.0:
        return Refusal("weighted_pair", f"a weight of {conversation.weight:g}; expected none: a pair counts as one")
    prompt = _prompt(conversation)
    if prompt is None:
        return Refusal(
            "changed_answer",
            "a rule changed the answer in the turns, but not where it is compared; expected the same in both",
        )
    scores = tuple(candidate.score for candidate in chosen)
    names = _SIDES if len(scores) == 2 else tuple(f"rank {scores.index(score) + 1}" for score in scores)
    sides = []
    for name, candidate in zip(names, chosen, strict=True):
        messages = (*prompt, *candidate.messages)
        if problem := check_turns(messages):
            return _of_side(name, problem)
        sides.append(replace(conversation, messages=messages, candidates=()))
    return _Compared(tuple(sides), names, scores)


def _prompt(conversation: Conversation) -> tuple[Message, ...] | None:
    """What all candidates answer, none of it trained; None: the conversation does not end in one of them."""
    messages = conversation.messages
    best_first = sorted(conversation.candidates, key=lambda candidate: -candidate.score)
    ends = [len(messages) - len(one.messages) for one in best_first if _ends_in(messages, one)]
    return tuple(untrained(message) for message in messages[: ends[0]]) if ends else None


def _ends_in(messages: Sequence[Message], candidate: Candidate) -> bool:
    length = len(candidate.messages)
    return 0 < length < len(messages) and tuple(messages[-length:]) == candidate.messages


def untrained(message: Message) -> Message:
    """The message as one that is no target."""
    return replace(message, train=False, parts=None) if message.role == "assistant" else message


def _atom(
    compared: _Compared, found: Sequence[tuple[Example, ...] | Refusal], max_tokens: int
) -> tuple[Example, ...] | Refusal:
    """One example of all sides, or why there is none."""
    samples: list[Example] = []
    for name, side in zip(compared.names, found, strict=True):
        if isinstance(side, Refusal):
            return _of_side(name, side)
        samples += side
    lengths, what = [len(sample.input_ids) for sample in samples], "pair" if len(samples) == 2 else "list"
    if sum(lengths) > max_tokens:
        parts = " + ".join(map(str, lengths))
        return Refusal("over_long", f"a {what} of {parts} tokens, at most {max_tokens} together fit a row")
    scores, texts = compared.scores, [sample.input_ids.tobytes() for sample in samples]
    for worse, text in enumerate(texts):
        better = texts.index(text)
        if scores[better] > scores[worse]:
            alike = "both answers" if what == "pair" else f"{compared.names[better]} and {compared.names[worse]}"
            return Refusal("no_preference", f"the template writes {alike} alike; expected different ones")
    values: dict[str, float | list[float]] = {MARGIN.name: scores[0] - scores[-1], SCORE.name: list(scores)}
    return (joined(samples, compared.names)._replace(values=values),)


def _of_side(name: str, refusal: Refusal) -> Refusal:
    return Refusal(refusal.reason, f"the {name} answer: {refusal.detail}")
