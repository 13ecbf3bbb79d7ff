"""The last thing that an answer comes to, as GSM8K and MATH are scored: after `####`, in a box, or the last number.

Numbers are compared as numbers: 1,000 is 1000.0, $18 is 18, 3/4 is 0.75, and full-width digits are digits.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from raysft.metrics.base import Answer, share

_MARK = "####"
_MOST_DIGITS = 1000
"""Longer numbers are none: a model that repeats a digit has no result."""
_NUMBER = (
    r"(?<![A-Za-z0-9_.])(?P<sign>[-+]\s?)?[$€£¥]?\s?(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<part>\.\d+)?"
    r"(?P<power>[eE][-+]?\d{1,3}(?!\w))?(?:\s?/\s?(?P<below>\d+(?:\.\d+)?))?"
)
_NUMBERS = re.compile(_NUMBER)
_ALONE = re.compile(rf"{_NUMBER}\s*%?(?:\s+[^\W\d_]+)*")
"""A number with its unit and nothing else."""
_FRACTION = re.compile(r"(?:(?<!\d)(\d{1,18})\s{0,3})?\\[dt]?frac\s?\{\s?(\d{1,18})\s?\}\s?\{\s?([1-9]\d{0,17})\s?\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s?(\d)([1-9])(?!\d)")
"""LaTeX takes a digit each without braces."""
_GROUPED = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")
"""Thin and fixed blanks between thousands (ISO 80000-1); a blank that may break a line stands between numbers."""
_TEXT = re.compile(r"\\(?:text|mathrm|textbf)\s?\{([^{}]*)\}")
_PLAIN = {
    "{,}": ",",
    "\\,": "",
    "\\!": "",
    "\\$": "$",
    "\\%": "%",
    "^\\circ": "",
    "^{\\circ}": "",
    "−": "-",
    "–": "-",
}


def final_answer(text: str) -> Fraction | str | None:
    """The last result that a text gives: a number where there is one, else its words; None: no result is marked and
    there is no number."""
    text = unicodedata.normalize("NFKC", "".join(map(_plain_character, _GROUPED.sub("", text))))
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    for written, plain in _PLAIN.items():
        text = text.replace(written, plain)
    text = _FRACTION.sub(_quotient, text)
    _, mark, after = text.rpartition(_MARK)
    if mark:
        line = next(iter(after.strip().splitlines()), "")
        found = numbers(line)
        return found[0] if found else _words(line)
    content = _box(text)
    if content is None:
        return next(reversed(numbers(text)), None)
    content = _TEXT.sub(r" \1 ", content)
    alone = _ALONE.fullmatch(content.rpartition("=")[2].strip(" \t\n{}"))
    number = _value(alone) if alone else None
    return _words(content) if number is None else number


def numbers(text: str) -> list[Fraction]:
    """All numbers of a text, in order, without units."""
    return [number for one in _NUMBERS.finditer(text) if (number := _value(one)) is not None]


def is_same_result(answer: Answer) -> bool:
    """Does it come to what its reference comes to? Words are also compared with an answer that is nothing else; where
    the reference gives no result, the whole texts are compared."""
    wanted = final_answer(answer.reference)
    if wanted is None:
        words = _words(answer.reference)
        is_same = answer.text.strip() == answer.reference.strip() or final_answer(answer.text) == words
        return words is not None and is_same
    return final_answer(answer.text) == wanted or (isinstance(wanted, str) and _words(answer.text) == wanted)


def _plain_character(character: str) -> str:
    r"""`½` as `\frac{1}{2}`: NFKC would make 61/2 of 6½."""
    if unicodedata.category(character) != "No":
        return character
    above, slash, below = unicodedata.normalize("NFKC", character).partition("\u2044")
    return f"\\frac{{{above}}}{{{below}}}" if slash and above and below else character


def _value(found: re.Match[str]) -> Fraction | None:
    """None: it holds no digit, or far too many."""
    longest = max(len(found[name] or "") for name in ("whole", "part", "below"))
    if longest > _MOST_DIGITS or (found["whole"] is None and found["part"] is None):
        return None
    number = Fraction((found["whole"] or "0").replace(",", "") + (found["part"] or "") + (found["power"] or ""))
    if found["below"] and Fraction(found["below"]):
        number /= Fraction(found["below"])
    return -number if (found["sign"] or "").startswith("-") else number


def _quotient(found: re.Match[str]) -> str:
    r"""`6\frac{1}{2}` as ` 13/2`."""
    number = int(found[1] or 0) + Fraction(int(found[2]), int(found[3]))
    return f" {number.numerator}/{number.denominator}"


def _box(text: str) -> str | None:
    r"""What the last `\boxed{}` holds, whose braces may be nested; None: there is none that is whole."""
    start = text.rfind("\\boxed{")
    depth = 0
    for place in range(start, len(text)) if start >= 0 else ():
        depth += (text[place] == "{") - (text[place] == "}")
        if text[place] == "}" and not depth:
            return text[start + len("\\boxed{") : place]
    return None


def _words(text: str) -> str | None:
    """Without case, white space and what stands around; None: nothing is left."""
    return "".join(text.split()).strip(".$").lower() or None


FINAL_ANSWER = share("final_answer", "right final answers", is_same_result)
