"""A recipe's record rules put together: what each does to a conversation, in the recipe's order, counted."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

from phonenumbers import SUPPORTED_REGIONS

from raysft.data.records import Conversation, Refusal
from raysft.data.rules.record import augment
from raysft.data.rules.record.content import TextSpan, rewrite, tagged, texts
from raysft.data.rules.record.language import UNDETERMINED, known_languages, language_of
from raysft.data.rules.record.pii import find_pii
from raysft.data.rules.record.quality import quality_components, quality_score
from raysft.data.rules.record.text import length_hits, normalise, repetition, special_token_pattern, symbol_ratio
from raysft.data.rules.record.user_function import call, load_function, source_hash
from raysft.data.rules.record.words import Lexicon, read_synonyms, read_word_list
from raysft.errors import DataError, RecipeError
from raysft.recipe import cleaning as r
from raysft.storage import read_bytes

_LIBRARIES = {"pii": ("phonenumbers", "python-stdnum"), "language": ("py3langid",)}
"""Their data decides what these rules find, so their versions are part of the fingerprint."""
_MAX_PASSES = 8


class Cleaned(NamedTuple):
    """What the rules made of a record. `refusal` stands only where no conversation is left."""

    conversations: tuple[Conversation, ...]
    refusal: Refusal | None
    findings: tuple[str, ...]
    """Every hit of every rule, whatever came of it: `normalise`, `pii.email`, `language.fr`; to be counted."""


class _Outcome(NamedTuple):
    conversations: Sequence[Conversation]
    findings: Sequence[str] = ()
    refusal: Refusal | None = None


_Step = Callable[[Conversation, int], _Outcome]
"""A rule at work. The number tells the variants of one record apart."""


class Cleaner:
    """The record rules of `rules` with their files read and functions imported; rules on whole data are left out.

    Raises DataError for a file that cannot be used, with its line, and RecipeError for a field.
    """

    def __init__(self, rules: Sequence[r.Rule], *, seed: int, special_tokens: Sequence[str] = ()) -> None:
        here = [rule for rule in rules if not isinstance(rule, r.WHOLE_DATA)]
        self._steps = [_step(rule, (seed, place), special_tokens) for place, rule in enumerate(here)]

    def apply(self, conversation: Conversation) -> Cleaned:
        """The conversations that are left: none, one, or several after augmentation."""
        current: Sequence[Conversation] = (conversation,)
        findings: list[str] = []
        refusal: Refusal | None = None
        for step in self._steps:
            kept: list[Conversation] = []
            for variant, one in enumerate(current):
                outcome = step(one, variant)
                findings += outcome.findings
                kept += outcome.conversations
                refusal = refusal or outcome.refusal
            current = kept
            if not kept:
                return Cleaned((), refusal, tuple(findings))
        return Cleaned(tuple(current), None, tuple(findings))


def rules_hash(rules: Sequence[r.Rule]) -> list[Any]:
    """What the record rules do, as JSON values: their fields, with files and functions by their contents."""
    described: list[Any] = []
    for rule in rules:
        if isinstance(rule, r.WHOLE_DATA):
            continue
        fields = rule.model_dump(mode="json")
        if isinstance(rule, r.HarmfulWords):
            fields["lists"] = {category: _digest(location) for category, location in sorted(rule.lists.items())}
        elif isinstance(rule, r.Synonyms):
            fields["table"] = _digest(rule.table)
        elif isinstance(rule, r.Map):
            fields["source"] = source_hash(rule.function)
        described.append({**fields, "libraries": {name: version(name) for name in _LIBRARIES.get(rule.rule, ())}})
    return described


def _digest(location: str) -> str:
    try:
        return hashlib.sha256(read_bytes(location)).hexdigest()
    except OSError as error:
        raise DataError(
            f"cannot read {location}, which a rule names", got=str(error), fix="check the path"
        ) from error


def _step(rule: r.Rule, key: tuple[int, int], special_tokens: Sequence[str]) -> _Step:
    """The one place that knows which rule does what."""
    match rule:
        case r.Normalise():
            return partial(_normalise, rule)
        case r.Length():
            return lambda one, _: _judge(rule, one, length_hits(one, rule))
        case r.Language():
            _check_known("language.keep", rule.keep, known_languages() | {UNDETERMINED})
            return partial(_language, rule)
        case r.Repetition():
            return lambda one, _: _judge(rule, one, _repetition_hits(one, rule))
        case r.Symbols():
            return lambda one, _: _judge(rule, one, _symbol_hits(one, rule))
        case r.Quality():
            return partial(_quality, rule)
        case r.HarmfulWords():
            words = {word: name for name, location in rule.lists.items() for word in read_word_list(location)}
            return partial(_spans, rule, Lexicon(words).find, lambda _: "***")
        case r.Pii():
            _check_known("pii.phone_regions", rule.phone_regions, SUPPORTED_REGIONS)
            find = partial(find_pii, kinds=rule.kinds, phone_regions=rule.phone_regions)
            return partial(_spans, rule, find, lambda kind: f"<{kind.upper()}>")
        case r.SpecialTokensRule():
            pattern = special_token_pattern(special_tokens)
            if pattern is None:
                return lambda one, _: _Outcome((one,))
            return partial(_spans, rule, partial(_matches, pattern), lambda _: "")
        case r.Noise():
            return partial(_noise, rule, key)
        case r.Synonyms():
            table = read_synonyms(rule.table)
            return partial(_synonyms, rule, key, table, Lexicon({word: word for word in table}))
        case r.Expand():
            return partial(_expand, rule, key)
        case r.Map():
            return partial(_map, rule.function, load_function(rule.function), key)
    raise AssertionError(f"no step for the rule {rule.rule}")


def _check_known(field: str, given: Sequence[str], known: frozenset[str] | set[str]) -> None:
    if unknown := sorted(set(given) - known):
        raise RecipeError(
            f"{field} has unknown codes", got=", ".join(unknown), expected=f"some of: {' '.join(sorted(known))}"
        )


def _judge(rule: r.Length | r.Repetition | r.Symbols, one: Conversation, hits: list[tuple[str, str]]) -> _Outcome:
    """Drop or report for (kind, detail) of each hit."""
    if not hits:
        return _Outcome((one,))
    findings = [f"{rule.rule}.{kind}" for kind, _ in hits]
    if rule.action == "report":
        return _Outcome((one,), findings)
    kind, detail = hits[0]
    return _Outcome((), findings, Refusal(f"{rule.rule}:{kind}", detail))


def _normalise(rule: r.Normalise, one: Conversation, _: int) -> _Outcome:
    clean = rewrite(one, partial(normalise, form=rule.form))
    if clean is one:
        return _Outcome((one,))
    return _Outcome((one if rule.action == "report" else tagged(clean, "normalised"),), ("normalise",))


def _repetition_hits(one: Conversation, rule: r.Repetition) -> list[tuple[str, str]]:
    """Hits of the rule in the answers, each by itself: what is not trained may repeat."""
    answers = [repetition(message.content) for message in one.messages if message.role in ("assistant", "text")]
    hits = []
    for kind, most in (
        ("duplicate_lines", rule.max_duplicate_lines),
        ("top_ngram", rule.max_top_ngram),
        ("duplicate_ngrams", rule.max_duplicate_ngrams),
    ):
        share = max((shares[kind] for shares in answers), default=0.0)
        if share > most:
            hits.append((kind, f"{share:.3f} of the characters; at most {most}"))
    return hits


def _symbol_hits(one: Conversation, rule: r.Symbols) -> list[tuple[str, str]]:
    share = symbol_ratio("".join(message.content for message in one.messages))
    return [("ratio", f"{share:.3f} of the characters; at most {rule.max_ratio}")] if share > rule.max_ratio else []


def _language(rule: r.Language, one: Conversation, _: int) -> _Outcome:
    """Every record counts under its language. Undetermined ones are kept: a record is dropped for what it is."""
    language = language_of(one, rule.min_confidence)
    findings = (f"language.{language}",)
    if rule.action == "drop" and rule.keep and language not in (*rule.keep, UNDETERMINED):
        return _Outcome((), findings, Refusal(f"language:{language}", f"keep: {', '.join(rule.keep)}"))
    return _Outcome((replace(one, metadata={**one.metadata, "language": language}),), findings)


def _quality(rule: r.Quality, one: Conversation, _: int) -> _Outcome:
    components = quality_components(one)
    score = quality_score(components)
    scored = replace(one, metadata={**one.metadata, "quality": round(score, 4)})
    if score >= rule.min_score:
        return _Outcome((scored,))
    findings = ("quality.low_score",)
    if rule.action == "report":
        return _Outcome((scored,), findings)
    parts = ", ".join(f"{name} {value:.2f}" for name, value in components.items())
    return _Outcome((), findings, Refusal("quality:low_score", f"{score:.3f} < {rule.min_score}: {parts}"))


def _spans(
    rule: r.HarmfulWords | r.Pii | r.SpecialTokensRule,
    find: Callable[[str], list[TextSpan]],
    mask: Callable[[str], str],
    one: Conversation,
    _: int,
) -> _Outcome:
    """Drop, mask or report what `find` finds. A refusal names kinds and numbers, never what was found."""
    arguments = isinstance(rule, r.Pii)
    findings = [f"{rule.rule}.{span.kind}" for text in texts(one, arguments=arguments) for span in find(text)]
    if not findings or rule.action == "report":
        return _Outcome((one,), findings)
    if rule.action == "drop":
        counts = Counter(finding.partition(".")[2] for finding in findings)
        kind = next(iter(counts))
        detail = ", ".join(f"{name} x {count}" for name, count in counts.items())
        return _Outcome((), findings, Refusal(f"{rule.rule}:{kind}", detail))
    fixed = rewrite(one, partial(_masked, find=find, mask=mask), arguments=arguments)
    return _Outcome((tagged(fixed, f"masked:{rule.rule}"),), findings)


def _masked(text: str, *, find: Callable[[str], list[TextSpan]], mask: Callable[[str], str]) -> str:
    """Again until nothing is left: what is taken out may join its neighbours to another hit."""
    for _ in range(_MAX_PASSES):
        spans = find(text)
        if not spans:
            break
        for span in reversed(spans):
            text = text[: span.start] + mask(span.kind) + text[span.end :]
    return text


def _matches(pattern: re.Pattern[str], text: str) -> list[TextSpan]:
    return [TextSpan(found.start(), found.end(), "control_token") for found in pattern.finditer(text)]


def _noise(rule: r.Noise, key: tuple[int, int], one: Conversation, variant: int) -> _Outcome:
    def change(conversation: Conversation, copy: int) -> Conversation:
        random = augment.dice(*key, one.id, variant, copy)
        return augment.noisy(conversation, rule.probability, random, at_least_one=rule.copies > 0)

    return _augmented(rule, one, change)


def _synonyms(
    rule: r.Synonyms,
    key: tuple[int, int],
    table: dict[str, tuple[str, ...]],
    lexicon: Lexicon,
    one: Conversation,
    variant: int,
) -> _Outcome:
    def change(conversation: Conversation, copy: int) -> Conversation:
        random = augment.dice(*key, one.id, variant, copy)
        return augment.with_synonyms(conversation, table, lexicon, rule.probability, random)

    return _augmented(rule, one, change)


def _expand(rule: r.Expand, key: tuple[int, int], one: Conversation, variant: int) -> _Outcome:
    random = augment.dice(*key, one.id, variant)
    chosen = augment.choose_templates(rule.templates, max(1, rule.copies), random)
    return _augmented(rule, one, lambda conversation, copy: augment.expanded(conversation, chosen[copy]))


def _augmented(
    rule: r.Noise | r.Synonyms | r.Expand, one: Conversation, change: Callable[[Conversation, int], Conversation]
) -> _Outcome:
    made = augment.variants(one, change, copies=rule.copies, tag=f"augmented:{rule.rule}")
    num_changed = sum(variant is not one for variant in made)
    return _Outcome(made, [rule.rule] * num_changed)


def _map(path: str, function: Callable[..., Any], key: tuple[int, int], one: Conversation, variant: int) -> _Outcome:
    made = call(function, path, one, augment.dice(*key, one.id, variant))
    if not made:
        return _Outcome((), ("map.refused",), Refusal("map:refused", path))
    return _Outcome(made, ["map"] * sum(conversation is not one for conversation in made))
