"""Compared answers -> atoms of two samples: first the preferred answer, then the rejected one. Pure.

Each is rendered, masked and tokenized behind the prompt as if it were the only one (chat.py), but no answer in the
prompt, which both share, is trained. Which answers are compared says records.preference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from raysft.data.formats import check_turns
from raysft.data.records import Answers, Candidate, Conversation, Message, Refusal, preference
from raysft.data.text.atoms import joined
from raysft.data.text.backend import Tokenizing
from raysft.data.text.categories import with_categories
from raysft.data.text.chat import Example, OverLong, Stop, Template, encode
from raysft.data.text.judged import encode_judged
from raysft.data.text.labelled import encode_labelled
from raysft.data.text.matched import encode_matched
from raysft.recipe.columns import MARGIN, Classes

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
    """chat.encode of one answer for each conversation; or of a pair: an Example with two `segments`; or of an answer
    that is judged (judged.py); or of a text with labels, which are those of the first of `categories` (labelled.py);
    or of a query and the texts that match it or do not, a segment each (matched.py). With what else records say of
    categories (categories.py).

    A pair is one atom: it is refused whole, and both of its samples have to fit into max_tokens. over_long is `drop`
    then (recipe/data_checks.py).
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
            found = _encode_pairs(conversations, whole, max_tokens)
    return [with_categories(one, talk, categories) for one, talk in zip(found, conversations, strict=True)]


def _encode_pairs(
    conversations: Sequence[Conversation],
    whole: Callable[[list[Conversation]], list[tuple[Example, ...] | Refusal]],
    max_tokens: int,
) -> list[tuple[Example, ...] | Refusal]:
    """whole: chat.encode without a limit of tokens."""
    pairs = [both_sides(conversation) for conversation in conversations]
    encoded = iter(whole([side for pair in pairs if not isinstance(pair, Refusal) for side in pair]))
    return [
        pair if isinstance(pair, Refusal) else _atom(conversation, [next(encoded), next(encoded)], max_tokens)
        for conversation, pair in zip(conversations, pairs, strict=True)
    ]


def both_sides(conversation: Conversation) -> tuple[Conversation, Conversation] | Refusal:
    """The conversation with the preferred and with the rejected answer; only messages of the answer are trained."""
    found = preference(conversation)
    if isinstance(found, Refusal):
        return found
    if conversation.weight != 1.0:
        return Refusal("weighted_pair", f"a weight of {conversation.weight:g}; expected none: a pair counts as one")
    prompt = _prompt(conversation)
    if prompt is None:
        return Refusal(
            "changed_answer",
            "a rule changed the answer in the turns, but not where it is compared; expected the same in both",
        )
    sides = []
    for name, candidate in zip(_SIDES, found, strict=True):
        messages = (*prompt, *candidate.messages)
        if problem := check_turns(messages):
            return _of_side(name, problem)
        sides.append(replace(conversation, messages=messages, candidates=()))
    return sides[0], sides[1]


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
    conversation: Conversation, found: Sequence[tuple[Example, ...] | Refusal], max_tokens: int
) -> tuple[Example, ...] | Refusal:
    """One example of both sides, or why there is none."""
    samples: list[Example] = []
    for name, side in zip(_SIDES, found, strict=True):
        if isinstance(side, Refusal):
            return _of_side(name, side)
        samples += side
    lengths = tuple(len(sample.input_ids) for sample in samples)
    if sum(lengths) > max_tokens:
        parts = " + ".join(map(str, lengths))
        return Refusal("over_long", f"a pair of {parts} tokens, at most {max_tokens} together fit a row")
    if np.array_equal(samples[0].input_ids, samples[1].input_ids):
        return Refusal("no_preference", "the template writes both answers alike; expected different ones")
    scores = [candidate.score for candidate in conversation.candidates]
    return (joined(samples, _SIDES)._replace(values={MARGIN.name: max(scores) - min(scores)}),)


def _of_side(name: str, refusal: Refusal) -> Refusal:
    return Refusal(refusal.reason, f"the {name} answer: {refusal.detail}")
