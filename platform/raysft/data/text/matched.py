"""Texts that match -> atoms of plain texts: the query, the text that matches it, then those that do not. Pure.

Each is tokenized by itself: no template, the special tokens around it that its tokenizer puts there. Any record of a
question and an answer is such a pair; answers that are compared give the best one, and the worse ones as texts that
do not match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raysft.data.records import Conversation, Message, Refusal
from raysft.data.text.atoms import joined
from raysft.data.text.fitting import Example, OverLong
from raysft.data.text.labelled import cut_before_last
from raysft.recipe.columns import bare

Encoded = tuple[Example, ...] | Refusal


def encode_matched(
    conversations: Sequence[Conversation],
    encode: Callable[[list[Conversation]], list[Encoded]],
    max_tokens: int,
    over_long: OverLong,
) -> list[Encoded]:
    """An Example of two or more `segments` for each conversation, or why there is none.

    encode: chat.encode without a limit of tokens. Texts that together have more than max_tokens are refused, or the
    longest ones are cut to one length at which all of them fit.
    """
    found = [matched_texts(conversation) for conversation in conversations]
    plain = [
        Conversation(conversation.id, (Message("text", text),))
        for conversation, texts in zip(conversations, found, strict=True)
        if not isinstance(texts, Refusal)
        for text in texts
    ]
    encoded = iter(encode(plain))
    return [
        texts if isinstance(texts, Refusal) else _atom([next(encoded) for _ in texts], max_tokens, over_long)
        for texts in found
    ]


def matched_texts(conversation: Conversation) -> list[str] | Refusal:
    """The query, the text that matches it, and those that do not."""
    parts = _parts(conversation)
    if isinstance(parts, Refusal):
        return parts
    texts = [message.content for message in parts]
    if any(not text.strip() for text in texts):
        return Refusal("empty_text", f"the {_side(_first_empty(texts))} is empty; expected a text")
    seen = [bare(text) for text in texts]
    for number, text in enumerate(seen):
        first = seen.index(text)
        if first < number:
            what = f"the {_side(first)} and the {_side(number)} are the same text: {text[:40]!r}"
            return Refusal("same_texts", f"{what}; expected different ones")
    return texts


def _parts(conversation: Conversation) -> list[Message] | Refusal:
    messages = conversation.messages
    if conversation.label is not None:
        return Refusal(
            "labelled_texts",
            f"the label {conversation.label[:40]!r} beside texts; expected texts that match, without a label "
            "(a format without one: see data.ignore_columns)",
        )
    if [message.role for message in messages] != ["user", "assistant"]:
        roles = ", ".join(message.role for message in messages)
        return Refusal("no_pair", f"turns of {roles}; expected a query and one text that matches it")
    if conversation.weight != 1.0:
        return Refusal("weighted_pair", f"a weight of {conversation.weight:g}; expected none: a pair counts as one")
    candidates = conversation.candidates
    best = max((candidate.score for candidate in candidates), default=0.0)
    if sum(candidate.score == best for candidate in candidates) > 1:
        return Refusal("no_preference", f"several texts have the best score, {best:g}; expected one that matches")
    others = [candidate.messages for candidate in candidates if candidate.score < best]
    if any(len(one) != 1 for one in others):
        return Refusal("no_pair", "an answer that is compared has several turns; expected one text")
    return [*messages, *(one[0] for one in others)]


def _first_empty(texts: Sequence[str]) -> int:
    return next(number for number, text in enumerate(texts) if not text.strip())


def _side(number: int) -> str:
    """What the text of this place in an atom is."""
    return ("query", "positive")[number] if number < 2 else f"negative {number - 1}"


def _atom(samples: Sequence[Encoded], max_tokens: int, over_long: OverLong) -> Encoded:
    """One example of all texts, or why there is none."""
    texts: list[Example] = []
    for number, found in enumerate(samples):
        if isinstance(found, Refusal):
            return Refusal(found.reason, f"the {_side(number)}: {found.detail}")
        texts += found
    lengths = [len(text.input_ids) for text in texts]
    if sum(lengths) > max_tokens:
        longest = _longest_that_fits(lengths, max_tokens)
        if over_long == "drop" or longest < 2:
            parts = " + ".join(map(str, lengths))
            return Refusal("over_long", f"texts of {parts} tokens, at most {max_tokens} together fit a row")
        texts = [text if len(text.input_ids) <= longest else cut_before_last(text, longest) for text in texts]
    removed = sum(lengths) - sum(len(text.input_ids) for text in texts)
    whole = joined(texts, [_side(number) for number in range(len(texts))])
    return (whole._replace(truncated=removed > 0, removed={"text": removed} if removed else {}),)


def _longest_that_fits(lengths: Sequence[int], room: int) -> int:
    """The largest length to which all that are longer can be cut, so that all together have at most `room`."""
    left, longest = room, 0
    for number, length in enumerate(sorted(lengths)):
        longest = left // (len(lengths) - number)
        if length > longest:
            return longest
        left -= length
    return longest
