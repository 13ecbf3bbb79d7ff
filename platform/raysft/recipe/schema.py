"""The recipe: everything one run is. Frozen, strict, no unknown keys; each field says what it means.

The sections are in sections/. Cross-field rules are in checks.py, all arithmetic in resolve.py.
"""

from __future__ import annotations

from pydantic import Field

from raysft.recipe.cleaning import Section
from raysft.recipe.sections.checkpoint import CheckpointSection
from raysft.recipe.sections.cluster import ClusterSection
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.evaluate import EvaluateSection
from raysft.recipe.sections.export import ExportSection
from raysft.recipe.sections.method import FullMethod, Method
from raysft.recipe.sections.model import ModelSection
from raysft.recipe.sections.objective import Objective, SftObjective
from raysft.recipe.sections.optimizer import AdamwOptimizer, Optimizer
from raysft.recipe.sections.parallel import ParallelSection
from raysft.recipe.sections.train import TrainSection
from raysft.recipe.tune import TuneSection


class Recipe(Section):
    """One run, whole: which model learns what, how, and on how many workers."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="The run's name: its directory under storage. The same name resumes.",
    )
    storage: str = Field(
        "storage", min_length=1, description="Directory or URI for token stores and runs (shared by all nodes)."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seeds data order, fresh weights and dropout.")
    objective: Objective = Field(SftObjective(), description="What is minimised: a section of one kind, or its name.")
    model: ModelSection
    data: DataSection
    method: Method = Field(FullMethod(), description="Which parameters are trained: a section of one kind.")
    optimizer: Optimizer = Field(AdamwOptimizer(), description="What moves the weights: a section of one kind.")
    train: TrainSection = TrainSection()
    parallel: ParallelSection = ParallelSection()
    cluster: ClusterSection = ClusterSection()
    checkpoint: CheckpointSection = CheckpointSection()
    evaluate: EvaluateSection = EvaluateSection()
    export: ExportSection = ExportSection()
    tune: TuneSection | None = Field(None, description="What `raysft tune` searches.")
