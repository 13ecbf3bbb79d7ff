"""One rank of a long-lived process group that trains parity cells without Ray.

Reads one JSON cell a line from stdin, writes one JSON result a line to the file named in RESULTS.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import fused_cells
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.module_inject import layers
from questions import questions
from safetensors.torch import save_file
from whole_state import gathered

from raysft.data.feed.collate import Feed, Share, StepBatch, largest_micro_batch
from raysft.data.feed.rows import StoredRows
from raysft.data.feed.step_plan import Order
from raysft.data.store.parts import TokenStore
from raysft.data.text.tokenizer import load_tokenizer
from raysft.engine import choose, step, zero
from raysft.engine.choose import make_engine
from raysft.engine.pipeline import PipelineEngine
from raysft.engine.slices import Saved
from raysft.engine.zero import ZeroEngine
from raysft.errors import ModelError
from raysft.evaluate.adapter_start import adapter_start
from raysft.model.facts import read_facts
from raysft.model.fast import attention, loss_head, onednn_linear, start_check, ulysses
from raysft.model.fast.start_check import use_fast_paths
from raysft.model.heads import auxiliary_head
from raysft.model.load import load_model
from raysft.model.methods import apply_method, base_model, forward_of, hold_in_four_bits, set_start, step_acts
from raysft.objectives.base import Term
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.objectives.objective import Objective
from raysft.objectives.reduce import Reduced, Sums, added, reduced
from raysft.objectives.view import View
from raysft.recipe.load import parse_recipe
from raysft.recipe.resolve import ResolvedRun, resolve
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of
from raysft.train.assembly import live_teachers, outlined_module
from raysft.train.commits.checkpoint import begin_attempt
from raysft.train.commits.writer import Retention, Writer
from raysft.train.engine_check import check_engine
from raysft.train.group import TorchGroup
from raysft.train.probe import Largest, fit
from raysft.train.state import TrainState


def mean_of_means(batch: StepBatch, run: ResolvedRun) -> StepBatch:
    """The mutant: every micro-batch's mean counts alike, however many targets it has."""
    micro = tuple(
        dataclasses.replace(m, weights=m.weights / max(float(m.weights.sum()), 1.0)) for m in batch.micro_batches
    )
    return dataclasses.replace(batch, micro_batches=micro, units={"nll": float(run.micro_steps)})


def without_last(batch: StepBatch) -> StepBatch:
    """The mutant: the gradients of the last micro-batch are left out."""
    *others, last = batch.micro_batches
    nothing = dataclasses.replace(last, weights=np.zeros_like(last.weights))
    return dataclasses.replace(batch, micro_batches=(*others, nothing))


def scale_each_stage(engine: PipelineEngine, num_micro: int) -> None:
    """The mutant: every stage divides what it gets back by the number of micro-batches (DeepSpeed before 0.19.3)."""

    def on_output(module: torch.nn.Module, given: object, output: torch.Tensor) -> None:
        if output.requires_grad and output.ndim:
            output.register_hook(lambda gradient: gradient / num_micro)

    engine._passes.register_forward_hook(on_output)


def all_over_all(parts: Iterable[Sums], terms: Sequence[Term]) -> Reduced:
    """The mutant: the sum of all terms over the sum of all units."""
    total = added(parts, terms)
    loss = sum(term.weight * total.terms[term.name] for term in terms) / sum(total.units.values())
    return dataclasses.replace(reduced([total], terms), loss=loss)


def switch_reduction(cell: dict[str, Any]) -> None:
    """The mutant, in what is told and in what is minimised."""
    mutant = cell.get("mutant") == "all_over_all"
    step.reduced = all_over_all if mutant else reduced
    zero.divisors = (lambda units: units.sum().expand_as(units)) if mutant else step.divisors


def begin(module: ObjectiveModule, recipe: Recipe, store: str) -> None:
    """What a task computes for the adapters before training, computed here."""
    if method_of(recipe).computed_start(recipe.method):
        found = adapter_start(recipe, load_tokenizer(recipe.model.tokenizer), TokenStore.open(store))
        set_start(module.model, found)


def build(
    recipe: Recipe, restored: Saved | None, objective: Objective, store: str, by_shares: bool | str = False
) -> ZeroEngine | PipelineEngine:
    tokenizer = load_tokenizer(recipe.model.tokenizer)
    if by_shares:
        module = outlined_module(recipe, tokenizer, torch.device("cpu"), recipe.train.max_steps or 8)
        begin(module, recipe, store)
        READ.clear()
        if by_shares == "torn" and dist.get_rank() == dist.get_world_size() - 1:
            assert module.unread is not None
            for tensor in module.unread._stored.values():
                object.__setattr__(tensor, "file", (0, 0, 0))
        return make_engine(module, resolve(recipe, read_facts(recipe), None), torch.device("cpu"), restored)
    model = load_model(recipe, vocab_size=len(tokenizer))
    use_fast_paths(model, len(tokenizer), packing=recipe.data.packing)
    if recipe.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted = apply_method(model, recipe)
    hold_in_four_bits(base_model(adapted), recipe)
    total_steps = recipe.train.max_steps or 8
    acts = step_acts(adapted, recipe, total_steps)
    train = recipe.train
    module = ObjectiveModule(
        adapted,
        objective,
        acts,
        forward_of(adapted, recipe),
        train.embedding_noise,
        train.adversarial_epsilon,
    )
    module.auxiliary, module.total_steps = auxiliary_head(base_model(adapted), recipe), total_steps
    begin(module, recipe, store)
    module.ask = live_teachers(recipe, tokenizer, torch.device("cpu"))
    return make_engine(module, resolve(recipe, read_facts(recipe), None), torch.device("cpu"), restored)


READ: list[int] = []
"""Bytes of each reading of weights by shares."""
PREADV = os.preadv


def counted(file: int, buffers: Any, offset: int) -> int:
    READ.append(PREADV(file, buffers, offset))
    return READ[-1]


os.preadv = counted  # type: ignore[assignment]


def with_room(engine: ZeroEngine | PipelineEngine, rows: int | None) -> ZeroEngine | PipelineEngine:
    """Passes of more rows fail as an allocation does, on every rank."""
    train_step = engine.train_step

    def limited(micro_batches: Any, *arguments: Any, **more: Any) -> Any:
        if rows is not None and max(len(batch.input_ids) for batch in micro_batches) > rows:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return train_step(micro_batches, *arguments, **more)

    engine.train_step = limited  # type: ignore[method-assign]
    return engine


CHUNK_TARGETS, INSTALL = loss_head.chunk_targets, loss_head.install_loss_head


def switch_loss(cell: dict[str, Any]) -> None:
    """A cell may ask for tiny chunks, or for a head that is left as it is."""
    chunk = cell.get("loss_chunk")
    loss_head.chunk_targets = CHUNK_TARGETS if chunk is None else lambda vocab_size, weight: chunk
    start_check.install_loss_head = (lambda model: None) if cell.get("plain_head") else INSTALL


def switch_products(cell: dict[str, Any]) -> None:
    """oneDNN in every layer, on every machine; a cell may ask for torch's own products."""
    onednn_linear.LEAST_WEIGHTS = 1
    onednn_linear.onednn_is_faster = lambda: not cell.get("own_products")  # type: ignore[assignment]


def one_segment_each(position_ids: torch.Tensor, borders: object = None) -> dict[str, Any]:
    """Borders that let all segments of a row see each other."""
    return attention.segment_borders(torch.arange(position_ids.shape[1]).expand_as(position_ids))


def switch_borders(cell: dict[str, Any]) -> None:
    """The mutant: attention over sequence-parallel ranks that leaks; `leak_unseen` also gets past the check."""
    mutant = cell.get("mutant") or ""
    ulysses.segment_borders = one_segment_each if mutant.startswith("leak") else attention.segment_borders
    choose.refuse_leaks = (lambda *found: None) if mutant == "leak_unseen" else start_check.refuse_leaks


VECTORS = View.vectors


def tell_vectors(cell: dict[str, Any], told: list[str]) -> None:
    """A cell may ask for digests of the vectors of each pass in training."""

    def vectors(view: View, pooling: Any) -> torch.Tensor:
        found = VECTORS(view, pooling)
        told.append(digest([found.detach()]))
        return found

    View.vectors = vectors if cell.get("vectors") else VECTORS  # type: ignore[method-assign]


COLUMN_BACKWARD = layers.ColumnParallel.backward


def switch_column_sum(cell: dict[str, Any]) -> None:
    """The mutant: a tensor-parallel rank takes its part of the gradient of what all ranks read for the whole."""
    forgets = cell.get("mutant") == "forget_column_sum"
    layers.ColumnParallel.backward = (
        staticmethod(lambda ctx, gradient: (None, gradient)) if forgets else COLUMN_BACKWARD
    )


def digest(tensors: Iterable[torch.Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return found.hexdigest()


def look_before_the_update(engine: Any) -> tuple[list[bool], list[str]]:
    """Filled in the next step: that the update asked whether it may begin, and what of the state was no longer as it
    is now: a save that copies it behind the passes (train/commits/snapshot.py) would commit some of both."""
    now = [(piece.key, piece.values.detach().clone()) for piece in engine.state()]
    looked: list[bool] = []
    moved: list[str] = []

    def look() -> None:
        looked.append(True)
        pieces = zip(engine.state(), now, strict=True)
        moved.extend(key for piece, (key, values) in pieces if not torch.equal(piece.values.detach(), values))

    engine.hold.until(look)
    return looked, moved


SEGMENT_ATTENTION = attention.segment_attention


def leaking_in_bf16(module: torch.nn.Module, query: torch.Tensor, *tensors: Any, **others: Any) -> Any:
    """Segment attention that forgets borders within a row, in bf16 alone."""
    if query.dtype == torch.bfloat16:
        width = query.shape[2]
        ends = torch.arange(0, len(query) * width + 1, width, dtype=torch.int32)
        others |= {"cu_seq_lens_q": ends, "segment_ends": ends.tolist()}
    return SEGMENT_ATTENTION(module, query, *tensors, **others)


def switch_kernel(cell: dict[str, Any]) -> None:
    """The mutant: a kernel that is wrong in the dtype of the training."""
    leaks = cell.get("mutant") == "leak_in_bf16"
    attention.AttentionInterface.register(attention.SEGMENTS, leaking_in_bf16 if leaks else SEGMENT_ATTENTION)


def run_cell(cell: dict[str, Any]) -> dict[str, Any]:
    switch_loss(cell)
    switch_kernel(cell)
    switch_borders(cell)
    switch_column_sum(cell)
    switch_reduction(cell)
    recipe, group = parse_recipe(cell["recipe"]), TorchGroup(torch.device("cpu"))
    run = resolve(recipe, read_facts(recipe), None)
    objective = make_objective(recipe)
    store = TokenStore.open(cell["store"])
    order = Order(recipe.train.rows_per_step, recipe.seed, recipe.data.order == "windowed")

    def feed_of(micro_batch_rows: int) -> Feed:
        share = Share(
            replica=run.layout.coordinate(group.rank).replica,
            num_replicas=run.num_replicas,
            micro_batch_rows=micro_batch_rows,
            packing=recipe.data.packing,
            sync=run.sync,
            token_flops=run.token_flops,
            square_flops=run.square_flops,
        )
        return Feed(StoredRows(store, order), objective.units, share, objective.columns)

    feed = feed_of(recipe.train.micro_batch_rows)
    attempt, restored = begin_attempt(cell["run"], group) if cell.get("run") else (None, None)
    saved = restored.saved() if restored else None
    if cell.get("probe"):
        largest = Largest(
            lambda n: [largest_micro_batch(n, 256)] * 2, recipe.train.micro_batch_rows, ("nll",), True, ""
        )
        cpu = torch.device("cpu")
        engine, probed = fit(
            lambda rows: with_room(build(recipe, saved, objective, cell["store"]), cell.get("room")),
            largest,
            group,
            cpu,
        )
        feed = feed_of(probed.micro_batch_rows)
    else:
        try:
            engine = build(recipe, saved, objective, cell["store"], cell.get("by_shares", False))
        except ModelError as error:
            return {"refused": str(error)}
    if cell.get("check", cell.get("mutant") != "leak_unseen"):
        try:
            check_engine(engine, recipe, len(load_tokenizer(recipe.model.tokenizer)))
        except ModelError as error:
            engine.close()
            return {"refused": str(error)}
    if cell.get("mutant") == "scale_each_stage":
        scale_each_stage(engine, run.micro_steps)
    writer = Writer(cell["run"], attempt, group, retention=Retention(2), facts={}) if attempt is not None else None
    first = restored.state.step if restored else 0
    result: dict[str, Any] = {
        "losses": [],
        "metrics": [],
        "norms": [],
        "samples": [],
        "micro_targets": [],
        "first": first,
    }
    schedule_lr = recipe.optimizer.learning_rate
    skipped = 0
    result["vectors"], result["questions"] = [], []
    if cell.get("reduced"):
        evaluated = [engine.eval_step(batch.micro_batches, batch.units) for batch in map(feed.step, range(2))]
        result["held_out_first"], result["held_out_both"] = (
            dataclasses.asdict(step.reduced(sums, objective.terms)) for sums in (evaluated[:1], evaluated)
        )
    tell_vectors(cell, result["vectors"])
    for step_index in range(first, cell.get("until", 20)):
        batch = feed.step(step_index)
        if cell.get("mutant") == "mean_of_means":
            batch = mean_of_means(batch, run)
        if cell.get("mutant") == "without_last":
            batch = without_last(batch)
        if cell.get("mutant") == "last_first":
            batch = dataclasses.replace(batch, micro_batches=batch.micro_batches[::-1])
        if step_index == cell.get("poison"):  # on the last rank only: all must skip together
            bad = np.float32("nan") if group.rank == group.size - 1 else np.float32(1)
            batch = dataclasses.replace(
                batch,
                micro_batches=tuple(dataclasses.replace(m, weights=m.weights * bad) for m in batch.micro_batches),
            )
        looked, moved = look_before_the_update(engine) if writer is None else ([True], [])
        with questions() if cell.get("questions") else nullcontext({}) as asked:
            done = engine.train_step(batch.micro_batches, batch.units, step=step_index, learning_rate=schedule_lr)
        assert looked, f"the update of step {step_index} did not ask whether it may begin"
        assert not moved, f"a pass of step {step_index} moved {moved}"
        result["questions"].append(asked)
        skipped += done.skipped
        result["losses"].append(done.loss)
        result["metrics"].append(done.found.metrics)
        result["norms"].append(done.grad_norm)
        result["samples"].append(done.sample_ids)
        result["micro_targets"].append([float(m.weights.sum()) for m in batch.micro_batches])
        if writer is not None and step_index + 1 == cell.get("commit_at"):
            writer.save(engine, TrainState(step=step_index + 1))
    trained = engine._shapes if isinstance(engine, PipelineEngine) else engine._trained
    state = gathered(engine.state(), trained)
    result |= {"weights": digest(state.values()), "skipped": skipped, "read": sum(READ)}
    tell_vectors({}, [])
    batch = feed.step(0)
    held_out = engine.eval_step(batch.micro_batches, batch.units)
    result["held_out"] = held_out.terms[objective.terms[0].name]
    result["held_out_loss"] = step.reduced([held_out], objective.terms).loss
    if isinstance(engine, PipelineEngine):
        result["tied"] = {name: digest([engine._trained[name].detach().float()]) for name in engine._tied}
    if isinstance(engine, ZeroEngine):
        result["cut"] = sorted(engine._shards.cuts)
    if cell.get("weights_to") and group.rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, cell["weights_to"])
    if cell.get("save") and writer is not None:
        writer.save(engine, TrainState(step=cell.get("until", 20)))
    if writer is not None:
        writer.finish()
    engine.close()
    return result


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    imported = 0
    with open(os.environ["RESULTS"], "w") as results:
        for line in sys.stdin:
            try:
                cell = json.loads(line)
                switch_products(cell)
                answer = fused_cells.run_cell(cell) if "trials" in cell else run_cell(cell)
            except Exception as error:
                import traceback

                answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            results.write(json.dumps(answer) + "\n")
            results.flush()
            if len(sys.modules) > imported:  # DeepSpeed and an engine's end collect garbage: 0.3 s each, of imports
                gc.collect()
                gc.freeze()
                imported = len(sys.modules)


if __name__ == "__main__":
    main()
