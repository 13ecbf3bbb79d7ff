"""What can be measured or mended in a text without knowing its language: form, length, repetition, symbols."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from raysft.data.records import Conversation, Message
from raysft.data.rules.record.content import is_spaceless, units
from raysft.recipe.cleaning import Length

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")  # without those that end a line
_CLEAN_ASCII = bytes(code for code in range(128) if code in b"\t\n" or 32 <= code < 127)
_SURROGATES = re.compile("[\ud800-\udfff]")
# What emoji sequences are made of, but for the joiner.
_EMOJI = "\u20e3\u203c\u2049\u2100-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff"
_JOINING = "\u0590-\u109f\u1780-\u18af\ua800-\uabff\U00010a00-\U00011fff"  # Arabic, Indic, Thai, Khmer, Mongolian...
_SPACING = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # a zero-width space is their word border
_INVISIBLE = re.compile(
    "(\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)"  # flags of regions: kept
    "|[\u00ad\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
    f"|(?<![{_SPACING}])\u200b|\u200b(?![{_SPACING}])"
    f"|(?<![{_JOINING}])\u200c"
    f"|(?<![{_JOINING}{_EMOJI}])\u200d|(?<=[{_EMOJI}])\u200d(?![{_EMOJI}])"
)
_BLANK_LINES = re.compile(r"\n{4,}")
_LETTERS_DIGITS_SPACE = bytes(code for code in range(128) if chr(code).isalnum() or chr(code).isspace())


def normalise(text: str, form: Literal["NFC", "NFKC"] = "NFC") -> str:
    """The clean text: Unicode form, line ends, nothing invisible, no trailing blanks, at most two blank lines.

    Blanks at the start of a line and inside it stay: they are code and tables. Zero-width joiners stay where they
    carry meaning (Unicode 16, 9.2 and 12.1; UTS 51): after letters of joining scripts and between emoji.
    """
    if text.isascii() and _is_clean_ascii(text):
        return text
    text = _LINE_ENDS.sub("\n", text)
    text = _CONTROLS.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize(form, _SURROGATES.sub("\ufffd", text))
        while (seen := unicodedata.normalize(form, _INVISIBLE.sub(lambda found: found[1] or "", text))) != text:
            text = seen  # marks that came together have changed places: what stands before a joiner is another
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")


def _is_clean_ascii(text: str) -> bool:
    """The usual case, told without rewriting."""
    blanks = " \n" in text or "\t\n" in text or "\n\n\n\n" in text or text[:1] == "\n" or text[-1:].isspace()
    return not blanks and not text.encode().translate(None, _CLEAN_ASCII)


def length_hits(conversation: Conversation, rule: Length) -> list[tuple[str, str]]:
    """(kind, detail) of each bound that is broken. A tool call counts as text; plain text has no prompt."""
    last = conversation.last_assistant
    answer = conversation.messages[last]
    measured = [("answer", _num_chars((answer,)), rule.min_answer_chars, rule.max_answer_chars)]
    if answer.role != "text":
        prompt = _num_chars(conversation.messages[:last])
        measured.insert(0, ("prompt", prompt, rule.min_prompt_chars, rule.max_prompt_chars))
    hits = []
    for name, num_chars, least, most in measured:
        if num_chars < least:
            hits.append((f"{name}_too_short", f"{num_chars:,} characters; at least {least:,}"))
        elif num_chars > most:
            hits.append((f"{name}_too_long", f"{num_chars:,} characters; at most {most:,}"))
    return hits


def _num_chars(messages: Sequence[Message]) -> int:
    """Characters without the blanks around each message."""
    return sum(len(m.content.strip()) + (len(str(m.tool_calls)) if m.tool_calls else 0) for m in messages)


def repetition(text: str) -> dict[str, float]:
    """Shares of characters that only repeat, after Gopher's rules (Rae et al. 2021, A1.1); all in linear time.

    - `duplicate_lines`: in lines that stood before.
    - `top_ngram`: in repeats of one 3-gram of words (5 characters of a script without spaces).
    - `duplicate_ngrams`: in 10-grams (15 characters) that stood before: loops of whole sentences.

    Gopher's top n-gram fraction, made for pages, counts the first occurrence too and refuses 2% of GSM8K's answers
    (two lines of sums). Here, as with lines, the first is no repeat, and twice is no pattern: 0.03% are refused.
    """
    spaceless = is_spaceless(text)
    small, large = (5, 15) if spaceless else (3, 10)
    words = units(text) if spaceless else text.lower().split()
    grams = _ngrams(words, small)
    counts = Counter(grams)
    repeated = len(grams) - len(counts)
    num_chars = sum(map(len, words))
    top = _top(counts) / num_chars if repeated > 1 else 0.0
    # A large one that comes again repeats this many small ones: most texts need no more work.
    duplicate = _num_covered(words, large) / num_chars if repeated > large - small else 0.0
    return {"duplicate_lines": _duplicate_lines(text), "top_ngram": min(1.0, top), "duplicate_ngrams": duplicate}


def _duplicate_lines(text: str) -> float:
    if "\n" not in text:
        return 0.0
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    total = sum(map(len, lines))
    return 1 - sum(map(len, set(lines))) / total if total else 0.0


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def _top(counts: Counter[tuple[str, ...]]) -> int:
    """Characters of the repeats of the n-gram that has most of them."""
    repeats = [(gram, count - 1) for gram, count in counts.items() if count > 2]
    return max((sum(map(len, gram)) * count for gram, count in repeats), default=0)


def _num_covered(words: list[str], n: int) -> int:
    """Characters of the words inside n-grams that stood before."""
    seen: set[tuple[str, ...]] = set()
    num_chars = covered = 0
    for start, gram in enumerate(_ngrams(words, n)):
        if gram in seen:
            num_chars += sum(map(len, words[max(start, covered) : start + n]))
            covered = start + n
        seen.add(gram)
    return num_chars


def symbol_ratio(text: str) -> float:
    """Share of characters that are neither letters, marks, digits nor white space."""
    if text.isascii():
        return len(text.encode().translate(None, _LETTERS_DIGITS_SPACE)) / len(text) if text else 0.0
    counts = Counter(text)
    symbols = sum(n for c, n in counts.items() if unicodedata.category(c)[0] not in "LMN" and not c.isspace())
    return symbols / len(text)


def special_token_pattern(tokens: Sequence[str]) -> re.Pattern[str] | None:
    """Finds any of a tokenizer's special tokens, the longest first."""
    spelled = sorted({token for token in tokens if token}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, spelled))) if spelled else None
