"""Keys, tokens and passwords in a text, by the forms that their issuers document and by what they are assigned to."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

_ISSUED = (
    ("AKIA", r"AKIA[A-Z0-9]{16}"),  # AWS access keys
    ("ASIA", r"ASIA[A-Z0-9]{16}"),
    ("gh", r"gh[pousr]_[A-Za-z0-9]{36,255}"),  # GitHub
    ("github_pat_", r"github_pat_[A-Za-z0-9_]{22,255}"),
    ("glpat-", r"glpat-[A-Za-z0-9_-]{20,64}"),  # GitLab
    ("xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,250}"),  # Slack
    ("AIza", r"AIza[A-Za-z0-9_-]{35}"),  # Google
    ("hf_", r"hf_[A-Za-z0-9]{34}"),  # Hugging Face
    ("k_live_", r"[sr]k_live_[A-Za-z0-9]{16,128}"),  # Stripe
    ("eyJ", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),  # JSON web tokens (RFC 7519)
)
_FORMS = [(mark, re.compile(rf"(?<![A-Za-z0-9_-]){form}(?![A-Za-z0-9_-])")) for mark, form in _ISSUED]
_SK = re.compile(r"(?<![A-Za-z0-9_-])sk-[A-Za-z0-9_-]{20,256}")  # OpenAI, Anthropic and others
_PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"
    r"(?:[A-Za-z0-9+/=\s\\:,.-]{0,20000}?-----END [A-Z ]{0,30}PRIVATE KEY-----"
    r"|(?:\s*[A-Za-z0-9+/=]{16,})*(?:\n[A-Za-z0-9+/=]+\s*\Z)?)"
)
_BEARER = re.compile(r"\bbearer\s+([A-Za-z0-9._~+/-]{16,}=*)", re.IGNORECASE)
_BASIC = re.compile(r"\bauthorization[\"']?\s*[:=]\s*[\"']?basic\s+([A-Za-z0-9+/]{8,}=*)", re.IGNORECASE)
_IN_URL = re.compile(r"://([^\s:/@\"'<>]{1,64}:[^\s/@\"'<>]{3,64}@[A-Za-z0-9.-]+)")  # user:password@host, whole
_ASSIGNED = re.compile(
    r"(?:password|passwd|passphrase|pwd|secret|token|(?:api|secret|access|private)[_ -]?key|密码|口令)"
    r"[\"']?\s{0,3}(?:[:=：]|是|is)\s{0,3}[\"'“]?([A-Za-z0-9+/_\-=!@#$%^&*~.]{8,256})(?![\w(\[{<])",
    re.IGNORECASE,
)
_ASSIGNED_MARKS = ("passw", "passphrase", "pwd", "secret", "key", "token", "密码", "口令")
_PLACEHOLDER = re.compile(
    r"your|example|placeholder|change.?me|x{4}|\*{3}|\.{3}|redacted|dummy|insert", re.IGNORECASE
)


def secrets(text: str) -> Iterator[tuple[int, int]]:
    """Where secrets stand; of `password=...` and `Bearer ...` only the value."""
    for mark, form in _FORMS:
        if mark in text:
            yield from (match.span() for match in form.finditer(text))
    if "sk-" in text:
        yield from (match.span() for match in _SK.finditer(text) if _is_random(match[0][3:]))
    if "PRIVATE KEY-----" in text:
        yield from (match.span() for match in _PEM.finditer(text))
    lowered = text.lower()
    if "bearer" in lowered:
        yield from (match.span(1) for match in _BEARER.finditer(text) if _is_random(match[1]))
    if "basic" in lowered:
        yield from (match.span(1) for match in _BASIC.finditer(text))
    if "://" in text and "@" in text:
        yield from (match.span(1) for match in _IN_URL.finditer(text))
    if any(mark in lowered for mark in _ASSIGNED_MARKS):
        for match in _ASSIGNED.finditer(text):
            value = match[1].rstrip(".")  # the sentence's
            if _is_secret_value(value):
                yield match.start(1), match.start(1) + len(value)


def _is_secret_value(value: str) -> bool:
    """A password (three kinds of characters) or a random key, and not the name of one."""
    if len(value) < 8 or _PLACEHOLDER.search(value):
        return False
    symbols = re.search(r"[!@#$%^&*~+=]", value) is not None  # those that names of things do not have
    kinds = sum(re.search(kind, value) is not None for kind in ("[a-z]", "[A-Z]", "[0-9]")) + symbols
    return _is_random(value) or (kinds >= 3 and _bits_per_char(value) >= 2.5)


def _is_random(value: str) -> bool:
    """Letters and digits mixed, no long words: what generators give and people do not write."""
    return (
        len(value) >= 16
        and re.search("[0-9]", value) is not None
        and re.search("[A-Za-z]", value) is not None
        and _bits_per_char(value) >= 3.0
        and len(re.findall("[0-9]", value)) * 12 >= len(value)
    )


def _bits_per_char(text: str) -> float:
    """Shannon entropy of its characters."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
