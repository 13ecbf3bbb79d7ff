"""No pass asks the device for a value: on a GPU each question makes the host wait for all that is queued.

The passes run on tensors without values (torch's FakeTensorMode): whoever asks for one gets an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import LLAMA, make_recipe
from objective_rows import K, V, row
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from raysft.data.feed.collate import collate
from raysft.data.store.packed_rows import Row
from raysft.model.fast.loss import hidden_states, output_head
from raysft.model.fast.start_check import use_fast_paths
from raysft.model.heads import auxiliary_head
from raysft.model.load import load_model
from raysft.model.methods import apply_method, base_model, forward_of
from raysft.objectives.batch import DeviceBatch, in_one_row, on_host, with_step
from raysft.objectives.known import Known
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.objectives.view import View
from raysft.recipe.columns import Field
from raysft.recipe.schema import Recipe

LABELS = {"labels": ["a", "b", "c"], "class_weights": {"b": 2.0}}
CELLS: dict[str, dict[str, Any]] = {
    "sft": {"method": {"kind": "lora", "rank": 2}, "train": {"embedding_noise": 5.0, "gradient_checkpointing": True}},
    "guarded": {"objective": {"kind": "eaft", "entropy_top_k": 5, "kl_weight": 0.5, "kl_top_k": K}},
    "distill": {"objective": {"kind": "distill", "teachers": ["t"], "teacher_top_k": K}},
    "dpo": {"objective": {"kind": "dpo", "sft_weight": 0.5}},
    "kto": {"objective": {"kind": "kto"}},
    "reward": {"objective": {"kind": "reward"}},
    "domains": {"objective": {"kind": "classify", **LABELS, "domains": {"names": ["x", "y"]}}},
    "contrastive": {"objective": {"kind": "contrastive"}},
    "mean": {"objective": {"kind": "contrastive", "pooling": "mean"}},
    "virtual tokens": {"method": {"kind": "prompt", "virtual_tokens": 3}},
    "prefix": {"method": {"kind": "prefix", "virtual_tokens": 3}},
    "adversary": {"train": {"adversarial_epsilon": 0.1}},
    "bert": {"objective": {"kind": "classify", **LABELS}, "data": {"packing": False}},
}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "max_position_embeddings": 64}


class Copies(TorchDispatchMode):
    """Counts tensors that a pass makes of the host's numbers, each of which a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default) and args[0].numel():
            self.found.append(f"{func}: {tuple(args[0].shape)}")
        return func(*args, **(kwargs or {}))


def recipe_of(name: str, base: Path) -> Recipe:
    fields = {**BERT} if name == "bert" else {**LLAMA}
    return make_recipe(model={"source": "random", "config": fields}, **CELLS[name])


def module_of(recipe: Recipe) -> ObjectiveModule:
    model = load_model(recipe, vocab_size=V)
    use_fast_paths(model, V, packing=recipe.data.packing)
    if recipe.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    whole, train = apply_method(model, recipe), recipe.train
    objective, forward = make_objective(recipe), forward_of(whole, recipe)
    module = ObjectiveModule(whole, objective, None, forward, train.embedding_noise, train.adversarial_epsilon)
    module.auxiliary = auxiliary_head(base_model(whole), recipe)
    return module.train()


def given(module: ObjectiveModule, recipe: Recipe) -> DeviceBatch:
    columns = module.objective.columns
    rows = [row([5, 3, 4, 6], columns, 1), row([2, 7], columns, 2)]
    if recipe.objective.kind == "classify":  # a text an atom
        rows = [classified(one, columns) for one in rows]
    batch = on_host(collate(rows, 0, packing=recipe.data.packing, fields=columns))
    numbers = dict.fromkeys((*module.objective.step_means, *module.objective.scheduled), 0.3)
    whole = module.objective.whole_step
    sizes = {"segment": (len(batch.atom_of), 1), "atom": (batch.num_atoms,)}
    of_step = {} if whole is None else {field.name: torch.zeros(sizes[field.per]) for field in whole.columns}
    return with_step(batch, numbers, of_step)


def classified(one: Row, columns: Sequence[Field]) -> Row:
    numbers = np.arange(len(one.segment_fields["length"]), dtype=np.int32)
    labels = {field.name: (numbers % 2).astype(field.dtype) for field in columns}
    return replace(one, segment_fields={**one.segment_fields, "atom": numbers}, atom_fields=labels)


def without_values(module: nn.Module, mode: FakeTensorMode) -> None:
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            held.update({name: mode.from_tensor(tensor) for name, tensor in held.items() if tensor is not None})


def fake(batch: DeviceBatch, mode: FakeTensorMode) -> DeviceBatch:
    fields = {name: mode.from_tensor(tensor) for name, tensor in batch.fields.items()}
    known = Known.of([mode.from_tensor(tensor) for tensor in batch.known.tensors], batch.known.numbers)
    tensors = [mode.from_tensor(tensor) for tensor in batch[:7]]
    return DeviceBatch(*tensors, fields, known)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("name", CELLS)
def test_no_pass_asks_for_a_value(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(name, tmp_path)
    module = module_of(recipe)
    batch = given(module, recipe)
    columns = module.objective.batch_columns
    module(*batch.flat(columns))  # what is brought to the device once may be there
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        without_values(module, mode)
        with Copies() as copies:
            loss = module(*fake(batch, mode).flat(columns))
            sum(loss.sums.values()).backward()
    assert any(p.grad is not None for p in module.parameters())
    assert copies.found == []


def test_nor_do_trials_that_share_a_pass(tmp_path: Path) -> None:
    recipe = recipe_of("dpo", tmp_path)
    module = module_of(recipe)
    module.requires_grad_(False)
    head = output_head(module.model)
    batch = given(module, recipe)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        without_values(module, mode)
        with Copies() as copies:
            each = [fake(batch, mode) for _ in range(2)]
            joined, extents = in_one_row(each, module.objective.batch_columns)
            hidden = hidden_states(module.model, joined.input_ids, joined.position_ids, joined.known.borders)
            view = View(hidden.requires_grad_(), head, joined, trials=extents)
            view.weighted_nll().sum().backward()
            found = module.objective.loss(view, joined)
    assert found.sums["dpo"].shape == (2,)
    assert copies.found == []


@pytest.mark.parametrize(
    "ask", [lambda x: x.tolist(), lambda x: x[x > 0], lambda x: int(x.max()), lambda x: x.nonzero()]
)
def test_a_question_is_noticed(ask: Callable[[Tensor], object]) -> None:
    with FakeTensorMode() as mode, pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        ask(mode.from_tensor(torch.ones(3)))


def test_so_is_a_number_that_is_brought() -> None:
    with Copies() as copies:
        torch.ones(3) + torch.tensor(2.0)
    assert len(copies.found) == 1
