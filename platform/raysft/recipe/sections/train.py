"""`train:`: how long, and in which steps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from raysft.recipe.cleaning import Section


class TrainSection(Section):
    """How long and in which steps."""

    epochs: int = Field(1, ge=1, description="Passes over the data. Ignored when max_steps is set.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps of the run; goes round the data.")
    rows_per_step: int = Field(8, ge=1, description="Packed rows of one optimizer step, over all workers.")
    micro_batch_rows: int = Field(1, ge=1, description="Rows one worker holds in one forward pass.")
    precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="Number format of computation and working weights; the optimizer's are fp32."
    )
    deterministic: bool = Field(
        False,
        description="The same bits each time on the same GPUs: only kernels that add up in one order, slower ones. "
        "On CPUs it is so without.",
    )
    spike_factor: float | None = Field(
        None,
        gt=1,
        description="A loss over this many times the median of 32 steps rolls the run back to its last commit "
        "and leaves that step's data out.",
    )
    log_every_steps: int | None = Field(
        None,
        ge=1,
        description="Steps between two lines that tell the loss where there is no terminal. Default: a tenth of the "
        "run, and ten minutes at most.",
    )
    trackers: Annotated[tuple[Literal["tensorboard", "mlflow", "wandb"], ...], Strict(False)] = Field(
        (),
        description="Where else curves of `raysft train` go: tensorboard and wandb (offline) write into the run's "
        "directory, mlflow to MLFLOW_TRACKING_URI or a database in `storage`. The run's own records are always kept.",
    )
    reduce_precision: Literal["fp32", "bf16"] | None = Field(
        None, description="Number format in which gradients are summed over workers. Default: `precision`."
    )
    embedding_noise: float = Field(
        0.0,
        ge=0,
        description="Noise on the embeddings while training: the alpha of NEFTune (arXiv:2310.05914), 5 there.",
    )
    adversarial_epsilon: float = Field(
        0.0,
        ge=0,
        description="Adversarial training (FGM, arXiv:1605.07725): learn from each sample also with its embeddings "
        "moved by this length to where its loss rises fastest. 1 is usual; 0 is off. Three passes instead of one.",
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, +30% time.")
