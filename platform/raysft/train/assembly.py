"""The module that a worker trains: its model, in full or as an outline, its method, its objective."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from safetensors.torch import load
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from raysft import storage
from raysft.data.text.tokenizer import load_tokenizer
from raysft.errors import ModelError
from raysft.evaluate.teachers import AskedRows, live_values, load_teachers
from raysft.model.adapter_check import check_forward
from raysft.model.facts import UNUSABLE
from raysft.model.fast.start_check import use_fast_paths, use_paths_of, use_precision
from raysft.model.heads import auxiliary_head
from raysft.model.load import load_model, rows_for
from raysft.model.methods import (
    apply_method,
    base_model,
    forward_of,
    hold_in_four_bits,
    of_weights,
    set_start,
    step_acts,
)
from raysft.model.outline import Unread, WholeOnlyError, outline
from raysft.model.spread import unlimited
from raysft.model.twin import make_twin
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.known import known_of
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.objective_traits import live_columns
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of, virtual_tokens
from raysft.train.history.paths import RunPaths
from raysft.train.worker_input import WorkerContext

logger = logging.getLogger(__name__)


def build_module(context: WorkerContext) -> ObjectiveModule:
    """Model, method and objective. The engine reads its weights, or all of them are there. Collective.

    Raises ModelError on the rank that cannot load it.
    """
    recipe = context.recipe
    module = _by_shares(context)
    if module is None:
        adapted = apply_method(load_base(context), recipe)
        hold_in_four_bits(base_model(adapted), recipe)
        check_forward(adapted, recipe, len(_tokenizer(context)))
        module = _with_objective(adapted, recipe, context.job.total_steps)
    if method_of(recipe).computed_start(recipe.method):
        set_start(module.model, load(storage.read_bytes(RunPaths(context.job.run).start)))
    module.ask = live_teachers(recipe, _tokenizer(context), context.device)
    return module


def live_teachers(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, device: torch.device
) -> Callable[[DeviceBatch], Mapping[str, Tensor]] | None:
    """What asks the recipe's teachers about a micro-batch, whole on this device; None: none is asked in training.

    Where ranks share rows, what is known of a batch is known of their parts: places are looked for then, and a GPU is
    waited for. Raises ModelError.
    """
    columns, has_whole_rows = live_columns(recipe), recipe.parallel.sequence == 1
    if not columns:
        return None
    teachers = load_teachers(recipe, tokenizer, lambda teacher: unlimited(device))

    def ask(batch: DeviceBatch) -> Mapping[str, Tensor]:
        known = batch.known if has_whole_rows else known_of(batch[:7])
        rows = AskedRows(batch.input_ids, batch.position_ids, known.predicting, known.borders)
        return live_values(teachers, columns, rows)

    return ask


def _by_shares(context: WorkerContext) -> ObjectiveModule | None:
    """The module without its weights; None: one of the ranks must load it whole. Collective."""
    found: list[ObjectiveModule] = []
    reason = "another worker must"
    try:
        found.append(outlined_module(context.recipe, _tokenizer(context), context.device, context.job.total_steps))
    except WholeOnlyError as error:
        reason = str(error)
    except Exception as error:  # process boundary: told by loading it whole, when all ranks have come this far
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if context.group.all_true(bool(found)):
        return found[0]
    if context.group.size > 1:
        logger.warning("every worker loads the whole model in fp32 before it keeps its part: %s", reason)
    return None


def load_base(context: WorkerContext) -> PreTrainedModel:
    """The model before its method, in fp32, attention and head checked. On the device, unless a pipeline cuts it."""
    recipe, tokenizer = context.recipe, _tokenizer(context)
    model = load_model(recipe, vocab_size=rows_for(tokenizer))
    if recipe.parallel.pipeline == 1 or recipe.model.attention == "flash_attention_2":  # it needs the device
        torch.nn.Module.to(model, context.device)
    use_fast_paths(model, len(tokenizer), packing=recipe.data.packing, max_tokens=_longest(recipe))
    _use_precision(recipe, model)
    _use_checkpoints(recipe, model)
    return model


def outlined_module(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, device: torch.device, total_steps: int
) -> ObjectiveModule:
    """The module without the weights that are in files, or made by ranges. Raises WholeOnlyError, ModelError."""
    found = outline(recipe, vocab_size=rows_for(tokenizer), device=device)
    twin = make_twin(recipe, recipe.parallel.tensor * recipe.parallel.sequence)
    if twin is None:
        raise WholeOnlyError("no small model of its kind can be made, which is checked in its place")
    torch.nn.Module.to(twin, device)
    vocab_size = twin.config.vocab_size
    try:
        use_fast_paths(twin, vocab_size, packing=recipe.data.packing, max_tokens=_longest(recipe))
        _use_precision(recipe, twin)
    except ModelError as error:  # of the real one the same may be untrue
        raise WholeOnlyError(f"a small model of its kind: {error.what}, {error.got}") from error
    use_paths_of(found.model, twin)
    _use_checkpoints(recipe, found.model)
    adapted = apply_method(found.model, recipe)
    hold_in_four_bits(base_model(adapted), recipe)
    module = _with_objective(adapted, recipe, total_steps)
    module.unread = Unread(module.model, found, twin, of_weights(adapted, recipe))
    return module


def _with_objective(model: torch.nn.Module, recipe: Recipe, total_steps: int) -> ObjectiveModule:
    acts, forward = step_acts(model, recipe, total_steps), forward_of(model, recipe)
    train = recipe.train
    module = ObjectiveModule(
        model, make_objective(recipe), acts, forward, train.embedding_noise, train.adversarial_epsilon
    )
    module.auxiliary, module.total_steps = auxiliary_head(base_model(model), recipe), total_steps
    return module


def _use_precision(recipe: Recipe, model: PreTrainedModel) -> None:
    """Have the attention of a model be asked in the precision of its training: in a small one with heads as its own.

    Raises ModelError. Where no small one can be made, or asked, fp32 has told what can be told.
    """
    small = make_twin(recipe, own_heads=True) if recipe.train.precision == "bf16" else None
    if small is None:
        return
    torch.nn.Module.to(small, next(model.parameters()).device)
    use_paths_of(small, model)
    try:
        use_precision(small, small.config.vocab_size, torch.bfloat16, packing=recipe.data.packing)
    except UNUSABLE as error:
        reason = " ".join(str(error).split())[:200]
        logger.warning("a small %s could not be asked in bf16: %s", small.config.model_type, reason)
        return
    model.set_attn_implementation(small.config._attn_implementation)


def _longest(recipe: Recipe) -> int:
    """Positions of the longest sample that can come."""
    return recipe.data.max_tokens + virtual_tokens(recipe)


def _tokenizer(context: WorkerContext) -> PreTrainedTokenizerFast:
    section = context.recipe.model
    return load_tokenizer(
        context.job.tokenizer, revision=section.revision, trust_remote_code=section.trust_remote_code
    )


def _use_checkpoints(recipe: Recipe, model: PreTrainedModel) -> None:
    if recipe.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
