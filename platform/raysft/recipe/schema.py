"""The recipe: everything one run is. Frozen, strict, no unknown keys; each field says what it means.

Owns field types, defaults and single-field bounds. Cross-field rules and all arithmetic are in resolve.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, WithJsonSchema, field_validator, model_validator

from raysft.recipe.rules import Rule, Section, Strings
from raysft.recipe.tune import TuneSection

Format = Literal[
    "auto",
    "alpaca",
    "sharegpt",
    "messages",
    "unified",
    "preference",
    "critique",
    "labelled",
    "ranking",
    "text",
]


class ModelSection(Section):
    """Which model is tuned."""

    source: str = Field(
        description="A local directory, a hub id, `run://NAME` (the export of another run) or `random` "
        "(fresh weights from `config`)."
    )
    config: dict[str, Any] | None = Field(
        None, description="Only for `source: random`: a transformers config, `model_type` included."
    )
    tokenizer: str | None = Field(
        None, description="Directory or hub id of the tokenizer. Default: the model source."
    )
    revision: str | None = Field(None, description="Hub revision (commit or tag) to pin.")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model. Off.")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa",
        description="Attention backend. `sdpa`: segment by segment without a mask, where the model's code allows it. "
        "Whether packed samples stay apart is checked at start-up.",
    )


class SourceSection(Section):
    """One source of a mixture; a plain string in data.train is a source with nothing but a path."""

    path: Strings = Field(min_length=1, description="Files, directories, globs or URIs.")
    name: str | None = Field(None, description="What reports call it. Default: the first path's file name.")
    format: Format | None = Field(None, description="Record format. Default: data.format.")
    columns: dict[str, str] | None = Field(None, description="Column mapping. Default: data.columns.")
    weight: float | None = Field(None, gt=0, description="Share of the training samples, relative to the others.")
    epochs: float = Field(1.0, gt=0, description="Times its samples occur in one epoch; 0.5: a chosen half.")

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


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


class DataSection(Section):
    """What it learns from, and how records become tokens."""

    train: Annotated[tuple[str | SourceSection, ...], Strict(False)] = Field(
        min_length=1, description="Files, directories, globs or URIs, or sources with a `path`. One or a list."
    )
    eval: Strings = Field((), description="Held-out files. Empty: `eval_fraction` of the training data.")
    eval_fraction: float = Field(
        0.0, ge=0, lt=1, description="Share of the training records held out, chosen by a hash of the prompt."
    )
    format: Format = Field("auto", description="Record format. `auto` detects it from the columns.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="The format's column name -> the file's column name, e.g. {instruction: question}.",
    )
    template: str = Field(
        "tokenizer",
        description="Chat template: `tokenizer` (its own), a built-in name (chatml, llama3, qwen3, mistral, "
        "gemma, zephyr) or a path to a Jinja file.",
    )
    train_on: Literal["all", "last"] = Field(
        "all", description="Which assistant turns are trained: all of them or only the last."
    )
    max_tokens: int = Field(1024, ge=8, description="Length of a packed row, and the longest sample, in tokens.")
    over_long: Literal["drop", "truncate", "split"] = Field(
        "drop",
        description="Samples longer than max_tokens: refuse; cut the prompt's start, then the answer's end; or split "
        "into several samples. Counted.",
    )
    packing: bool = Field(
        True, description="Off: the same rows and steps, each sample in a padded row of its own (slower)."
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

    @field_validator("train", "eval", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str | dict | SourceSection) else value

    @property
    def sources(self) -> tuple[SourceSection, ...]:
        """data.train with every plain string as a source."""
        return tuple(SourceSection(path=(e,)) if isinstance(e, str) else e for e in self.train)


class MethodSection(Section):
    """Which parameters are trained."""

    kind: Literal["full", "lora"] = Field("full", description="All parameters, or low-rank adapters.")
    rank: int = Field(16, ge=1, description="LoRA rank r.")
    alpha: float = Field(32.0, gt=0, description="LoRA alpha; the adapter's output is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: Strings = Field(
        ("all-linear",), description="Names of the linear layers that get an adapter, or `all-linear`."
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class OptimizerSection(Section):
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) and its learning-rate schedule."""

    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Shape after warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Optimizer steps of linear warm-up.")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="Final learning rate / peak learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="Decay of matrices; biases and norms have none.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of the second moment.")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this global L2 norm.")


class TrainSection(Section):
    """How long and in which steps."""

    epochs: int = Field(1, ge=1, description="Passes over the data. Ignored when max_steps is set.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps of the run; goes round the data.")
    rows_per_step: int = Field(8, ge=1, description="Packed rows of one optimizer step, over all workers.")
    micro_batch_rows: int = Field(1, ge=1, description="Rows one worker holds in one forward pass.")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="Computation and working weights.")
    spike_factor: float | None = Field(
        None,
        gt=1,
        description="A loss over this many times the median of 32 steps rolls the run back to its last commit "
        "and leaves that step's data out.",
    )
    reduce_precision: Literal["fp32", "bf16"] | None = Field(
        None, description="In which gradients travel between workers. Default: `precision`."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, +30% time.")


class ParallelSection(Section):
    """How the model is split over workers. Workers = data-parallel replicas x tensor x pipeline x sequence."""

    zero: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage (arXiv:1910.02054).")
    tensor: int = Field(1, ge=1, description="Tensor-parallel size.")
    pipeline: int = Field(1, ge=1, description="Pipeline stages.")
    sequence: int = Field(1, ge=1, description="Sequence-parallel (Ulysses) size.")
    offload: Literal["none", "cpu"] = Field(
        "none", description="cpu: optimizer state, with `zero: 3` also weights, in host memory (arXiv:2101.06840)."
    )
    overlap: bool = Field(False, description="Reduce gradients during backward, with a second buffer.")
    secondary_shards: int = Field(
        1,
        ge=1,
        description="With `zero: 3`: neighbours that share a second copy of the weights (ZeRO++ hpZ); 1: none.",
    )
    auto: bool = Field(
        False, description="Choose zero, tensor, pipeline and sequence: the fastest that fits (`raysft plan`)."
    )
    auto_micro_batch: bool = Field(
        False, description="Halve train.micro_batch_rows until the largest rows fit into memory; same global step."
    )


_WORKERS = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "object", "required": ["min", "max"]}]}


class ClusterSection(Section):
    """What the run asks of the Ray cluster."""

    workers: Annotated[int, WithJsonSchema(_WORKERS)] = Field(
        1, ge=1, description="Training workers, one process each. {min: a, max: b}: as many as the alive nodes hold."
    )
    min_workers: int | None = Field(
        None,
        ge=1,
        description="Fewest workers to go on with after a loss of nodes. Default: workers. Set by {min, max}.",
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPUs reserved per worker; also its torch threads.")
    gpus_per_worker: int = Field(0, ge=0, le=1, description="GPUs per worker: 1, or 0 to train on CPU.")
    fork_server: bool = Field(True, description="Fork each node's workers from one process that has imported all.")
    max_failures: int = Field(
        3,
        ge=0,
        description="Failures in a row, with no step committed between them, that are followed by another start.",
    )
    hang_timeout_s: float = Field(
        600.0, gt=0, description="Seconds without a step, an evaluated batch or a save that count as a hang: restart."
    )

    @model_validator(mode="before")
    @classmethod
    def _range(cls, fields: Any) -> Any:
        """`workers: {min: a, max: b}` is workers b and min_workers a."""
        workers = fields.get("workers") if isinstance(fields, dict) else None
        if isinstance(workers, dict) and workers.keys() == {"min", "max"} and "min_workers" not in fields:
            return {**fields, "workers": workers["max"], "min_workers": workers["min"]}
        return fields


class CheckpointSection(Section):
    """When the state is committed to storage."""

    every_steps: int = Field(100, ge=1, description="Optimizer steps between two commits.")
    keep_last: int = Field(2, ge=1, description="Newest commits that are kept.")
    keep_every_steps: int | None = Field(None, ge=1, description="Commits of every so many steps are kept as well.")
    keep_best: bool = Field(False, description="The commit with the lowest held-out loss is kept as well.")


class EvaluateSection(Section):
    """What is measured on held-out data."""

    every_steps: int | None = Field(
        None, ge=1, description="Steps between two held-out losses. Default: only before and after."
    )
    max_rows: int = Field(256, ge=1, description="Held-out rows of one evaluation, from the start of the set.")
    generate_prompts: int = Field(
        0, ge=0, description="Held-out prompts answered greedily before and after; scored by exact match."
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest generated answer, in tokens.")


class ExportSection(Section):
    """What a finished run leaves for others to load."""

    merged: bool = Field(True, description="A whole model for `transformers` (LoRA merged in).")
    adapter: bool = Field(True, description="With LoRA: the bare adapter for `peft`.")


class Recipe(Section):
    """One run, whole."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="The run's name: its directory under storage. The same name resumes.",
    )
    storage: str = Field("storage", description="Directory or URI for token stores and runs (shared by all nodes).")
    seed: int = Field(0, ge=0, lt=2**32, description="Seeds data order, fresh weights and dropout.")
    objective: Literal["sft"] = Field("sft", description="What is minimised.")
    model: ModelSection
    data: DataSection
    method: MethodSection = MethodSection()
    optimizer: OptimizerSection = OptimizerSection()
    train: TrainSection = TrainSection()
    parallel: ParallelSection = ParallelSection()
    cluster: ClusterSection = ClusterSection()
    checkpoint: CheckpointSection = CheckpointSection()
    evaluate: EvaluateSection = EvaluateSection()
    export: ExportSection = ExportSection()
    tune: TuneSection | None = Field(None, description="What `raysft tune` searches.")
