"""`objective:` on vectors of whole texts, without a head: what a search by meaning compares."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raysft.metrics.base import Mode
from raysft.recipe.cleaning import Section

Pooling = Literal["mean", "cls", "last"]
"""Which of a text's hidden states its vector is made of: the mean of all, the first one, the last one."""


class ContrastiveObjective(Section):
    """Contrastive learning of text embeddings (InfoNCE, arXiv:1807.03748; multiple negatives ranking,
    arXiv:1705.00652): the vector of a query nearest to that of the text that matches it, among all texts of the
    step."""

    measures: ClassVar[dict[str, Mode]] = {
        **{"contrastive": "min", "accuracy": "max"},
        **{"recall_at_1": "max", "recall_at_10": "max", "mrr": "max"},
    }
    """Its terms and metrics, as held-out rows are measured by them."""
    needs: ClassVar[dict[str, str]] = {}
    """{measure: the field without which it is not there}."""

    kind: Literal["contrastive"] = Field(description="Names this kind.")
    temperature: float = Field(
        0.05,
        ge=0.001,
        le=100,
        description="Cosine similarities are divided by it before the softmax. Smaller: texts that are nearly as "
        "near as the right one cost more.",
    )
    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        "auto",
        description="What a text's vector is made of: `mean` of the hidden states of its tokens, that of the first "
        "(`cls`) or of the `last` one. `auto`: mean for an encoder, last for a decoder, whose last token alone has "
        "seen the whole text.",
    )

    def pooled_by(self, *, is_encoder: bool) -> Pooling:
        """What `pooling` comes to for a model."""
        if self.pooling == "auto":
            return "mean" if is_encoder else "last"
        return self.pooling
