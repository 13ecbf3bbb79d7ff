"""What a task writes of a computed beginning, and what a run reads of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exports import write_base
from fakes import make_recipe, make_tokenizer
from families import GPT2, LLAMA
from safetensors.torch import load_file

from raysft.run.adapter_start import make_start


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("family", [LLAMA, GPT2])
def test_a_computed_beginning_is_written_whole(tmp_path: Path, init: str, family: dict[str, object]) -> None:
    base = write_base(tmp_path, family)
    make_tokenizer().save_pretrained(base)
    recipe = make_recipe(
        model={"source": str(base), "config": None, "tokenizer": None},
        method={"kind": "lora", "rank": 4, "init": init, "target_modules": ["all-linear"]},
    )
    make_start(recipe.model_dump(mode="json"), None, str(tmp_path / "start.safetensors"))
    found = load_file(tmp_path / "start.safetensors")
    trained = {name: tensor for name, tensor in found.items() if ".default." in name}
    assert len(trained) == len(found) / 2 > 0
    for name, tensor in trained.items():
        kept, sign = found[name.replace(".default.", ".start.")], -1 if ".lora_B." in name else 1
        assert torch.equal(tensor, sign * kept)
