"""Personal data and secrets in a text: where they stand. Masks and refusals are the cleaner's.

Precision comes first: numbers count only where a checksum, a valid prefix or the way they are written says so.
Digits are ASCII digits: full-width ones are found after `normalise` with form NFKC.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date

from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import luhn
from stdnum.cn import ric
from stdnum.us import ssn

from raysft.data.rules.record.content import TextSpan, longest_first
from raysft.data.rules.record.secrets import secrets

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}([A-Za-z]{2,24})(?![A-Za-z0-9])"
)
_NOT_A_DOMAIN = {"png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "html"}  # icon@2x.png
_DIGITS = re.compile(r"[0-9](?:[ ().\-/]{0,3}[0-9]){6}")
"""What a phone, an id or a card has at least: seven digits close together."""
_PHONE = re.compile(
    r"(?<![0-9A-Za-z_.,/=*^$€£¥-])[+(]{0,2}[0-9](?:[ ().\-]{0,3}[0-9]){6,16}(?![0-9A-Za-z]|[.,][0-9]|[ ]?[=*^%/])"
)
_PHONE_GROUPS = re.compile(
    r"(?:1[-. ]?)?\([0-9]{3}\) ?[0-9]{3}[-. ][0-9]{4}|(?:1[-. ])?[0-9]{3}([-.])[0-9]{3}\1[0-9]{4}"  # US
    r"|(?:86[- ])?1[3-9][0-9](?:[0-9]{8}|([- ])[0-9]{4}\2[0-9]{4})"  # China: mobile
    r"|(?:0[0-9]{2,3}-|\(0[0-9]{2,3}\) ?)[0-9]{3,4}[- ]?[0-9]{4}"  # China: landline
)
_CALLED_WORDS = (
    r"(?:phone|tel|call|cell|mobile|fax|contact|dial|text|sms|whatsapp|wechat|reach|number is"
    r"|电话|手机|联系|致电|拨打|传真|号码|热线|微信)"
)
_CALLED = re.compile(_CALLED_WORDS + r"\W{0,3}(?:\w+\W{1,3}){0,3}$", re.IGNORECASE)
_CALLED_WORD = re.compile(_CALLED_WORDS, re.IGNORECASE)
_MOST_ASKED = 1000
"""Candidates of one text that the library for phone numbers is asked about."""
_CHINA_ID = re.compile(r"(?<![0-9A-Za-z])[1-8][0-9]{16}[0-9Xx](?![0-9A-Za-z])")
_SSN = re.compile(r"(?<![0-9A-Za-z.-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![0-9A-Za-z]|-[0-9])")
_NAMED_SSN = re.compile(
    r"(?:\bssn|\bsocial security)\b[^0-9\n]{0,24}([0-9]{3} ?[0-9]{2} ?[0-9]{4})(?![0-9A-Za-z])", re.IGNORECASE
)
_CARD = re.compile(r"(?<![0-9A-Za-z.])[0-9](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z]|[.][0-9]|[ -][0-9])")
_CARD_PREFIXES = (
    (re.compile("4"), (13, 16, 19)),  # Visa
    (re.compile("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile("3[47]"), (15,)),  # American Express
    (re.compile("6011|64[4-9]|65"), (16, 17, 18, 19)),  # Discover
    (re.compile("352[89]|35[3-8]"), (16, 17, 18, 19)),  # JCB
    (re.compile("30[0-5]|309|3[689]"), (14,)),  # Diners
    (re.compile("62"), (16, 17, 18, 19)),  # UnionPay
    (re.compile("220[0-4]"), (16,)),  # Mir
)
"""Issuer prefixes (ISO/IEC 7812) and lengths of the large networks."""
_CARD_GROUPS = {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (6, 13), (4, 4, 4, 4, 2), (4, 4, 4, 4, 1)}
_CARD_NAMED = re.compile("card|visa|卡", re.IGNORECASE)
_V4 = re.compile(r"(?<![0-9A-Za-z_.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z_]|\.[0-9])")
_NOT_V4 = re.compile(
    r"(?:\bv|ver\.?|version[\W_]{0,8}|release|build|rev|section|sec\.|chapter|figure|fig\.|table|clause|article|step|§|[^/:]/"
    r"|版本|章|节|图|表)\s?$",
    re.IGNORECASE,
)
_HEADING = re.compile(r"\.?[ \t]+[^\W\d_]")
_V6 = re.compile(r"(?<![0-9A-Za-z_:.])[0-9A-Fa-f]{1,4}(?:::?[0-9A-Fa-f]{1,4}){1,7}(?:::)?(?![0-9A-Za-z_:])")
_V6_ROUTED = re.compile("[23][0-9a-f]{3}:|f[cd][0-9a-f]{2}:|fe[89ab][0-9a-f]:", re.IGNORECASE)


def find_pii(text: str, kinds: Sequence[str], phone_regions: Sequence[str] = ()) -> list[TextSpan]:
    """What is found of `kinds`, the longest of those that overlap; ids before cards of the same place."""
    found: list[TextSpan] = []
    numbers = _DIGITS.search(text) is not None
    for kind in kinds:
        if kind == "phone":
            if numbers:
                found += (TextSpan(start, end, kind) for start, end in _phones(text, phone_regions))
        elif numbers or kind not in _OF_DIGITS:
            found += (TextSpan(start, end, kind) for start, end in _FINDERS[kind](text))
    return longest_first(found, len(text)) if found else found


def _emails(text: str) -> Iterator[tuple[int, int]]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if match[1].lower() not in _NOT_A_DOMAIN and not match[0].startswith("git@"):
                yield match.span()


def _phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Numbers that are valid in a region or with a country code, and are written or named like a phone number.

    The library takes half a millisecond for each candidate. It is asked for those only that would be taken if it
    agreed, and of a text with more than a thousand of them for the first thousand: the rest count without it.
    """
    num_asked = 0
    for match in _PHONE.finditer(text):
        if not _may_be_a_phone(text, match):
            continue
        num_asked += 1
        if num_asked > _MOST_ASKED:
            yield match.span()
            continue
        before = max(0, match.start() - 1)
        around = text[before : match.end() + 1]  # the library looks at the neighbours
        for region in regions or (None,):
            for hit in PhoneNumberMatcher(around, region, leniency=Leniency.VALID):
                start = before + hit.start
                if _written_like_a_phone(hit.raw_string) or _is_called_so(text, start):
                    yield start, start + len(hit.raw_string)


def _may_be_a_phone(text: str, match: re.Match[str]) -> bool:
    """Could any part of a candidate be written or named like a phone number? Costs microseconds."""
    number = text[max(0, match.start() - 1) : match.end() + 1]
    if "+" in number or "00" in number or _PHONE_GROUPS.search(number) is not None:
        return True
    return _CALLED_WORD.search(text, max(0, match.start() - 40), match.start()) is not None


def _written_like_a_phone(number: str) -> bool:
    """With a country code, an area code in brackets, the groups of its country, or as a Chinese mobile number."""
    return number.startswith(("+", "00")) or _PHONE_GROUPS.fullmatch(number) is not None


def _is_called_so(text: str, start: int) -> bool:
    return _CALLED.search(text[max(0, start - 40) : start]) is not None


def _china_ids(text: str) -> Iterator[tuple[int, int]]:
    for match in _CHINA_ID.finditer(text):
        number = match[0].upper()
        if number[-1] == ric.calc_check_digit(number) and _is_birth_date(number[6:14]):
            yield match.span()


def _is_birth_date(digits: str) -> bool:
    try:
        return 1880 <= date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).year <= 2100
    except ValueError:
        return False


def _ssns(text: str) -> Iterator[tuple[int, int]]:
    for match in _SSN.finditer(text):
        if ssn.is_valid(match[0]):
            yield match.span()
    for match in _NAMED_SSN.finditer(text):
        if ssn.is_valid(match[1].replace(" ", "")):
            yield match.span(1)


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        groups = re.split("[ -]", match[0])
        number = "".join(groups)
        if len(groups) > 1 and (
            tuple(map(len, groups)) not in _CARD_GROUPS or len(set(re.findall("[ -]", match[0]))) > 1
        ):
            continue
        known = any(len(number) in lengths and prefix.match(number) for prefix, lengths in _CARD_PREFIXES)
        if len(number) == 13 and not _CARD_NAMED.search(text, max(0, match.start() - 30), match.start()):
            continue  # not issued for decades, while products of 13 digits are common
        if known and len(set(number)) > 2 and luhn.is_valid(number):
            yield match.span()


def _ips(text: str) -> Iterator[tuple[int, int]]:
    """Addresses of hosts: not loopback, masks, `0.0.0.0`, versions or section numbers."""
    if text.count(".") >= 3:
        for match in _V4.finditer(text):
            if _is_host(match[0]) and not _NOT_V4.search(text, max(0, match.start() - 20), match.start()):
                at_line_start = text[max(0, match.start() - 1) : match.start()] in ("", "\n")
                small = all(int(part) < 30 for part in match[0].split("."))
                if not (at_line_start and small and _HEADING.match(text, match.end())):
                    yield match.span()
    if text.count(":") >= 2:
        for match in _V6.finditer(text):
            if _V6_ROUTED.match(match[0]) and _is_host(match[0]):
                yield match.span()


def _is_host(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (
        parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast or address.startswith(("0.", "255."))
    )


_FINDERS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email": _emails,
    "china_id": _china_ids,
    "us_ssn": _ssns,
    "bank_card": _cards,
    "ip": _ips,
    "secret": secrets,
}
_OF_DIGITS = {"phone", "china_id", "us_ssn", "bank_card"}
