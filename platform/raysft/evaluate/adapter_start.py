"""What the adapters of a run begin with: computed from the base's weights, or from rows of the data; or read. No Ray.

Owns which rows and which inputs; the mathematics is model/methods/lora_start.py. Computed once for a run, before its
training, so that every rank and every resumed attempt begins with the same numbers.

Shapes: B rows, T tokens a row, D features into a layer, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from raysft.data.feed.collate import collate
from raysft.data.store.packed_rows import Row
from raysft.data.store.parts import TokenStore
from raysft.errors import ModelError
from raysft.evaluate.reference import load_reference
from raysft.model.fast.loss import hidden_states
from raysft.model.load import empty_model, rows_for
from raysft.model.methods import METHODS, InputDirections, apply_method, base_model, low_rank_adapters, start_tensors
from raysft.model.spread import unlimited
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import LoraMethod


def adapter_start(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, store: TokenStore | None) -> dict[str, Tensor]:
    """{HF name of an adapter's parameter: what it begins with}: fp32 on CPU. Raises ModelError.

    Under train.precision: bf16 they are numbers that bf16 has: the passes round what they compute with, and what is
    trained must begin as what is taken away again. store: the training rows; EVA alone asks for them.
    """
    method, begin = recipe.method, METHODS[recipe.method.kind].begin
    if begin is not None:
        return begin(apply_method(empty_model(recipe, vocab_size=rows_for(tokenizer)), recipe), recipe)
    assert isinstance(method, LoraMethod)
    device = torch.device("cuda" if recipe.cluster.gpus_per_worker else "cpu")
    adapted = apply_method(load_reference(recipe, tokenizer, unlimited(device)), recipe)
    inputs = {}
    if method.init == "eva":
        assert store is not None  # a stream is refused (recipe/model_checks.py)
        inputs = input_directions(adapted, recipe, method, _batches(store, method, recipe.train.micro_batch_rows))
    found = start_tensors(adapted, method, inputs)
    if recipe.train.precision == "bf16":
        found = {name: tensor.bfloat16().float() for name, tensor in found.items()}
    return found


def _batches(store: TokenStore, method: LoraMethod, size: int) -> Iterator[list[Row]]:
    """Rows from all over the store, so many at a time."""
    count = min(method.init_rows, store.num_rows)
    chosen = np.linspace(0, store.num_rows - 1, count).round().astype(int).tolist()
    for first in range(0, count, size):
        yield store.read_rows(chosen[first : first + size])


@torch.no_grad()
def input_directions(
    adapted: nn.Module, recipe: Recipe, method: LoraMethod, batches: Iterable[list[Row]]
) -> dict[str, Tensor]:
    """{name of an adapted layer: the R directions in which its inputs vary most [R, D]}, over all tokens of the rows.

    Raises ModelError where they have fewer than R tokens, or no numbers.
    """
    ranks = {name: len(adapter.a) for name, adapter in low_rank_adapters(adapted).items()}
    names, model, watch = list(ranks), base_model(adapted), _Watch(max(ranks.values()))
    hooks = [model.get_submodule(name).register_forward_pre_hook(watch.hook(name)) for name in names]
    for rows in batches:
        batch = collate(rows, 0, packing=recipe.data.packing)
        watch.is_token = torch.from_numpy(batch.segment_of >= 0).to(model.device)
        input_ids, position_ids = (
            torch.from_numpy(array).to(model.device) for array in (batch.input_ids, batch.position_ids)
        )
        hidden_states(model, input_ids, position_ids)
    for hook in hooks:
        hook.remove()
    try:
        return {name: watch.of_layer[name].largest(rank) for name, rank in ranks.items()}
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            "EVA finds too few directions in the inputs of a layer",
            got=f"{type(error).__name__}: {error}",
            expected=f"at least method.rank = {method.rank} tokens in method.init_rows = {method.init_rows} rows, "
            "through every adapted layer",
            fix="raise method.init_rows, lower method.rank, or set method.init: random",
        ) from error


class _Watch:
    """Gathers the inputs of layers. Layers that read one tensor (q, k and v) share what is found."""

    def __init__(self, rank: int) -> None:
        self.of_layer: dict[str, InputDirections] = {}
        self.is_token: Tensor | None = None
        """[B, T]: no padding."""
        self._rank = rank
        self._last: tuple[Any, InputDirections | None] = (None, None)

    def hook(self, name: str) -> Any:
        """What the layer of that name is to call before it computes."""

        def gather(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs, (last, found) = arguments[0], self._last
            if inputs is last and found is not None:
                self.of_layer.setdefault(name, found)
                return
            found = self.of_layer.setdefault(name, InputDirections(self._rank))
            found.add(inputs[self.is_token])
            self._last = (inputs, found)

        return gather
