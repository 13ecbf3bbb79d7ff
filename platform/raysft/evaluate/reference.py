"""What the untrained model says of the rows of a store: the columns that an objective compares with. No Ray.

The model is the one that training begins with: the same weights, precision, attention and packing; without dropout
and without an adapter: most begin as nothing, and virtual tokens, which do not, are no part of it. Owns the numbers;
where they are kept is data/store/columns.py.

Shapes: B rows, T tokens a row, D hidden size, V vocabulary, N positions that predict a token, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from raysft.data.feed.collate import MicroBatch, collate
from raysft.data.store.packed_rows import Row
from raysft.errors import ModelError
from raysft.model.fast.loss import IGNORE, OutputHead, choice_log_probs, hidden_states, output_head, target_log_probs
from raysft.model.fast.places import Places
from raysft.model.fast.start_check import use_fast_paths, use_paths_of
from raysft.model.load import dtypes_as_held, load_model, rows_for
from raysft.model.methods import round_as_held
from raysft.model.spread import Room
from raysft.model.trained import load_untrained
from raysft.model.twin import make_twin
from raysft.recipe.columns import REFERENCE_LOG_PROB, Field
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of

VERSION = 1
"""Raise it when the same rows and model would give other numbers."""

_CHUNK = 256
"""Positions whose logits exist at a time."""

Values = dict[str, NDArray[Any]]
"""{column: values of some rows behind each other}, as packed_rows.columns_of takes them."""


def reference_inputs(recipe: Recipe, base: Mapping[str, Any] | str) -> dict[str, Any]:
    """What decides the numbers, besides rows and columns. base: what decides the weights."""
    rounded = {"base_precision": "nf4"} if method_of(recipe).is_four_bit(recipe.method) else {}
    return {"version": VERSION, "base": base, "precision": recipe.train.precision, **rounded}


def load_reference(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, room: Room) -> PreTrainedModel:
    """The untrained model as a worker would hold it, ready to be asked. Raises ModelError.

    Its tensors are read one by one and lie where there is room; what a worker would load whole is whole on the first
    device.
    """
    twin = _checked_twin(recipe, room.main)
    if twin is None:
        return _load_whole(recipe, tokenizer, room.main)
    begin = partial(use_paths_of, twin=twin)
    size = rows_for(tokenizer)
    model = load_untrained(recipe, vocab_size=size, room=room, begin=begin, dtypes=dtypes_as_held)
    model.train(False)
    return model


def _checked_twin(recipe: Recipe, device: torch.device) -> PreTrainedModel | None:
    """A small model of its kind with the fast paths that are right for it; None: the real one must be asked."""
    twin = make_twin(recipe)
    if twin is None:
        return None
    torch.nn.Module.to(twin, device)
    try:
        use_fast_paths(twin, twin.config.vocab_size, packing=recipe.data.packing, max_tokens=recipe.data.max_tokens)
    except ModelError:
        return None
    return twin


def _load_whole(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, device: torch.device) -> PreTrainedModel:
    model = load_model(recipe, vocab_size=rows_for(tokenizer))
    round_as_held(model, recipe)
    torch.nn.Module.to(model, device)
    data = recipe.data
    use_fast_paths(model, len(tokenizer), packing=data.packing, max_tokens=data.max_tokens)
    if recipe.train.precision == "bf16":
        model.bfloat16()
    model.train(False)
    return model


def reference_values(
    model: PreTrainedModel, batches: Iterator[list[Row]], fields: Sequence[Field], *, packing: bool
) -> Iterator[tuple[list[Row], Values]]:
    """The columns `fields` of each batch of rows, one forward pass each. Raises ModelError."""
    for rows in batches:
        batch = collate(rows, 0, packing=packing)
        try:
            found = _values(model, batch, fields)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                "the rows of a forward pass of the untrained model do not fit into memory",
                got=" ".join(str(error).split())[:300],
                expected=f"{len(rows)} rows (train.micro_batch_rows) beside the model",
                fix="lower train.micro_batch_rows or data.max_tokens",
            ) from error
        check_numbers(found, rows)
        yield rows, found


@torch.no_grad()
def _values(model: PreTrainedModel, batch: MicroBatch, fields: Sequence[Field]) -> Values:
    input_ids, position_ids = (_on_device(model, array) for array in (batch.input_ids, batch.position_ids))
    hidden, head = hidden_states(model, input_ids, position_ids), output_head(model)  # [B, T, D]
    names = {field.name for field in fields}
    found: Values = {}
    if REFERENCE_LOG_PROB.name in names:
        labels = _on_device(model, batch.labels)
        found[REFERENCE_LOG_PROB.name] = _by_sample(target_log_probs(hidden, head, labels), batch)
    of_tokens = [field for field in fields if field.per == "token"]
    if of_tokens:
        ids, log_probs = (field.name for field in of_tokens)
        found[ids], found[log_probs] = _top(hidden, head, batch, of_tokens[0].width)
    return found


def _by_sample(log_probs: Tensor, batch: MicroBatch) -> NDArray[np.float64]:
    """[S]: sums over the trained tokens of each sample. log_probs: [N], in the order of the labels."""
    owners = batch.segment_of[batch.labels != IGNORE]
    sums = np.zeros(len(batch.sample_ids), np.float64)
    np.add.at(sums, owners, log_probs.double().cpu().numpy())
    return sums


def _top(
    hidden: Tensor, head: OutputHead, batch: MicroBatch, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(ids, log p) of the k likeliest tokens where each token is predicted, likeliest first: [tokens, k] each.

    Zeros at the first token of a sample, which nothing predicts. Never holds the logits of all positions.
    """
    segment_of, predicts = batch.segment_of, predicting(batch)
    wanted = hidden[:, :-1][_on_device_of(hidden, predicts)]  # [N, D]
    pieces = [_top_of(chunk, head, k) for chunk in torch.split(wanted, _CHUNK)]
    all_ids = np.zeros((*segment_of.shape, k), np.int64)
    all_log_probs = np.zeros((*segment_of.shape, k), np.float32)
    all_ids[:, 1:][predicts] = torch.cat([ids for ids, _ in pieces]).cpu().numpy()
    all_log_probs[:, 1:][predicts] = torch.cat([log_probs for _, log_probs in pieces]).cpu().numpy()
    is_token = segment_of >= 0
    return all_ids[is_token], all_log_probs[is_token]


def predicting(batch: MicroBatch) -> NDArray[np.bool_]:
    """[B, T - 1]: is the next token one of the same sample, which is predicted there?"""
    segment_of = batch.segment_of
    found: NDArray[np.bool_] = (segment_of[:, :-1] == segment_of[:, 1:]) & (segment_of[:, 1:] >= 0)
    return found


def _top_of(hidden: Tensor, head: OutputHead, k: int) -> tuple[Tensor, Tensor]:
    """[C, D] -> ids, log p: [C, k] each. Log p as training computes it, whatever the head's own precision."""
    logits = head.module(hidden)  # [C, V], in the order of the probabilities
    if k > logits.shape[-1]:
        raise ModelError(
            "more likeliest tokens are asked for than the model has tokens",
            got=f"objective.kl_top_k: {k}",
            expected=f"at most {logits.shape[-1]}",
            fix="lower objective.kl_top_k",
        )
    ids = torch.topk(logits, k, dim=-1).indices
    everywhere = Places(torch.arange(len(hidden), device=hidden.device))
    return ids, choice_log_probs(hidden[None], head, ids[None], everywhere)


def check_numbers(found: Values, rows: Sequence[Row], model: str = "the untrained model") -> None:
    """A loss that is compared with no number would train nothing, in silence. Raises ModelError."""
    wrong = [name for name, values in found.items() if not np.isfinite(values).all()]
    if wrong:
        ids = np.concatenate([row.segment_fields["sample_id"] for row in rows])
        raise ModelError(
            f"{model} gives probabilities that are no numbers",
            got=f"{wrong[0]} of the samples {ids[0]} to {ids[-1]}",
            expected="finite log-probabilities",
            fix="check its weights; with train.precision: bf16, try fp32",
        )


def _on_device(model: PreTrainedModel, array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array).to(model.device)


def _on_device_of(like: Tensor, array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array).to(like.device)
