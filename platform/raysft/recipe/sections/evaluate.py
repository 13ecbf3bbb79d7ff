"""`evaluate:`: what is measured on held-out data, and on which further sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, Strict

from raysft.recipe.cleaning import OneOrMany, Section
from raysft.recipe.measures import OF_ANSWERS
from raysft.recipe.sections.data import Format

if TYPE_CHECKING:
    Asked = str
else:
    Asked = Literal["loss", *OF_ANSWERS]


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class EvaluationSet(Section):
    """Records that are measured beside the held-out data. They are never trained on by themselves."""

    data: OneOrMany = Field(
        (),
        description="Files, directories, globs or URIs. Only the set `held_out` has none: it is the held-out data.",
    )
    format: Format | None = Field(None, description="Record format. Default: data.format.")
    columns: dict[str, str] | None = Field(None, description="Column mapping. Default: data.columns.")
    metrics: Annotated[
        tuple[Asked, ...],
        Strict(False),
        BeforeValidator(_listed, json_schema_input_type=Asked | Annotated[tuple[Asked, ...], Field(min_length=1)]),
    ] = Field(
        ("loss",),
        min_length=1,
        description="What is measured: `loss` (with perplexity; in training, too), or of answers by a metric's name; "
        "`bleu` and `meteor` need the extra `metrics`, `bertscore` an encoder (evaluate.bertscore), `toxicity` lists "
        "of words (evaluate.toxicity); `passes_tests` runs answers as code, in a sandbox.",
    )
    prompts: int = Field(
        0, ge=0, description="Prompts answered greedily before and after, from the start of the set."
    )
    max_rows: int | None = Field(None, ge=1, description="Rows of one evaluation. Default: evaluate.max_rows.")
    guard: bool = Field(
        False,
        description="The set guards something that the model can do already: reports and cards tell how much worse "
        "it does it after training.",
    )


class BertscoreSection(Section):
    """What the metric `bertscore` reads answers and references with."""

    model: str | None = Field(
        None,
        description="Directory of the encoder (BERT's kind, safetensors), on every node. Default: all-MiniLM-L6-v2 "
        "of the extra `bertscore`, which knows English.",
    )
    layer: int | None = Field(
        None,
        ge=1,
        description="The encoder's layer whose output is compared, counted from below. Default: three quarters up.",
    )
    idf: bool = Field(
        False, description="Weigh tokens by how rare they are in the set's references (inverse document frequency)."
    )


class PassesTestsSection(Section):
    """What the metric `passes_tests` lets the code of an answer use."""

    cpu_s: int = Field(
        10, ge=1, le=600, description="Time of a processor; three times as much may pass on the clock."
    )
    memory_gib: float = Field(1.0, ge=0.125, description="Address space of its process.")


class ToxicitySection(Section):
    """What the metric `toxicity` finds in answers."""

    lists: OneOrMany = Field(
        (),
        description="Files with one word or phrase a line (`#` begins a comment), on every node; whole words without "
        "case, and anywhere in scripts without blanks between words, as `harmful_words` finds them.",
    )


class EvaluateSection(Section):
    """What is measured on held-out data."""

    every_steps: int | None = Field(
        None, ge=1, description="Steps between two held-out losses. Default: only before and after."
    )
    max_rows: int = Field(256, ge=1, description="Held-out rows of one evaluation, from the start of the set.")
    generate_prompts: int = Field(
        0, ge=0, description="Held-out prompts answered greedily before and after; scored by exact match."
    )
    stop_at_forgetting_nats: float | None = Field(
        None,
        gt=0,
        description="End the run, finished and exported, at the first evaluation that finds the loss of a guarded "
        "set more than so many nats per target token above its value before training. 0.1 is much.",
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest generated answer, in tokens.")
    sets: dict[str, EvaluationSet] = Field(
        default_factory=dict,
        description="Further sets by name: {gsm8k: {data: test.jsonl, metrics: [loss, exact_match], prompts: 200}}.",
    )
    bertscore: BertscoreSection = BertscoreSection()
    passes_tests: PassesTestsSection = PassesTestsSection()
    toxicity: ToxicitySection = ToxicitySection()
