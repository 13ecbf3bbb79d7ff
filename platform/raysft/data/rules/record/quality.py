"""A quality score of an answer: the mean of named components in [0, 1], measured, not learned.

It tells damaged text (shuffled, cut off, looping) from whole text. It does not know whether an answer is right.
"""

from __future__ import annotations

import re

from raysft.data.records import Conversation
from raysft.data.rules.record.content import SPACELESS, answer_of, is_spaceless, prompt_of, units
from raysft.data.rules.record.text import repetition, symbol_ratio

_MAX_CHARS = 20_000
"""Most characters that are looked at of an answer, and of a prompt: more says nothing new."""
_FULL_WORDS = 8
_WINDOW = 50
_COMPLETE = re.compile(
    r"(?:[.!?…。！？｡।؟;；:：|*_~`)\]}>）】》」』\"'”’%$€£¥]"  # the end of a sentence, a list head, code or markup
    r"|[\d\u00b2\u00b3\u00b9²³]\w{0,3}|[^\w\s])\s*$"  # a number with its unit; an emoji
)
_TOKEN = re.compile(rf"[{SPACELESS}]|[^\s{SPACELESS}]+")
_WORD_SHAPE = re.compile(
    rf"[\W_]*(?:[{SPACELESS}]"
    r"|[^\W\d_]?[a-zß-öø-ÿ]*|[A-Z]{2,}s?|[^\W\d_A-Za-z]+"  # Word, word, WORD, letters of other scripts
    r"|[+-]?\d[\d.,:/%]*\w{0,3})"  # a number, perhaps with a unit
    r"(?:['’\-/&._][^\W_]+)*[\W_]*"  # it's, well-known, and/or, file.name
)
_UNSPOKEN = re.compile(r"[bcdfghjklmnpqrstvwxz]{5}|[aeiou]{4}|^[bcdfghjklmnpqrstvwxz]{2,}$")


def quality_score(components: dict[str, float]) -> float:
    """Their mean; 1 where nothing could be measured (an answer that is only a tool call)."""
    return sum(components.values()) / len(components) if components else 1.0


def quality_components(conversation: Conversation) -> dict[str, float]:
    """The components of the last answer, by name; each 1 for text as people write it.

    - `length`: words, up to 8 (characters in scripts without spaces).
    - `diversity`: moving-average type-token ratio over 50 words (Covington & McFall 2010), full from 0.6.
    - `symbols`: 1 - the share of symbols beyond 10% (after Gopher's symbol ratio, Rae et al. 2021, A1.1).
    - `repetition`: 1 - the largest share of repeated lines and n-grams (Gopher, A1.1).
    - `complete`: ends like a sentence, a number or code (C4's terminal punctuation, Raffel et al. 2020, 2.2).
    - `shape`: words shaped like words, with case, digits and vowels where they belong: 0 at half of them, 1 from 90%
      (our own; Gopher asks for a letter in 80% of the words).
    - `difference`: share of the answer's words that are not taken from the prompt in the prompt's order.
    """
    message = answer_of(conversation)
    answer = message.content.strip()[:_MAX_CHARS]
    if not answer and message.tool_calls:
        return {}
    words = units(answer.lower())
    components = {
        "length": min(1.0, len(words) / _FULL_WORDS),
        "diversity": _diversity(words, 0.4 if is_spaceless(answer) else 0.6),
        "symbols": min(1.0, max(0.0, 1.1 - symbol_ratio(answer))) if answer else 0.0,
        "repetition": 1 - max(repetition(answer).values()),
        "complete": _complete(answer, cut=len(message.content) > _MAX_CHARS, num_words=len(words)),
        "shape": _shape(answer),
    }
    prompt = "\n".join(turn.content for turn in prompt_of(conversation) if turn.role == "user")
    if prompt:
        components["difference"] = _difference(units(prompt[:_MAX_CHARS].lower()), words)
    return components


def _diversity(words: list[str], full: float) -> float:
    """Distinct words among 50, the mean of windows half a window apart, relative to `full`."""
    if not words:
        return 0.0
    starts = range(0, max(1, len(words) - _WINDOW + 1), _WINDOW // 2)
    ratios = [len(set(window)) / len(window) for window in (words[start : start + _WINDOW] for start in starts)]
    return min(1.0, sum(ratios) / len(ratios) / full)


def _complete(answer: str, *, cut: bool, num_words: int) -> float:
    """Short answers (a name, a label) need no full stop."""
    return float(cut or 0 < num_words < _FULL_WORDS or _COMPLETE.search(answer[-20:]) is not None)


def _shape(answer: str) -> float:
    tokens = _TOKEN.findall(answer)
    if not tokens:
        return 0.0
    share = sum(map(_is_shaped, tokens)) / len(tokens)
    return min(1.0, max(0.0, (share - 0.5) / 0.4))  # shuffled letters still give 70%


def _is_shaped(token: str) -> bool:
    if len(token) > 40:
        return False
    core = token.strip(".,;:!?\"'()[]*")
    return _WORD_SHAPE.fullmatch(token) is not None and not (core.islower() and _UNSPOKEN.search(core))


def _difference(prompt: list[str], answer: list[str]) -> float:
    """1 - the share of the answer's word 3-grams that stand in the prompt; short answers count as new."""
    grams = list(zip(answer, answer[1:], answer[2:], strict=False))
    if len(grams) < _FULL_WORDS:
        return 1.0
    known = set(zip(prompt, prompt[1:], prompt[2:], strict=False))
    return 1 - sum(gram in known for gram in grams) / len(grams)
