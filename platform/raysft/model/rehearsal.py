"""A run's way through its model, walked before it starts: built without weights, adapted, merged, saved.

Owns what is tried and what is said of it. What cannot be saved after days of training is refused within seconds.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from raysft.errors import ModelError, RaysftError
from raysft.model.adapter_check import check_kind
from raysft.model.card import CardFacts
from raysft.model.decoder import unread
from raysft.model.export import export_parts, write_parts
from raysft.model.heads import auxiliary_head
from raysft.model.load import empty_model, rows_for
from raysft.model.matrices import matrices
from raysft.model.methods import (
    METHODS,
    adapted_layers,
    apply_method,
    base_model,
    check_four_bit,
    is_adapted,
    is_layer_adapted,
    keys_lost_by_reload,
    plain_name,
)
from raysft.model.outline import why_whole
from raysft.model.twin import refuse_packing
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.optimizer import MuonOptimizer
from raysft.recipe.traits import method_of, virtual_tokens

_NOTHING = CardFacts(0, 0, 0, 0, {}, {}, {})


def rehearse(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, stops: Sequence[int] = ()) -> list[str]:
    """Do without weights all that an export will do. Returns what will be trained, in lines. Raises ModelError."""
    transformers_logging.disable_progress_bar()
    check_four_bit(recipe)
    refuse_packing(recipe)
    check_kind(recipe)
    module = apply_method(empty_model(recipe, vocab_size=rows_for(tokenizer)), recipe)
    if (begin := METHODS[recipe.method.kind].begin) is not None:
        begin(module, recipe)
    lines = [*describe_trained(module, tokenizer), *_describe_optimizer(module, recipe), *_describe_method(recipe)]
    if (second := auxiliary_head(base_model(module), recipe)) is not None:
        count = sum(parameter.numel() for parameter in second.parameters())
        mover = " by adamw" if isinstance(recipe.optimizer, MuonOptimizer) else ""
        lines.append(
            f"second head  {count:,} parameters beside the model: trained{mover}, kept by commits, not exported"
        )
    if reason := why_whole(recipe, vocab_size=rows_for(tokenizer)):
        lines.append(f"loading      every worker loads the whole model in fp32: {reason}")
    try:
        if "adapter" in export_parts(recipe):
            _check_adapter_loads(module, apply_method(empty_model(recipe, vocab_size=rows_for(tokenizer)), recipe))
        with tempfile.TemporaryDirectory(prefix="raysft-rehearsal-") as directory:
            write_parts(recipe, module, tokenizer, _NOTHING, Path(directory), stops, with_weights=False)
    except RaysftError:
        raise
    except Exception as error:  # whatever a model's, a tokenizer's or peft's own code raises
        raise ModelError(
            "this model could be trained, but not exported",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            expected="configs and a tokenizer that transformers saves, adapters that peft merges",
            fix="mend what is named in the model's directory, or choose other method.target_modules",
        ) from error
    return lines


def _describe_method(recipe: Recipe) -> list[str]:
    """What a method does besides training, where it is not as with others."""
    method, extra, lines = method_of(recipe), virtual_tokens(recipe), []
    if extra:
        lines.append(
            f"samples      {extra} virtual tokens before each: more positions and memory than data.max_tokens"
        )
    if "adapter" in (parts := export_parts(recipe)):
        loads = {"raysft": "lines of its card load it"}.get(method.library, "peft loads it")
        instead = "serve export/merged there" if "merged" in parts else "answer with transformers"
        vllm = "vLLM, too" if method.is_served(recipe.method) else f"vLLM does not: {instead}"
        lines.append(f"adapter      {loads}; {vllm}")
    if recipe.export.merged and "merged" not in method.exports:
        lines.append(f"export       the adapter alone: with {method.title} there is no weight to merge it into")
    return lines


def _describe_optimizer(module: nn.Module, recipe: Recipe) -> list[str]:
    """Which parameters Muon moves, and which it leaves to AdamW. Raises ModelError where it would move none."""
    if not isinstance(recipe.optimizer, MuonOptimizer):
        return []
    moved = matrices(module)
    if not moved:
        raise ModelError(
            "Muon finds no matrix to move",
            got=f"optimizer.kind: muon, method.kind: {recipe.method.kind}",
            expected="trained weights of linear layers, or of experts",
            fix="set optimizer.kind: adamw",
        )
    left = {name for name, parameter in module.named_parameters() if parameter.requires_grad} - moved.keys()
    told = {"muon": moved, "adamw": left}
    return [f"{kind:12} {len(names)} parameters: {_ends(names)}" for kind, names in told.items() if names]


def _ends(names: Iterable[str]) -> str:
    """`q_proj.weight x 2, norm.weight`: the ends of names, and how often each is there."""
    counts = Counter(".".join(name.replace(".default", "").split(".")[-2:]) for name in names)
    return ", ".join(f"{end} x {count}" if count > 1 else end for end, count in sorted(counts.items()))


def _check_adapter_loads(trained: nn.Module, fresh: nn.Module) -> None:
    """Would peft put an adapter that it has saved where it was? Raises ModelError. Both modules without weights."""
    lost = keys_lost_by_reload(trained, fresh)
    if lost:
        raise ModelError(
            "peft would not load all of this adapter again",
            got=f"{len(lost)} matrices that it saves under other names than it looks for: {lost[0]}, ...",
            expected="an adapter that anybody can put on its base",
            fix="set export.adapter: false (export/merged has all of it), or name other layers in "
            "method.target_modules",
        )


def describe_trained(module: nn.Module, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """How many parameters are trained, in which layers, and what stays as it is. Raises ModelError for none."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    trained, total = sum(n for n, is_trained in sizes if is_trained), sum(n for n, _ in sizes)
    line = f"trained      {trained:,} of {total:,} parameters ({trained / total:.2%})"
    model = base_model(module)
    lines = [f"not read     {name}: no text passes it, it stays as it is" for name in unread(model)]
    if not trained:
        raise ModelError(
            "nothing would be trained",
            got=line.removeprefix("trained").strip(),
            expected="parameters that are trained",
            fix="change the numbers of method, or set method.kind: lora",
        )
    if not is_adapted(module):
        return [line, *lines]
    adapted = adapted_layers(module)
    if adapted:
        counts = Counter(name.rpartition(".")[2] for name in adapted)
        lines.insert(0, f"adapters     {', '.join(f'{name} x {count}' for name, count in sorted(counts.items()))}")
        lines += _frozen(model, set(adapted), total)
    return [line, *lines, *_added_tokens(module, tokenizer)]


def _added_tokens(module: nn.Module, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Tokens that were added to a vocabulary may have rows that nobody has trained, and LoRA leaves them so."""
    added = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    model = base_model(module)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if not added or any(is_layer_adapted(layer) for layer in ends):
        return []
    some = ", ".join(added[:3]) + (", ..." if len(added) > 3 else "")
    return [f"frozen       embeddings and head: rows of {len(added)} added tokens ({some}) stay as the base has them"]


def _frozen(model: nn.Module, adapted: set[str], total: int) -> list[str]:
    """Matrices of no linear layer that have no adapter: experts in one parameter, routers, convolutions."""
    found: dict[str, list[int]] = {}
    for path, owner in model.named_modules():
        if isinstance(owner, nn.Linear | nn.Embedding | Conv1D) or "norm" in type(owner).__name__.lower():
            continue
        for name, parameter in owner.named_parameters(recurse=False):
            is_left = not parameter.requires_grad and plain_name(f"{path}.{name}") not in adapted
            if parameter.ndim >= 2 and is_left and "bias" not in name:
                found.setdefault(f"{type(owner).__name__}.{name}", []).append(parameter.numel())
    return [
        f"frozen       {name} x {len(sizes)}: {sum(sizes):,} parameters ({sum(sizes) / total:.2%}) without an adapter"
        for name, sizes in found.items()
    ]
