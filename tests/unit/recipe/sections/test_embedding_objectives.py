"""What a text's vector is made of, as the recipe says it."""

from __future__ import annotations

from raysft.recipe.sections.embedding_objectives import ContrastiveObjective


def test_pooling_follows_the_model_unless_it_is_named() -> None:
    auto, first = (ContrastiveObjective(kind="contrastive", pooling=how) for how in ("auto", "cls"))
    assert (auto.pooled_by(is_encoder=True), auto.pooled_by(is_encoder=False)) == ("mean", "last")
    assert (first.pooled_by(is_encoder=True), first.pooled_by(is_encoder=False)) == ("cls", "cls")
