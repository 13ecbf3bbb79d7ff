"""Where the text that a model is to say begins and ends: the regions of a conversation's assistant turns. Pure.

The law: training sees the tokens that generation sees. A region begins where the text ends that the template writes
with `add_generation_prompt`, and ends with the token that stops generation. Where that prompt is no prefix of the
text (templates that rewrite turns), the region begins with the answer's own text.

A generation block says itself what the assistant writes. Its region begins where the prompt ends if nothing but
white space lies between, else where the block does, and is carried on to the stop that follows a block without one.

The prompt of every turn would have to be rendered to know its end. What stands between prompt and answer is the same
for nearly all turns of a template, so it is learned from two made-up conversations (`Usual`); a turn that does not
look like them is rendered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from raysft.data.records import Conversation, Message
from raysft.data.text.offsets import Span
from raysft.data.text.sandbox import TEMPLATE_ERRORS
from raysft.data.text.template import SpecialTokens, Template
from raysft.data.text.writing import Marked, unmark, write, write_marked, write_prompt, write_until

_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
_CALL = {"type": "function", "id": "call00001", "function": {"name": "f", "arguments": {}}}
_PROBES = (("Why is that?", "Zephyrus one."), ("Say 7", "Quokkas, both"))
"""Questions that end differently and answers that stand in no template."""


class Region(NamedTuple):
    """What one assistant turn must say: characters [start, end) of the text.

    `stops`: it ends in a token that generation stops at. `message`: index of the turn; -1 where a template has
    another number of generation blocks than there are turns.
    """

    start: int
    end: int
    stops: bool
    message: int = -1


@dataclass(frozen=True)
class Usual:
    """What a template writes around an answer. `before`: the end of the prompt, and what lies between it and the
    answer; `gap`: how many characters of `before` are not in the prompt; `ends`: tokens that end a turn."""

    before: str
    gap: int
    ends: tuple[str, ...]


@lru_cache(maxsize=32)
def usual(template: Template) -> Usual:
    """Learned from conversations of two turns; empty where the template refuses them or rewrites answers."""
    befores: list[tuple[str, int]] = []
    ends = list(template.special_tokens.stops)
    for question, answer in _PROBES:
        turns = (Message("user", question), Message("assistant", answer))
        probe = Conversation(0, turns)
        found = _answer_place(template, probe)
        if found is None:
            found = _answer_place(template, Conversation(0, (Message("system", "Be brief."), *turns)))
            probe = Conversation(0, (Message("system", "Be brief."), *turns))
        if found is None:
            continue
        text, (start, end) = found
        ends += _end_of_turn(text, end, template.special_tokens)
        prompt = write_prompt(template, probe, len(probe.messages) - 1)
        if prompt is not None and text.startswith(prompt) and len(prompt) <= start:
            befores.append((text[:start], start - len(prompt)))
    ends += _end_of_call(template)
    if len(befores) < len(_PROBES) or befores[0][1] != befores[1][1]:
        return Usual("", 0, tuple(dict.fromkeys(ends)))
    before = _common_end([text for text, _ in befores])
    gap = befores[0][1]
    return Usual(before if len(before) > gap else "", gap, tuple(dict.fromkeys(ends)))


def find_regions(template: Template, conversation: Conversation) -> tuple[str, tuple[Region, ...]] | None:
    """The text and its regions, in order; None: the answers cannot be found in it. Raises TEMPLATE_ERRORS."""
    messages = conversation.messages
    marked = unmark(write(template, conversation, messages))
    if marked is None:
        return None
    turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
    known = usual(template)
    if template.has_generation_blocks:
        return marked.text, _of_blocks(template, conversation, marked, turns, known)
    regions = _of_contents(template, conversation, marked.text, turns, known)
    return None if regions is None else (marked.text, regions)


def _of_blocks(
    template: Template, conversation: Conversation, marked: Marked, turns: Sequence[int], known: Usual
) -> tuple[Region, ...]:
    text, blocks = marked.text, marked.blocks
    owners = turns if len(turns) == len(blocks) else [-1] * len(blocks)
    prompts: _Prompts | None = None  # mostly not needed
    regions: list[Region] = []
    for owner, block in zip(owners, blocks, strict=True):
        begin, end = start, end = block
        if _is_usual(text, start, conversation, owner, known):
            begin -= known.gap
        else:
            prompts = prompts or _Prompts(template, conversation, text)
            begin = prompts.end_near(start, end, owner if owner >= 0 else None, turns)
        if begin < start and not text[begin:start].isspace():
            begin = start
        if text.endswith(known.ends, start, end):
            regions.append(Region(begin, end, True, owner))
        else:
            regions.append(Region(begin, *_stop(text, end, known, template.special_tokens, block), owner))
    if owners is not turns:  # only the last of a turn's blocks must stop
        prompts = prompts or _Prompts(template, conversation, text)
        borders = [place for turn in turns if (place := prompts.end(turn)) is not None]
        for number, (region, after) in enumerate(pairwise(regions)):
            if not any(region.end <= border <= after.start for border in borders):
                regions[number] = region._replace(stops=True)
    return tuple(regions)


def _of_contents(
    template: Template, conversation: Conversation, text: str, turns: Sequence[int], known: Usual
) -> tuple[Region, ...] | None:
    """For a template without generation blocks: mark each answer's text, render again, see where it came out."""
    messages = conversation.messages
    plain = [index for index in turns if messages[index].content and not messages[index].tool_calls]
    marked = write_marked(template, conversation, plain, text) if plain else Marked(text, ())
    places = dict(zip(plain, marked.contents, strict=True)) if marked else {}
    prompts = _Prompts(template, conversation, text)
    regions = []
    for index in turns:
        if index in places:
            start, end = places[index]
            begin = start - known.gap
            if not _is_usual(text, start, conversation, index, known) or messages[index].reasoning:
                begin = prompts.end_near(start, end, index, turns)
                if begin == start and messages[index].reasoning:  # the prompt is no prefix: all that it thought
                    begin = _reasoning_start(text, messages[index].reasoning, start)
            end, stops = _stop(text, end, known, template.special_tokens)
        elif (turn := prompts.turn(index, known)) is not None:
            begin, end, stops = turn
        elif messages[index].content or messages[index].tool_calls:
            return None
        else:
            continue
        regions.append(Region(begin, end, stops, index))
    return tuple(regions)


class _Prompts:
    """The prompts of one conversation's turns, rendered when asked for."""

    def __init__(self, template: Template, conversation: Conversation, text: str) -> None:
        self._template, self._conversation, self._text = template, conversation, text
        self._ends: dict[int, int | None] = {}

    def end(self, index: int) -> int | None:
        """Where the prompt of message `index` ends; None: it is no prefix of the text."""
        if index not in self._ends:
            prompt = write_prompt(self._template, self._conversation, index)
            fits = prompt is not None and self._text.startswith(prompt)
            self._ends[index] = len(prompt) if prompt is not None and fits else None
        return self._ends[index]

    def end_near(self, start: int, end: int, index: int | None, turns: Sequence[int]) -> int:
        """Where the prompt of the answer in [start, end) ends; `start` where it is no prefix of the text.

        index None: the turn is not known; it is the last whose prompt ends before the answer does.
        """
        candidates = turns if index is None else [index]
        found = [place for turn in candidates if (place := self.end(turn)) is not None and place < end]
        if index is None:
            found = [place for place in found if place >= start or self._text[place:start].isspace()]
        return max(found, default=start)

    def turn(self, index: int, known: Usual) -> tuple[int, int, bool] | None:
        """(begin, end, does it end in a stop?) of a turn without a text of its own that could be marked: from the end
        of its prompt to the last token of the turn; to the first stop where the turn's end is not a prefix's end."""
        start = self.end(index)
        if start is None:
            return None
        last = index + 1 == len(self._conversation.messages)
        until = self._text if last else write_until(self._template, self._conversation, index + 1)
        if until is not None and self._text.startswith(until) and len(until) > start:
            end = start + len(until[start:].rstrip())
            return start, end, self._text.endswith(known.ends, start, end)
        place = start
        for call in self._conversation.messages[index].tool_calls:
            place = max(place, self._text.find(call["function"]["name"], place))
        found = [at + len(stop) for stop in known.ends if (at := self._text.find(stop, place)) >= 0]
        return (start, min(found), True) if found else None


def _is_usual(text: str, start: int, conversation: Conversation, index: int, known: Usual) -> bool:
    """Does the answer at `start` surely follow its prompt as in `known`?

    A prompt that ends elsewhere would have to write the answer's first letter, or another end than the text shows.
    """
    if index < 0 or not known.before or not text.endswith(known.before, 0, start):
        return False
    first = conversation.messages[index].content[:1]
    return first.isalnum() and text[start] == first and start >= len(known.before)


def _stop(text: str, end: int, known: Usual, special: SpecialTokens, block: Span | None = None) -> tuple[int, bool]:
    """(where the region ends, does it end in a stop?) for an answer that ends at `end`."""
    for stop in known.ends:
        if text.startswith(stop, end):
            return end + len(stop), True
    if block is not None and text[block[0] : block[1]].rstrip().endswith(known.ends):
        return end, True
    run = _tokens_after(text, end, special)
    for token, after in run:
        if token in known.ends:
            return after, True
    return end, False


def _tokens_after(text: str, end: int, special: SpecialTokens) -> list[tuple[str, int]]:
    """The added tokens that follow directly, white space before the first aside: (token, where it ends)."""
    pattern = _added_pattern(special)
    if pattern is None:
        return []
    place = end
    while place < len(text) and text[place].isspace():
        place += 1
    found = []
    while match := pattern.match(text, place):
        place = match.end()
        found.append((match[0], place))
    return found


@lru_cache(maxsize=32)
def _added_pattern(special: SpecialTokens) -> re.Pattern[str] | None:
    texts = sorted({text for text in (*special.added, *special.texts, *special.stops) if text}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def _end_of_turn(text: str, end: int, special: SpecialTokens) -> list[str]:
    """The token that ends the turn of a text's last answer, where none that stops does: the last of the run."""
    run = [token for token, _ in _tokens_after(text, end, special)]
    return [] if any(token in special.stops for token in run) else run[-1:]


def _answer_place(template: Template, probe: Conversation) -> tuple[str, Span] | None:
    """The text of a conversation that ends in an answer, and the answer's place: its block's, where it has one."""
    answer = probe.messages[-1].content
    try:
        marked = unmark(write(template, probe, probe.messages))
    except TEMPLATE_ERRORS:
        return None
    if marked is None or marked.text.count(answer) != 1:
        return None
    place = marked.text.index(answer)
    start = place
    if template.has_generation_blocks:
        if not marked.blocks:
            return None
        start = marked.blocks[-1][0]
    return marked.text, (start, place + len(answer))


def _end_of_call(template: Template) -> list[str]:
    """The token that ends a turn with a tool call, where the template has tools and it can be told."""
    probe = Conversation(0, (Message("user", "Why?"), Message("assistant", "", tool_calls=(_CALL,))), tools=(_TOOL,))
    try:
        marked = unmark(write(template, probe, probe.messages))
    except TEMPLATE_ERRORS:
        return []
    pattern, text = _added_pattern(template.special_tokens), marked.text.rstrip() if marked else ""
    tokens = [match[0] for match in pattern.finditer(text) if match.end() == len(text)] if pattern else []
    return [] if tokens and tokens[0] in template.special_tokens.stops else tokens


def _common_end(texts: Sequence[str]) -> str:
    first, *others = (text[::-1] for text in texts)
    size = next((i for i, c in enumerate(first) if any(o[i : i + 1] != c for o in others)), len(first))
    return first[:size][::-1]


def _reasoning_start(text: str, reasoning: str, end: int) -> int:
    found = text.rfind(reasoning.strip(), 0, end)
    return found if found >= 0 else end
