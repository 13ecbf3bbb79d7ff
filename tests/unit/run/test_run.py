"""What a run finds and says before Ray starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import tiny_fields
from small import make_recipe

from raysft.data.text.tokenizer import recipe_tokenizer
from raysft.errors import ModelError
from raysft.recipe.change import change
from raysft.run.run import check_before_ray

MIXTRAL = {k: v for k, v in tiny_fields("mixtral").items() if k not in ("vocab_size", "pad_token_id")}


def test_a_loss_for_the_router_that_is_left_out_is_said(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, count=20)
    for asked, said in ((False, 0), (True, 1)):
        config = MIXTRAL | {"output_router_logits": asked, "router_aux_loss_coef": 0.02}
        lines = check_before_ray(change(recipe, {"model.config": config}))
        assert lines[0].startswith("trained      ")
        left_out = [line for line in lines if line.startswith("router loss")]
        assert len(left_out) == said
        assert all("router_aux_loss_coef 0.02" in line for line in left_out)


def test_a_model_directory_that_is_not_there_is_not_the_tokenizers_fault(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, count=20)
    missing = change(recipe, {"model.source": str(tmp_path / "no"), "model.config": None, "model.tokenizer": None})
    with pytest.raises(ModelError, match="cannot read the model") as caught:
        check_before_ray(missing)
    assert "check model.source" in caught.value.fix
    with pytest.raises(ModelError, match="there is no model") as caught:
        recipe_tokenizer(missing)
    assert caught.value.fix.startswith("check model.source")
