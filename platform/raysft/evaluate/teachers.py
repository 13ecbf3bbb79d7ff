"""What teachers say of the rows of a store: the columns that distillation compares with. No Ray.

The mean of their probabilities at a temperature, over the tokens of the tokenizer that they and the student share:
the k likeliest of it where each token is predicted, or fewer and some that are drawn of the others. A model may have
more rows than its tokenizer has tokens; what it says of those is left out.

Shapes: B rows, T tokens a row, D hidden size, V tokens of the tokenizer, C positions of a chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from raysft.data.feed.collate import MicroBatch, collate
from raysft.data.store.packed_rows import Row
from raysft.data.text.tokenizer import recipe_tokenizer
from raysft.errors import ModelError, RecipeError
from raysft.evaluate.reference import Values, check_numbers, load_reference, predicting
from raysft.model.encoder import check_encoder
from raysft.model.facts import load_config, read_facts
from raysft.model.fast.attention import Borders
from raysft.model.fast.loss import OutputHead, hidden_states, logits_of, output_head
from raysft.model.fast.places import Places
from raysft.model.load import rows_for
from raysft.model.spread import Room
from raysft.recipe.change import change
from raysft.recipe.columns import Field
from raysft.recipe.objective_traits import teachers_of
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.objective import DistillObjective
from raysft.recipe.teachers import teacher_recipes

logger = logging.getLogger(__name__)

VERSION = 1
"""Raise it when the same rows and teachers would give other numbers."""

_CHUNK = 256
"""Positions whose logits exist at a time, for each teacher."""

_GOLDEN, _ROOT = (5**0.5 - 1) / 2, 2**0.5 - 1
"""Multiples of an irrational number are spread evenly over [0, 1), each beside its whole part."""


@dataclass(frozen=True)
class Teachers:
    """Models of one tokenizer, ready to be asked."""

    models: Sequence[PreTrainedModel]
    weights: Sequence[float]
    """What each counts in the mean; their sum is 1."""
    temperature: float
    num_tokens: int
    """V."""
    draws: int = 0
    """How many of the tokens that are kept are drawn of those that are not the likeliest."""


def teacher_inputs(recipe: Recipe, teachers: Sequence[Mapping[str, Any] | str]) -> dict[str, Any]:
    """What decides the numbers, besides rows and columns. teachers: what decides the weights of each."""
    section = recipe.objective
    assert isinstance(section, DistillObjective)
    told = {"version": VERSION, "teachers": list(teachers), "weights": _weights(section)}
    told |= {"draws": section.teacher_draws} if section.teacher_draws else {}
    return {**told, "temperature": section.temperature, "precision": recipe.train.precision}


def check_teachers(recipe: Recipe) -> None:
    """Raises ModelError for a teacher that is no causal language model with a row for each of the student's tokens,
    or whose tokenizer gives other ids to these; it may have more. Reads no weights.

    One that has no tokenizer beside it is taken at the recipe's word.
    """
    tokenizer = recipe_tokenizer(recipe)
    own = tokenizer.get_vocab()
    for teacher, one in zip(teachers_of(recipe), teacher_recipes(recipe), strict=True):
        _check_model(teacher, one, rows_for(tokenizer))
    for teacher in teachers_of(recipe):
        try:
            theirs = recipe_tokenizer(change(recipe, {"model.source": teacher, "model.tokenizer": None})).get_vocab()
        except ModelError as error:
            logger.warning("teacher      %s: no tokenizer that could be compared (%s)", teacher, error.got)
            continue
        other = sorted(token for token in own if theirs.get(token) != own[token])
        if other:
            raise ModelError(
                "teacher and student have different vocabularies",
                got=f"{teacher}: {len(theirs):,} tokens; of the student's {len(own):,} it has {len(other):,} not, or "
                f"under other ids, {other[0]!r} for one",
                expected="the student's tokens under the same ids: what a teacher says of one is compared by its id",
                fix="name a teacher of the student's family in objective.teachers; or let the teacher write answers, "
                "and train on these",
            )


def _check_model(teacher: str, recipe: Recipe, num_rows: int) -> None:
    """recipe: the teacher's; num_rows: of embeddings that the student's tokenizer needs. Raises ModelError."""
    expected, fix = "a causal language model with a row for each of the student's tokens", "name another teacher"
    try:
        found = read_facts(recipe).vocab_size
        check_encoder(recipe, load_config(recipe))
    except (ModelError, RecipeError) as error:
        raise ModelError(
            "a teacher cannot be asked",
            got=f"objective.teachers: {teacher}: {error.what} ({error.got})",
            expected=expected,
            fix=f"mend the path, or {fix}, in objective.teachers",
        ) from error
    if found < num_rows:
        raise ModelError(
            "a teacher has fewer tokens than the student",
            got=f"objective.teachers: {teacher}: {found:,} rows; the student's tokenizer needs {num_rows:,}",
            expected=expected,
            fix=f"{fix} in objective.teachers",
        )


def load_teachers(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, room: Callable[[Recipe], Room]) -> Teachers:
    """The teachers of a recipe as a worker holds a model in evaluation, each where there is room when it comes.

    Raises ModelError.
    """
    section = recipe.objective
    assert isinstance(section, DistillObjective)
    models = [load_reference(one, tokenizer, room(one)) for one in teacher_recipes(recipe)]
    return Teachers(models, _weights(section), section.temperature, rows_for(tokenizer), section.teacher_draws)


def teacher_values(
    teachers: Teachers, batches: Iterator[list[Row]], fields: Sequence[Field], *, packing: bool
) -> Iterator[tuple[list[Row], Values]]:
    """The columns `fields` (of columns.teacher_top_k) of each batch of rows. Raises ModelError."""
    ids, log_probs = fields
    if ids.width > teachers.num_tokens:
        raise ModelError(
            "more likeliest tokens are asked for than there are",
            got=f"objective.teacher_top_k: {ids.width}",
            expected=f"at most {teachers.num_tokens}",
            fix="lower objective.teacher_top_k",
        )
    for rows in batches:
        found = _values(teachers, collate(rows, 0, packing=packing), ids.width)
        values = {ids.name: found[0], log_probs.name: found[1]}
        check_numbers(values, rows, "a teacher")
        yield rows, values


def _values(teachers: Teachers, batch: MicroBatch, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, log p) of k tokens, likeliest first: [tokens, k] each; zeros where nothing is predicted."""
    predicts, device = predicting(batch), teachers.models[0].device  # [B, T - 1]
    ids, positions = (torch.from_numpy(array).to(device) for array in (batch.input_ids, batch.position_ids))
    wanted = Places.where(torch.from_numpy(np.pad(predicts, ((0, 0), (0, 1)))).to(device))
    found = _asked(teachers, AskedRows(ids, positions, wanted), k)
    all_ids = np.zeros((*batch.segment_of.shape, k), np.int64)
    all_log_probs = np.zeros((*batch.segment_of.shape, k), np.float32)
    all_ids[:, 1:][predicts], all_log_probs[:, 1:][predicts] = (values.cpu().numpy() for values in found)
    is_token = batch.segment_of >= 0
    return all_ids[is_token], all_log_probs[is_token]


class AskedRows(NamedTuple):
    """Rows that teachers are asked about, on their device."""

    input_ids: Tensor
    """[B, T] int64."""
    position_ids: Tensor
    """[B, T] int64, restarts at 0 where a segment starts."""
    predicting: Places
    """Where the next token is one of the same sample."""
    borders: Borders | None = None
    """Those of the positions, where they are known."""


@torch.no_grad()
def live_values(teachers: Teachers, fields: Sequence[Field], rows: AskedRows) -> dict[str, Tensor]:
    """The columns `fields` (of columns.teacher_top_k) of a micro-batch, [B, T, k] each: where a token is predicted,
    what stands in a store's column at that token; zeros elsewhere."""
    ids, log_probs = fields
    found = {
        ids.name: rows.input_ids.new_zeros((rows.input_ids.numel(), ids.width), dtype=torch.int32),
        log_probs.name: rows.input_ids.new_zeros((rows.input_ids.numel(), ids.width), dtype=torch.float32),
    }
    if len(rows.predicting.index):
        for column, values in zip(found.values(), _asked(teachers, rows, ids.width), strict=True):
            column.index_copy_(0, rows.predicting.index, values.to(column.dtype))
    return {name: column.view(*rows.input_ids.shape, ids.width) for name, column in found.items()}


@torch.no_grad()
def _asked(teachers: Teachers, rows: AskedRows, k: int) -> tuple[Tensor, Tensor]:
    """(ids, log p) of k tokens wherever a token is predicted, [N, k] each, row by row."""
    asked = []
    for model in teachers.models:
        hidden = rows.predicting.of(hidden_states(model, rows.input_ids, rows.position_ids, rows.borders))  # [N, D]
        head = output_head(model)
        shape = replace(head.shape, temperature=teachers.temperature)
        asked.append((torch.split(hidden, _CHUNK), OutputHead(head.module, shape)))
    places = torch.split(_offsets(rows), _CHUNK)
    pieces = [
        kept_tokens(_mixed(teachers, [(chunks[i], head) for chunks, head in asked]), k, teachers.draws, places[i])
        for i in range(len(places))
    ]
    return torch.cat([ids for ids, _ in pieces]), torch.cat([log_probs for _, log_probs in pieces])


def _offsets(rows: AskedRows) -> Tensor:
    """[N] in [0, 1), evenly spread; each depends on a token and its place in the row, on no other row."""
    index = rows.predicting.index
    places = (index % rows.input_ids.shape[1]).double() * _GOLDEN
    return (places + rows.input_ids.flatten()[index].double() * _ROOT) % 1


def kept_tokens(log_p: Tensor, k: int, draws: int, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """(ids, log p) of k tokens, [C, k] each: the likeliest, and so many draws of all others. log_p: [C, V].

    Each draw stands for the same share of the others' probability, so that all k add up to 1, and a mean over them is
    that over all tokens, in expectation (arXiv:2503.16870). Drawn systematically: `offsets` [C], uniform in [0, 1),
    is how far the first stands into its share of the cumulated probability; the next stand a share further each.
    """
    values, ids = log_p.topk(k - draws, -1)
    if not draws:
        return ids, values
    cumulated = log_p.double().exp().scatter(-1, ids, 0.0).cumsum(-1)  # [C, V]
    share = cumulated[:, -1:] / draws
    at = (offsets.to(share)[:, None] + torch.arange(draws).to(share)) * share  # [C, draws]
    drawn = torch.searchsorted(cumulated, at, right=True).clamp_max(log_p.shape[-1] - 1)
    own = share.clamp_min(torch.finfo(torch.float32).tiny).log().to(values).expand_as(drawn)
    return torch.cat([ids, drawn], -1), torch.cat([values, own], -1)


def _mixed(teachers: Teachers, asked: Sequence[tuple[Tensor, OutputHead]]) -> Tensor:
    """log of the weighted mean of the teachers' probabilities, [C, V]. asked: each one's [C, D] and head."""
    found = [
        torch.log_softmax(logits_of(head, hidden)[:, : teachers.num_tokens], -1) + float(np.log(weight))
        for (hidden, head), weight in zip(asked, teachers.weights, strict=True)
    ]
    return found[0] if len(found) == 1 else torch.logsumexp(torch.stack(found), 0)


def _weights(section: DistillObjective) -> list[float]:
    given = section.teacher_weights or (1.0,) * len(section.teachers)
    return [weight / sum(given) for weight in given]
