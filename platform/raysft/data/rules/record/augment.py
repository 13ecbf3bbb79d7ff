"""Augmentation: other ways to write what the user said; answers are never touched. The caller brings the dice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from raysft.data.records import Conversation
from raysft.data.rules.record.content import SPACELESS, rewrite, tagged
from raysft.data.rules.record.words import Lexicon

_TYPED = re.compile(  # words that typing errors happen in: not numbers, addresses, code or what has marks
    rf"(?<!\S)[^\W\d_{SPACELESS}]{{3,}}(?=[，。！？]|[.,;:!?)]*(?:\s|$))"
    rf"|(?<!\w)[{SPACELESS}]{{2,4}}|(?<=[{SPACELESS}])[{SPACELESS}]{{2,4}}"
)


def dice(*key: object) -> Random:
    """Random numbers of a key: the same in every process (Python's own hash() is not)."""
    return Random(hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).digest())


def variants(
    conversation: Conversation,
    change: Callable[[Conversation, int], Conversation],
    *,
    copies: int,
    tag: str,
) -> list[Conversation]:
    """The original and `copies` changed ones, or with 0 copies the changed one alone. `change` gets the copy's index.

    A copy without a change would only repeat the record: it is left out.
    """
    changed = [change(conversation, copy) for copy in range(max(copies, 1))]
    marked = [tagged(variant, tag) for variant in changed if variant is not conversation]
    return [conversation, *marked] if copies else marked or [conversation]


def noisy(conversation: Conversation, probability: float, random: Random, *, at_least_one: bool) -> Conversation:
    """Typing errors in the user's words: two letters swapped, one left out or one doubled."""

    def misspell(found: re.Match[str]) -> str:
        return _misspelt(found[0], random) if random.random() < probability else found[0]

    changed = rewrite(conversation, lambda text: _TYPED.sub(misspell, text), roles=("user",))
    if changed is not conversation or not at_least_one:
        return changed
    places = [
        (index, found.span())
        for index, message in enumerate(conversation.messages)
        if message.role == "user"
        for found in _TYPED.finditer(message.content)
    ]
    if not places:
        return conversation
    index, (start, end) = random.choice(places)
    text = conversation.messages[index].content
    return _with_content(conversation, index, text[:start] + _misspelt(text[start:end], random) + text[end:])


def _misspelt(word: str, random: Random) -> str:
    """Another spelling than the word's own."""
    place = random.randrange(len(word) - 1)
    swapped = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    kinds = [word[: place + 1] + word[place:]]
    if len(word) > 2:
        kinds.append(word[: place + 1] + word[place + 2 :])
    if swapped != word:
        kinds.append(swapped)
    return random.choice(kinds)


def with_synonyms(
    conversation: Conversation,
    table: dict[str, tuple[str, ...]],
    lexicon: Lexicon,
    probability: float,
    random: Random,
) -> Conversation:
    """The user's words replaced from the table. `lexicon` finds its words; a hit is called by the word's entry."""

    def change(text: str) -> str:
        for span in reversed(lexicon.find(text)):
            if random.random() < probability:
                word, synonym = text[span.start : span.end], random.choice(table[span.kind])
                text = text[: span.start] + _cased_like(word, synonym) + text[span.end :]
        return text

    return rewrite(conversation, change, roles=("user",))


def _cased_like(word: str, synonym: str) -> str:
    if len(word) > 1 and word.isupper():
        return synonym.upper()
    return synonym[:1].upper() + synonym[1:] if word[:1].isupper() else synonym


def choose_templates(templates: Sequence[str], num: int, random: Random) -> list[str]:
    """`num` templates, each once before any comes again."""
    chosen: list[str] = []
    while len(chosen) < num:
        chosen += random.sample(templates, min(len(templates), num - len(chosen)))
    return chosen


def expanded(conversation: Conversation, template: str) -> Conversation:
    """The first user message written into the template."""
    for index, message in enumerate(conversation.messages):
        if message.role == "user":
            text = template.replace("{prompt}", message.content)
            return conversation if text == message.content else _with_content(conversation, index, text)
    return conversation


def _with_content(conversation: Conversation, index: int, content: str) -> Conversation:
    messages = list(conversation.messages)
    messages[index] = replace(messages[index], content=content)
    return replace(conversation, messages=tuple(messages))
