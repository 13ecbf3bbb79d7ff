"""`objective:` with a new head of its own, which gives numbers of a whole sample instead of tokens."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raysft.metrics.base import Mode
from raysft.recipe.cleaning import OneOrMany, Section
from raysft.recipe.columns import Classes


class RewardObjective(Section):
    """A reward model: a score for a whole answer, higher for the preferred one of a pair (Bradley and Terry 1952)."""

    measures: ClassVar[dict[str, Mode]] = {"reward": "min", "centre": "min", "accuracy": "max", "margin": "max"}
    """Its terms and metrics, as held-out rows are measured by them."""
    needs: ClassVar[dict[str, str]] = {"centre": "centre_weight"}
    """{measure: the field without which it is not there}."""

    kind: Literal["reward"] = Field(description="Names this kind.")
    compare: Literal["best_and_worst", "pairs", "list"] = Field(
        "best_and_worst",
        description="Which answers of a record are compared, where it has more than two (format `ranking`). "
        "`best_and_worst`: these two; `pairs`: every answer with each that the data scores lower, a mean over these "
        "pairs (arXiv:2203.02155); `list`: every answer with all of those at once (Plackett and Luce; ListMLE).",
    )
    centre_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of a pair's squared sum of scores, which keeps them around 0 (arXiv:2312.09244): 0.01.",
    )
    margin_weight: float = Field(
        0.0,
        ge=0,
        description="The difference of a pair's scores in the data (format `ranking`) times this is the margin "
        "that the model's scores are to keep (arXiv:2307.09288).",
    )


class DomainsSection(Section):
    """Domain-adversarial training (DANN, arXiv:1505.07818): what the head reads is to hold nothing by which a second
    head could tell a text's domain, so that what is learnt of one holds in another."""

    names: OneOrMany = Field(
        description="All domains, as the records' column has them: two or more. A record of another is refused."
    )
    column: str = Field(
        "domain",
        min_length=1,
        description="Column of the records that says the domain, beside the text. Every record needs it; one without "
        "a label teaches the domains alone.",
    )
    reversal: float = Field(
        1.0,
        ge=0,
        description="What the second head's gradient is multiplied by, and turned round, on its way into the model "
        "at the end of the run: the paper's lambda, which rises from 0. 0 teaches the second head alone: can the "
        "domain be told?",
    )
    hidden_size: int = Field(
        100, ge=0, description="Size of the second head's hidden layer; 0: a linear layer alone tells the domain."
    )
    learning_rate_ratio: float = Field(
        10.0,
        gt=0,
        description="Learning rate of the second head over that of the model, which it is to keep up with: the "
        "paper's 10.",
    )

    @property
    def classes(self) -> Classes:
        """What domains there are."""
        return Classes(self.names, name="domain", column=self.column)

    @property
    def second_head(self) -> tuple[int, ...]:
        """Sizes of the layers that tell a sample's domain."""
        return tuple(filter(None, (self.hidden_size, len(self.names))))


class ClassifyObjective(Section):
    """Classification of texts: one label of each (softmax), or any number of them (`multi_label`, sigmoids)."""

    measures: ClassVar[dict[str, Mode]] = {
        **{"classify": "min", "accuracy": "max", "macro_f1": "max"},
        **{"ece": "min", "brier": "min", "domain": "max", "domain_accuracy": "min"},
    }
    """Its terms and metrics, as held-out rows are measured by them."""
    needs: ClassVar[dict[str, str]] = {"domain": "domains", "domain_accuracy": "domains"}
    """{measure: the field without which it is not there}."""

    kind: Literal["classify"] = Field(description="Names this kind.")
    labels: OneOrMany = Field(
        (),
        description="All labels, as the data's `label` (or `label_text`) has them: the outputs of the model, in this "
        "order. A record with another label is refused.",
    )
    multi_label: bool = Field(
        False, description="A record has any number of the labels, as a list; else exactly one of them."
    )
    class_weights: dict[str, float] = Field(
        default_factory=dict,
        description="{label: what its samples count in the loss}, 1 where it is not named. Under multi_label of the "
        "samples that have it.",
    )
    focal_gamma: float = Field(
        0.0,
        ge=0,
        description="Focal loss (arXiv:1708.02002): what is right with probability p counts (1 - p) ** focal_gamma. "
        "2 where few samples are hard; 0 is cross-entropy.",
    )

    domains: DomainsSection | None = Field(
        None,
        description="Keep what tells domains apart out of what the labels are told by (DANN). For labels that are "
        "known of one kind of text, and wanted of another.",
    )

    @property
    def classes(self) -> Classes:
        """What samples may be."""
        return Classes(self.labels, self.multi_label, optional=self.domains is not None)
