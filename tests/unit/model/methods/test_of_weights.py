"""What adapters compute of weights in files is what peft computes of the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import make_recipe
from family_rows import VOCABULARY, make_base
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from raysft.model.load import load_model
from raysft.model.methods import apply_method, dora, of_weights
from raysft.model.outline import Unread, outline
from raysft.recipe.schema import Recipe

CPU = torch.device("cpu")


def local(directory: Path, **fields: Any) -> Recipe:
    return make_recipe(model={"source": str(directory), "config": None, "tokenizer": None}, **fields)


@pytest.mark.parametrize("block", [2**22, 100])
@pytest.mark.parametrize(
    ("model_type", "method", "precision"),
    [
        ("llama", {"kind": "dora", "rank": 2}, 0),
        ("qwen2", {"kind": "dora", "rank": 2, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}, 1e-6),
        ("gpt2", {"kind": "dora", "rank": 2, "target_modules": ["c_attn", "c_proj"]}, 1e-6),
        ("llama", {"kind": "prompt", "virtual_tokens": 9}, 0),
        ("gemma3_text", {"kind": "prompt", "virtual_tokens": 9}, 0),
    ],
)
def test_what_is_computed_of_weights_is_what_peft_computes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    model_type: str,
    method: dict[str, object],
    precision: float,
    block: int,
) -> None:
    """Of files in bf16, in blocks: norms of rows and rows themselves to the bit, norms of columns (an embedding's, of
    a weight that lies transposed) to 1e-6."""
    make_base(model_type, tmp_path)
    AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    recipe = local(tmp_path, method=method)
    theirs = apply_method(load_model(recipe, vocab_size=VOCABULARY), recipe)
    found = outline(recipe, vocab_size=VOCABULARY, device=CPU)
    ours = apply_method(found.model, recipe)
    computed, parameters = of_weights(ours, recipe), dict(theirs.named_parameters())
    begun = {name: p for name, p in ours.named_parameters() if not p.isfinite().all() and p.requires_grad}
    assert {one.parameter for one in computed} == set(begun.values())
    assert begun
    monkeypatch.setattr(dora, "BLOCK", block)
    unread = Unread(ours, found, found.model, computed)
    for one in computed:
        one.parameter.data.copy_(one.compute(unread.source(one.weight).read).view_as(one.parameter))
    for name, parameter in begun.items():
        torch.testing.assert_close(parameter, parameters[name], rtol=precision, atol=0)


class Largest(TorchDispatchMode):
    """The most bytes of a tensor that is made inside."""

    found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        made = answer if isinstance(answer, tuple | list) else [answer]
        sizes = [one.untyped_storage().nbytes() for one in made if isinstance(one, Tensor)]
        self.found = max([self.found, *sizes])
        return answer


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_no_norms_of_placeholders_are_taken(tmp_path: Path, model_type: str) -> None:
    """peft would make tensors as large as each weight."""
    make_base(model_type, tmp_path)
    recipe = local(tmp_path, method={"kind": "dora", "rank": 1})
    largest = []
    for model in (
        outline(recipe, vocab_size=VOCABULARY, device=CPU).model,
        load_model(recipe, vocab_size=VOCABULARY),
    ):
        with Largest() as watched:
            apply_method(model, recipe)
        largest.append(watched.found)
    assert 8 * largest[0] < largest[1]
