"""Parts of an answer that are not trained: from characters of the record to spans of the rendered text. Pure.

A token is trained where it reaches into a trained part, as Axolotl widens its ranges to whole tokens. What the
template writes before the answer is trained like the answer's first character; what ends the turn, always.
"""

from __future__ import annotations

from collections.abc import Sequence

from raysft.data.records import Conversation, Refusal
from raysft.data.text.offsets import Span
from raysft.data.text.regions import Region


def has_parts(conversation: Conversation) -> bool:
    """Is an answer trained in parts?"""
    return [message.parts for message in conversation.messages].count(None) < len(conversation.messages)


def trained_spans(conversation: Conversation, text: str, regions: Sequence[Region]) -> list[Span] | Refusal:
    """The regions without what is not trained of them; in order."""
    spans: list[Span] = []
    for region in regions:
        if region.message < 0:
            return _refusal("the template has another number of generation blocks than there are answers")
        message = conversation.messages[region.message]
        parts = message.parts
        if parts is None:
            spans.append((region.start, region.end))
            continue
        if parts.of != message.content:
            return _refusal("a rule changed the text whose characters it counts")
        first = text.find(message.content, region.start, region.end)
        if first < 0 or text.find(message.content, first + 1, region.end) >= 0:
            return _refusal("the template does not write the text as it is, once")
        place = region.start
        for start, end in parts.untrained:
            spans.append((place, first + start if start else place))
            place = first + end
        spans.append((place, region.end))
    return [(start, end) for start, end in spans if end > start]


def _refusal(why: str) -> Refusal:
    return Refusal("cannot_be_masked", f"`train_detail` trains parts of an answer, but {why}")
