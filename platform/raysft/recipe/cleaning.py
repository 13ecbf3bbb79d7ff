"""The rules of `data.rules`: what is done to records before they are tokenized, in the recipe's order.

Each rule is a small section of its own, told apart by its name in `rule`. `action` says what a hit does:
`drop` refuses the record, `fix` changes it, `report` only counts. What the rules do is data/clean/ (one record at a
time) and data/rules/whole_data.py (those that need the whole data: refused, by name, in stream mode).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, field_validator

Named = Annotated[str, Field(min_length=1)]
"""A path, a name or a word: an empty one would be a mistake, or, taken for a path, this directory."""
Strings = Annotated[tuple[Named, ...], Strict(False)]
Weights = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Strict(False)]
OneOrMany = Annotated[
    tuple[Named, ...],
    Strict(False),
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | Strings
    ),
]
"""A list of strings, or one string for a list of one."""
AtLeastOne = Annotated[
    tuple[Named, ...],
    Strict(False),
    BeforeValidator(
        lambda given: (given,) if isinstance(given, str) else given,
        json_schema_input_type=str | Annotated[Strings, Field(min_length=1)],
    ),
    Field(min_length=1),
]
"""The same, and not empty."""
PiiKind = Literal["email", "phone", "china_id", "us_ssn", "bank_card", "ip", "secret"]
PiiKinds = Annotated[tuple[PiiKind, ...], Strict(False)]
Templates = Annotated[tuple[Annotated[str, Field(pattern=r"\{prompt\}")], ...], Strict(False)]


SMALLEST, LARGEST = 1e-37, 1e38
"""Sizes of numbers that fp32 holds with all its digits."""


class Section(BaseModel):
    """Base of every section: immutable, exact types, unknown keys refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @field_validator("*")
    @classmethod
    def _held_by_fp32(cls, value: Any) -> Any:
        """Training computes in fp32, where such a number would be none, or infinite."""
        inner: Iterable[Any] = (
            value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]
        )
        for number in inner:
            if isinstance(number, float) and number and not SMALLEST <= abs(number) <= LARGEST:
                raise ValueError(f"a number that fp32 holds: 0, or one from {SMALLEST:g} to {LARGEST:g}")
        return value


class Normalise(Section):
    """Unicode NFC, nothing invisible, line ends as \\n, no trailing blanks, at most two blank lines in a row."""

    rule: Literal["normalise"]
    action: Literal["fix", "report"] = Field("fix", description="Write the clean text, or only count.")
    form: Literal["NFC", "NFKC"] = Field("NFC", description="Unicode normal form.")


class Length(Section):
    """Bounds on the characters of the prompt (all before the last answer) and of the last answer."""

    rule: Literal["length"]
    action: Literal["drop", "report"] = Field("drop", description="Refuse the record, or only count.")
    min_prompt_chars: int = Field(1, ge=0, description="Shortest prompt.")
    max_prompt_chars: int = Field(1_000_000, ge=1, description="Longest prompt.")
    min_answer_chars: int = Field(1, ge=0, description="Shortest last answer.")
    max_answer_chars: int = Field(1_000_000, ge=1, description="Longest last answer.")


class Language(Section):
    """Identifies the language; writes metadata `language` (ISO 639-1 or `und`) and may drop other languages."""

    rule: Literal["language"]
    action: Literal["drop", "report"] = Field("report", description="Refuse other languages, or only count.")
    keep: Strings = Field((), description="ISO 639-1 codes to keep; empty: all. `und` is always kept.")
    min_confidence: float = Field(0.5, ge=0, le=1, description="Below it the language is `und` (undetermined).")


class Repetition(Section):
    """Share of an answer in repeated lines and repeated word n-grams (Gopher rules, Rae et al. 2021, A1.1)."""

    rule: Literal["repetition"]
    action: Literal["drop", "report"] = Field("drop", description="Refuse the record, or only count.")
    max_duplicate_lines: float = Field(0.3, ge=0, le=1, description="Largest share of characters in repeated lines.")
    max_top_ngram: float = Field(
        0.3, ge=0, le=1, description="Largest share of characters in repeats of one word 3-gram."
    )
    max_duplicate_ngrams: float = Field(
        0.3, ge=0, le=1, description="Largest share of characters in word 10-grams that stood before."
    )


class Symbols(Section):
    """Share of a record's characters that are neither letters, marks, digits nor white space."""

    rule: Literal["symbols"]
    action: Literal["drop", "report"] = Field("drop", description="Refuse the record, or only count.")
    max_ratio: float = Field(0.5, ge=0, le=1, description="Largest share of symbols in the text.")


class Quality(Section):
    """A score in [0, 1], the mean of named components; writes metadata `quality`."""

    rule: Literal["quality"]
    action: Literal["drop", "report"] = Field("drop", description="Refuse low scores, or only count.")
    min_score: float = Field(0.6, ge=0, le=1, description="Lowest score that is kept.")


class HarmfulWords(Section):
    """Word lists by category: one word or phrase per line, matched whole and without case."""

    rule: Literal["harmful_words"]
    action: Literal["drop", "fix", "report"] = Field("drop", description="Refuse, mask the words, or only count.")
    lists: dict[str, str] = Field(min_length=1, description="Category -> file with one word or phrase per line.")


class Pii(Section):
    """Personal data: found with checksums where they exist, masked as <EMAIL>, <PHONE>..."""

    rule: Literal["pii"]
    action: Literal["drop", "fix", "report"] = Field("fix", description="Refuse the record, mask, or only count.")
    kinds: PiiKinds = Field(
        ("email", "phone", "china_id", "us_ssn", "bank_card", "ip", "secret"),
        min_length=1,
        description="What to find.",
    )
    phone_regions: Strings = Field(("US", "CN"), description="Regions of phone numbers without a country code.")


class SpecialTokensRule(Section):
    """Text that a tokenizer would read as a control token, like <|im_end|> inside a question."""

    rule: Literal["special_tokens"]
    action: Literal["drop", "fix", "report"] = Field("drop", description="Refuse, take it out, or only count.")


class ExactDuplicates(Section):
    """Records whose whole text is the same but for case and white space: the first is kept."""

    rule: Literal["exact_duplicates"]
    action: Literal["drop", "report"] = Field("drop", description="Keep the first, or only count.")


class NearDuplicates(Section):
    """MinHash-LSH over word n-grams (Broder 1997): one of each cluster is kept."""

    rule: Literal["near_duplicates"]
    action: Literal["drop", "report"] = Field("drop", description="Keep one of each cluster, or only count.")
    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity from which two records are the same.")
    num_hashes: int = Field(128, ge=16, le=512, description="Length of the MinHash signature.")
    ngram: int = Field(5, ge=1, description="Words of a shingle (characters in text without spaces).")


class Leakage(Section):
    """Training records whose prompt is also held out."""

    rule: Literal["leakage"]
    action: Literal["drop", "report"] = Field("drop", description="Refuse the training record, or only count.")


class Contamination(Section):
    """Training records that share a word n-gram with a benchmark (Brown et al. 2020, appendix C)."""

    rule: Literal["contamination"]
    action: Literal["drop", "report"] = Field("drop", description="Refuse the training record, or only count.")
    files: Strings = Field(min_length=1, description="Benchmark files: all text of each record counts.")
    ngram: int = Field(13, ge=3, description="Words of an n-gram; shorter texts of 8 words on count whole.")


class Conflicts(Section):
    """The same prompt with different answers."""

    rule: Literal["conflicts"]
    action: Literal["drop", "report"] = Field("report", description="Refuse all of them, or only count.")
    keep_first: bool = Field(False, description="With drop: keep the first answer of each prompt.")


class Noise(Section):
    """Augmentation: typing errors (swap, delete, double a letter) in the user's words."""

    rule: Literal["noise"]
    copies: int = Field(1, ge=0, le=16, description="Noisy copies beside the original; 0: change it in place.")
    probability: float = Field(0.05, gt=0, le=1, description="Chance that a word is changed.")


class Synonyms(Section):
    """Augmentation: the user's words replaced from a table."""

    rule: Literal["synonyms"]
    table: str = Field(description="File of lines `word<TAB>synonym, synonym`.")
    copies: int = Field(1, ge=0, le=16, description="Copies beside the original; 0: change it in place.")
    probability: float = Field(0.3, gt=0, le=1, description="Chance that a word of the table is replaced.")


class Expand(Section):
    """Augmentation: the first user message written into each of several templates."""

    rule: Literal["expand"]
    templates: Templates = Field(min_length=1, description="Texts with {prompt} in them.")
    copies: int = Field(1, ge=0, le=16, description="Copies beside the original; 0: change it in place.")


class Map(Section):
    """The user's own function(conversation, random) -> conversation, list of conversations or None to refuse."""

    rule: Literal["map"]
    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="Import path `package.module:function`."
    )


RecordRule = Annotated[
    Normalise
    | Length
    | Language
    | Repetition
    | Symbols
    | Quality
    | HarmfulWords
    | Pii
    | SpecialTokensRule
    | Noise
    | Synonyms
    | Expand
    | Map,
    Field(discriminator="rule"),
]
"""Rules that look at one record at a time."""

WholeDataRule = Annotated[
    ExactDuplicates | NearDuplicates | Leakage | Contamination | Conflicts, Field(discriminator="rule")
]
"""Rules that compare records with each other."""

Rule = Annotated[RecordRule | WholeDataRule, Field(discriminator="rule")]

WHOLE_DATA = (ExactDuplicates, NearDuplicates, Leakage, Contamination, Conflicts)

AUGMENTING = (Noise, Synonyms, Expand)
"""Held-out records do not go through these."""
