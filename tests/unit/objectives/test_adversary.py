"""Embeddings moved uphill: each sample by its own gradient, packed or not; nothing where nothing is trained."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from fakes import LLAMA, make_recipe
from objective_rows import CPU, row
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.data.feed.collate import collate
from raysft.model.fast.loss_head import install_loss_head
from raysft.objectives.batch import DeviceBatch, on_device
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.flops import flops_per_weight, graphs_at_once

EPSILON = 0.7


def module(epsilon: float = EPSILON, frozen: bool = False) -> ObjectiveModule:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA, vocab_size=19), dtype=torch.float32)
    model.config.use_cache = False
    model.get_input_embeddings().weight.requires_grad_(not frozen)
    install_loss_head(model)
    return ObjectiveModule(model, make_objective(make_recipe()), epsilon=epsilon).train()


def batch(packing: bool = True) -> DeviceBatch:
    return on_device(collate([row([5, 3], (), 1), row([4, 6], (), 2)], 0, packing=packing), CPU)


def gradients(made: ObjectiveModule, given: DeviceBatch) -> tuple[float, dict[str, Tensor]]:
    loss = made(*given.flat(()))
    loss.sums["nll"].backward()
    return float(loss.sums["nll"].detach()), {
        n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None
    }


def test_the_loss_that_is_told_is_that_of_the_samples_and_more_is_learnt() -> None:
    (value, plain), (told, both) = gradients(module(0.0), batch()), gradients(module(), batch())
    assert told == pytest.approx(value, rel=1e-6)
    assert max(float((both[name] - 2 * plain[name]).abs().max()) for name in plain) > 1e-3


def test_packed_samples_are_moved_as_each_alone() -> None:
    packed, apart = (gradients(module(), batch(packing))[1] for packing in (True, False))
    for name, found in packed.items():
        torch.testing.assert_close(found, apart[name], atol=2e-5, rtol=2e-4)


def test_a_frozen_embedding_is_moved_too() -> None:
    frozen, free = gradients(module(frozen=True), batch())[1], gradients(module(), batch())[1]
    for name, found in frozen.items():
        torch.testing.assert_close(found, free[name], atol=1e-6, rtol=1e-5)


def test_nothing_is_moved_where_nothing_is_trained() -> None:
    made, plain = module(), module(0.0)
    with torch.no_grad():
        assert float(made(*batch().flat(())).sums["nll"]) == float(plain(*batch().flat(())).sums["nll"])
    made.eval()
    assert gradients(made, batch())[1].keys() == gradients(plain.eval(), batch())[1].keys()


def test_an_empty_micro_batch_adds_nothing() -> None:
    value, found = gradients(module(), on_device(collate([], 0, packing=True), CPU))
    assert value == 0
    assert all(bool((gradient == 0).all()) for gradient in found.values())


class Kept:
    """A tensor that autograd keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def wide(epsilon: float) -> ObjectiveModule:
    torch.manual_seed(0)
    fields = {**LLAMA, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4}
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields, vocab_size=19), dtype=torch.float32)
    model.config.use_cache = False
    install_loss_head(model)
    return ObjectiveModule(model, make_objective(make_recipe()), epsilon=epsilon).train()


def test_the_plan_counts_its_passes_and_what_they_keep() -> None:
    """By torch's own count of FLOPs, and by the tensors that autograd keeps."""
    given = on_device(collate([row([7, 20], (), 1)], 0, packing=True), CPU)
    flops, kept = [], []
    for epsilon in (0.0, EPSILON):
        made, alive = wide(epsilon), list[weakref.ref[Kept]]()
        own = {parameter.data_ptr() for parameter in made.parameters()}

        def keep(tensor: Tensor, alive: list[Any] = alive) -> Kept:
            found = Kept(tensor)
            alive.append(weakref.ref(found))
            return found

        with FlopCounterMode(display=False) as counter:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda found: found.tensor):
                loss = made(*given.flat(()))
            there = [one.tensor for ref in alive if (one := ref()) is not None]
            by_place = {one.data_ptr(): one.untyped_storage().nbytes() for one in there if one.data_ptr() not in own}
            kept.append(sum(by_place.values()))
            loss.sums["nll"].backward()
        flops.append(counter.get_total_flops())
    plain, moved = (make_recipe(train={"rows_per_step": 4, "adversarial_epsilon": e}) for e in (0.0, EPSILON))
    assert flops[1] / flops[0] == pytest.approx(flops_per_weight(moved, 4) / flops_per_weight(plain, 4), rel=0.03)
    assert kept[1] / kept[0] == pytest.approx(graphs_at_once(moved) / graphs_at_once(plain), rel=0.1)
