"""`data:`: the sources, how records become tokens, and which samples make an epoch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, Strict

from raysft.recipe.cleaning import AtLeastOne, OneOrMany, Rule, Section

Format = Literal[
    "auto",
    "alpaca",
    "sharegpt",
    "messages",
    "unified",
    "preference",
    "critique",
    "labelled",
    "matched",
    "ranking",
    "text",
    "completion",
    "tested",
]


class SourceSection(Section):
    """One source of a mixture; a plain string in data.train is a source with nothing but a path."""

    path: AtLeastOne = Field(description="Files, directories, globs or URIs.")
    name: str | None = Field(None, description="What reports call it. Default: the first path's file name.")
    format: Format | None = Field(None, description="Record format. Default: data.format.")
    columns: dict[str, str] | None = Field(None, description="Column mapping. Default: data.columns.")
    weight: float | None = Field(None, gt=0, description="Share of the training samples, relative to the others.")
    epochs: float = Field(1.0, gt=0, description="Times its samples occur in one epoch; 0.5: a chosen half.")


class MixtureSection(Section):
    """Which samples make up an epoch, and in which order. All of it exact and the same for one seed."""

    temperature: float | None = Field(
        None, ge=1, description="Source shares ~ size^(1/temperature) (Conneau et al. 2020); instead of weights."
    )
    balance_by: str | None = Field(
        None, description="Metadata column: each of its values gets as many samples as the most frequent."
    )
    weight_column: str | None = Field(None, description="Metadata column with the loss weight of each sample.")
    curriculum: str | None = Field(
        None, description="Order from easy to hard: `length` or a metadata column with numbers (difficulty, a score)."
    )
    descending: bool = Field(False, description="The curriculum from hard to easy.")


_Source = str | SourceSection


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str | dict | SourceSection) else value


Sources = Annotated[
    tuple[_Source, ...],
    Strict(False),
    BeforeValidator(_listed, json_schema_input_type=_Source | Annotated[tuple[_Source, ...], Field(min_length=1)]),
]


class DataSection(Section):
    """What it learns from, and how records become tokens."""

    train: Sources = Field(
        min_length=1, description="Files, directories, globs or URIs, or sources with a `path`. One or a list."
    )
    eval: OneOrMany = Field((), description="Held-out files. Empty: `eval_fraction` of the training data.")
    eval_fraction: float = Field(
        0.0, ge=0, lt=1, description="Share of the training records held out, chosen by a hash of the prompt."
    )
    format: Format = Field("auto", description="Record format. `auto` detects it from the columns.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="The format's column name -> the file's column name, e.g. {instruction: question}.",
    )
    ignore_columns: OneOrMany = Field(
        (),
        description="Keys that are left out on purpose, by name or by place (`messages[].channel`). Counted.",
    )
    on_unread: Literal["warn", "refuse"] = Field(
        "warn",
        description="A key that nothing reads: tell of it, or refuse the record. One that would change what is "
        "trained (reasoning, a system prompt, tools...) always refuses it.",
    )
    several_answers: Literal["refuse", "first", "all"] = Field(
        "refuse",
        description="A record with several different answers: refuse it, train the first, or make a sample of each.",
    )
    template: str = Field(
        "tokenizer",
        description="Chat template: `tokenizer` (its own; for records with tools its `tool_use`, where it has one), "
        "one that the tokenizer has by name, a built-in name (chatml, llama3, qwen3, mistral, gemma, zephyr) or a "
        "path to a Jinja file.",
    )
    train_on: Literal["all", "last"] = Field(
        "all", description="Which assistant turns are trained: all of them or only the last."
    )
    stop: Literal["refuse", "append", "accept"] = Field(
        "refuse",
        description="A trained answer that does not end in a token that generation stops at: refuse to start, append "
        "the tokenizer's end of text to it, or accept that the model never learns to stop.",
    )
    max_tokens: int = Field(1024, ge=8, description="Length of a packed row, and the longest sample, in tokens.")
    over_long: Literal["drop", "truncate", "split"] = Field(
        "drop",
        description="Samples longer than max_tokens: refuse; cut the prompt's start, then the answer's end; or split "
        "into several samples. Counted.",
    )
    packing: bool = Field(
        True,
        description="Several samples in a row, which do not see each other. Off: the same rows and steps, each "
        "sample in a padded row of its own (slower).",
    )
    on_bad_record: Literal["refuse", "fail"] = Field(
        "refuse", description="A malformed record: count it and go on, or stop with file and line."
    )
    rules: Annotated[tuple[Rule, ...], Strict(False)] = Field(
        (), description="Cleaning, deduplication and augmentation, in order: a list of {rule: NAME, ...}."
    )
    mixture: MixtureSection = MixtureSection()
    order: Literal["global", "windowed"] = Field(
        "global", description="Rows shuffled over the whole store, or within closed windows of 16,384 samples."
    )
    mode: Literal["prepared", "stream"] = Field(
        "prepared", description="Make the token store first, or tokenize while training (order: windowed)."
    )

    @property
    def sources(self) -> tuple[SourceSection, ...]:
        """data.train with every plain string as a source."""
        return tuple(SourceSection(path=(e,)) if isinstance(e, str) else e for e in self.train)
