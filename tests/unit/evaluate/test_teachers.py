"""What teachers write beside a store: the mean of what transformers gives of each sample alone; who is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import make_recipe
from tasks_here import Tasks

from raysft.data.feed.collate import MicroBatch, collate
from raysft.data.prepare import prepare as prepare_module
from raysft.data.prepare.prepare import prepare
from raysft.data.prepare.prepared import Prepared
from raysft.data.store.parts import TokenStore
from raysft.data.text.tokenizer import recipe_tokenizer, train_tokenizer
from raysft.errors import ModelError
from raysft.evaluate.teachers import AskedRows, check_teachers, kept_tokens, live_values, load_teachers
from raysft.model.load import load_model, rows_for
from raysft.model.spread import unlimited
from raysft.objectives.batch import on_device
from raysft.recipe.change import change
from raysft.recipe.objective_traits import live_columns, reference_columns, teachers_of
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.schema import Recipe
from raysft.run import evaluation_tasks, reference
from raysft.run.base_weights import base_fingerprint
from raysft.run.reference import find_or_make

K, T, WEIGHTS = 5, 2.0, (1.0, 3.0)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recipe, Prepared, list[Any]]]:
    """(recipe, its stores, the teachers); the second teacher has more rows than the tokenizer has tokens."""
    folder = tmp_path_factory.mktemp("taught")
    recipe = make_recipe(folder, count=40)
    tokenizer = recipe_tokenizer(recipe)
    models, places = [], []
    for seed, extra in ((1, 0), (2, 9)):
        config = {**recipe.model.config, "vocab_size": rows_for(tokenizer) + extra, "hidden_size": 32}
        model = load_model(change(recipe, {"seed": seed, "model.config": config}), vocab_size=rows_for(tokenizer))
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(20)  # tied: no flat distributions
        places.append(str(folder / f"teacher-{seed}"))
        model.save_pretrained(places[-1])
        tokenizer.save_pretrained(places[-1])
        models.append(model.eval())
    distill = {
        "kind": "distill",
        "teachers": places,
        "teacher_top_k": K,
        "temperature": T,
        "teacher_weights": WEIGHTS,
    }
    recipe = with_absolute_paths(change(recipe, {"objective": distill}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module.ray, "is_initialized", lambda: True)
        patch.setattr(prepare_module, "on_ray", Tasks())
        patch.setattr(reference, "on_ray", Tasks())
        patch.setattr(evaluation_tasks, "worker_runtime", lambda section: {})
        yield recipe, prepare(recipe), models


def test_the_columns_are_the_mean_of_what_each_teacher_says_of_a_sample_alone(taught: Any) -> None:
    recipe, prepared, models = taught
    found = find_or_make(recipe, prepared)
    opened, size = TokenStore.open(prepared.train, found.train), rows_for(recipe_tokenizer(recipe))
    checked = 0
    for row in opened.read_rows(range(opened.num_rows)):
        ends = np.cumsum(row.segment_fields["length"])[:-1]
        names = ("input_ids", "teacher_ids", "teacher_log_probs")
        for ids, top, log_probs in zip(*(np.split(row.token_fields[name], ends) for name in names), strict=True):
            mean = np.zeros((len(ids), size))
            for model, weight in zip(models, WEIGHTS, strict=True):
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor(ids.astype(np.int64))[None]).logits[0, :, :size]
                mean += weight / sum(WEIGHTS) * torch.softmax(logits.double() / T, -1).numpy()
            expected = -np.sort(-mean[:-1], axis=-1)[:, :K]
            np.testing.assert_allclose(np.exp(log_probs[1:]), expected, rtol=2e-3, atol=1e-6)
            own = np.take_along_axis(mean[:-1], top[1:].astype(np.int64), -1)
            np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-7)
            assert top.max() < size
            checked += len(ids)
    assert checked > 100


def asked_rows(batch: MicroBatch) -> AskedRows:
    there = on_device(batch, torch.device("cpu"))
    return AskedRows(there.input_ids, there.position_ids, there.known.predicting, there.known.borders)


@pytest.mark.parametrize("packing", [True, False])
def test_live_teachers_say_what_stands_in_the_columns(taught: Any, packing: bool) -> None:
    """Of each micro-batch, whatever rows are in it; an empty one is asked nothing."""
    recipe, prepared, _ = taught
    draws = 2 if packing else 0  # of the place in a row
    recipe = change(recipe, {"objective.teacher_draws": draws, "data.packing": packing})
    store, fields = TokenStore.open(prepared.train, find_or_make(recipe, prepared).train), reference_columns(recipe)
    live = change(recipe, {"objective.live": True})
    assert (reference_columns(live), live_columns(live)) == ((), fields)
    teachers = load_teachers(live, recipe_tokenizer(live), lambda teacher: unlimited(torch.device("cpu")))
    for rows in ([0], [1, 2], range(store.num_rows)):
        stored = collate(store.read_rows(rows), 0, packing=packing, fields=fields)
        found = live_values(teachers, fields, asked_rows(collate(store.read_rows(rows), 0, packing=packing)))
        predicts = (stored.segment_of[:, 1:] == stored.segment_of[:, :-1]) & (stored.segment_of[:, 1:] >= 0)
        assert predicts.sum() > 20
        for field in fields:
            own, theirs = found[field.name].numpy(), stored.fields[field.name]
            assert (own.shape, own.dtype) == (theirs.shape, theirs.dtype)
            np.testing.assert_allclose(own[:, :-1][predicts], theirs[:, :-1][predicts], rtol=1e-4, atol=1e-5)
    empty = collate([], 0, packing=packing)
    assert [len(value.unique()) for value in live_values(teachers, fields, asked_rows(empty)).values()] == [1, 1]


def test_a_run_knows_its_live_teachers_by_their_content(taught: Any) -> None:
    recipe, _, _ = taught
    live = change(recipe, {"objective.live": True})
    before = base_fingerprint(live)
    assert before not in (None, base_fingerprint(recipe))
    assert base_fingerprint(change(live, {"objective.share": 0.9})) == before
    assert base_fingerprint(change(live, {"objective.teachers": list(reversed(teachers_of(live)))})) != before


def test_drawn_tokens_stand_for_all_others(taught: Any) -> None:
    """Mean over all places of what is kept: where each token has on average the probability that teachers give it."""
    recipe, prepared, models = taught
    drawn = change(recipe, {"objective.teacher_draws": 3})
    found = find_or_make(drawn, prepared).train
    assert found != find_or_make(recipe, prepared).train
    opened, size = TokenStore.open(prepared.train, found), rows_for(recipe_tokenizer(recipe))
    kept, told, places = np.zeros(size), np.zeros(size), 0
    for row in opened.read_rows(range(opened.num_rows)):
        ends = np.cumsum(row.segment_fields["length"])[:-1]
        names = ("input_ids", "teacher_ids", "teacher_log_probs")
        for ids, top, log_probs in zip(*(np.split(row.token_fields[name], ends) for name in names), strict=True):
            mean = np.zeros((len(ids) - 1, size))
            for model, weight in zip(models, WEIGHTS, strict=True):
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor(ids.astype(np.int64))[None]).logits[0, :-1, :size]
                mean += weight / sum(WEIGHTS) * torch.softmax(logits.double() / T, -1).numpy()
            np.testing.assert_allclose(np.exp(log_probs[1:]).sum(-1), 1, atol=1e-5)
            likeliest = np.argsort(-mean, -1)[:, : K - 3]
            np.testing.assert_array_equal(np.sort(top[1:, : K - 3], -1), np.sort(likeliest, -1))
            assert not (top[1:, K - 3 :, None] == likeliest[:, None, :]).any()
            np.add.at(kept, top[1:], np.exp(log_probs[1:]))
            told, places = told + mean.sum(0), places + len(mean)
    error = 3 * np.sqrt(told.max() / 3)  # three standard errors of as many draws of the commonest of others
    assert places > 100
    assert np.abs(kept - told).max() < error


def test_draws_are_unbiased_whatever_the_distribution() -> None:
    log_p = torch.log_softmax(torch.randn(1, 50, generator=torch.Generator().manual_seed(0)) * 2, -1)
    offsets = torch.arange(2000) / 2000
    ids, weights = kept_tokens(log_p.expand(2000, 50), 12, 4, offsets)
    mean = np.zeros(50)
    np.add.at(mean, ids.numpy(), weights.double().exp().numpy() / 2000)
    np.testing.assert_allclose(mean, log_p[0].double().exp().numpy(), atol=2e-4)
    sure = torch.tensor([[0.0, -800.0, -900.0]])
    assert torch.isfinite(kept_tokens(sure, 2, 1, torch.tensor([0.5]))[1]).all()


def test_other_teachers_have_other_columns_and_the_share_has_not(taught: Any) -> None:
    recipe, prepared, _ = taught
    first = find_or_make(recipe, prepared).train
    assert find_or_make(change(recipe, {"objective.share": 0.9}), prepared).train == first
    assert find_or_make(change(recipe, {"objective.temperature": 1.0}), prepared).train != first
    turned = change(recipe, {"objective.teacher_weights": WEIGHTS[::-1]})
    assert find_or_make(turned, prepared).train != first


def test_a_teacher_of_another_vocabulary_is_refused(taught: Any, tmp_path: Path) -> None:
    recipe, _, models = taught
    check_teachers(recipe)
    larger = recipe_tokenizer(recipe)
    larger.add_tokens(["<a token of the teacher's own>"])
    larger.save_pretrained(tmp_path / "larger")
    models[0].save_pretrained(tmp_path / "larger")
    more = {"objective.teachers": [str(tmp_path / "larger")], "objective.teacher_weights": None}
    check_teachers(change(recipe, more))
    (tmp_path / "text.jsonl").write_text('{"text": "quite another text, with other letters: xyz 123"}\n' * 50)
    models[0].save_pretrained(tmp_path / "teacher")
    other = change(recipe, {"objective.teachers": [str(tmp_path / "teacher")], "objective.teacher_weights": None})
    check_teachers(other)  # without a tokenizer beside it
    train_tokenizer(
        [str(tmp_path / "text.jsonl")], columns={}, vocab_size=270, template="chatml", out=str(tmp_path / "o")
    )
    for file in (tmp_path / "o").iterdir():
        file.rename(tmp_path / "teacher" / file.name)
    with pytest.raises(ModelError, match="different vocabularies"):
        check_teachers(other)
