"""Judged answers -> atoms: the answer, and another record's answer to the same prompt, if it fits beside it. Pure.

The second one is what an objective tells by how far a model has drifted from the untrained one: an answer that is
neither good nor bad, because it answers something else (arXiv:2402.01306, section 4.2). It is the next one of the
batch, in the order of the records, whose prompt and text are others; so it follows from the files alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from raysft.data.records import Conversation, Message, Refusal
from raysft.data.text.atoms import joined
from raysft.data.text.fitting import Example
from raysft.recipe.columns import WANTED

MISMATCHED = "mismatched"
"""What the second sample of an atom is."""

Messages = tuple[Message, ...]
Encoded = tuple[Example, ...] | Refusal


def encode_judged(
    conversations: Sequence[Conversation], encode: Callable[[list[Conversation]], list[Encoded]], max_tokens: int
) -> list[Encoded]:
    """An Example of one or two `segments` for each conversation, or why there is none.

    encode: chat.encode without a limit of tokens. An answer that does not fit into max_tokens is refused; one beside
    which no other fits stands alone.
    """
    parts = [_parts(conversation) for conversation in conversations]
    wholes = [_joined(one, *part) for one, part in zip(conversations, parts, strict=True)]
    others = [_mismatched(parts, number) for number in range(len(parts))]
    mixed = [_joined(conversations[i], parts[i][0], other) for i, other in enumerate(others) if other]
    encoded = encode([*wholes, *mixed])
    second = iter(encoded[len(wholes) :])
    pairs = zip(conversations, encoded, [next(second) if other else None for other in others], strict=False)
    return [_atom(conversation, own, other, max_tokens) for conversation, own, other in pairs]


def _parts(conversation: Conversation) -> tuple[Messages, Messages]:
    """(prompt, of which nothing is trained; answer): all behind the last question is the answer."""
    messages = conversation.messages
    asked = [number for number, message in enumerate(messages, 1) if message.role in ("user", "system")]
    end = asked[-1] if asked else 0
    prompt = (replace(m, train=False, parts=None) if m.role == "assistant" else m for m in messages[:end])
    return tuple(prompt), messages[end:]


def _joined(conversation: Conversation, prompt: Sequence[Message], answer: Sequence[Message]) -> Conversation:
    return replace(conversation, messages=(*prompt, *answer))


def _mismatched(parts: Sequence[tuple[Messages, Messages]], number: int) -> Messages | None:
    """The next answer, begun anew behind the last, that is another to another prompt; None: there is none."""
    prompt, answer = parts[number]
    if not prompt:
        return None
    for other_prompt, other in (*parts[number + 1 :], *parts[:number]):
        if other_prompt and other_prompt != prompt and other != answer:
            return other
    return None


def _atom(conversation: Conversation, own: Encoded, other: Encoded | None, max_tokens: int) -> Encoded:
    if isinstance(own, Refusal):
        return own
    if conversation.messages[0].role == "text":
        return Refusal("no_prompt", "a plain text; expected an answer to a prompt, which is judged")
    if conversation.weight != 1.0:
        return Refusal("weighted_answer", f"a weight of {conversation.weight:g}; expected none: answers count alike")
    if len(own[0].input_ids) > max_tokens:
        return Refusal("over_long", f"{len(own[0].input_ids)} tokens, at most {max_tokens} fit a row")
    samples = [own[0]]
    if other is not None and not isinstance(other, Refusal):
        is_short = len(own[0].input_ids) + len(other[0].input_ids) <= max_tokens
        samples += [other[0]] if is_short else []
    sides = ("wanted" if conversation.wanted else "unwanted", MISMATCHED)
    whole = joined(samples, sides[: len(samples)])
    return (whole._replace(values={WANTED.name: float(bool(conversation.wanted))}),)
