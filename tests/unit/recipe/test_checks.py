"""Rules over several fields of a recipe."""

from __future__ import annotations

from fakes import make_recipe
from refusals import refuse

from raysft.recipe.checks import check_recipe
from raysft.recipe.load import parse_recipe


def test_noise_on_embeddings_is_of_samples_alone() -> None:
    assert "virtual tokens" in refuse(method={"kind": "prefix"}, train={"embedding_noise": 5.0})
    noisy = refuse(train={"embedding_noise": 5.0, "adversarial_epsilon": 1.0})
    assert "moves the embeddings" in noisy
    assert "or train.embedding_noise: 0" in noisy
    virtual = refuse(method={"kind": "prefix"}, train={"adversarial_epsilon": 1.0})
    assert "moves the embeddings" in virtual
    assert "embedding_noise" not in virtual  # it is 0: what is not in the way is no fix
    check_recipe(make_recipe(method={"kind": "lora"}, train={"embedding_noise": 5.0}))


def test_host_memory_holds_what_zero_partitions() -> None:
    for parallel in ({"zero": 0}, {"zero": 1, "pipeline": 2}):
        told = refuse(parallel=parallel | {"offload": "cpu"}, cluster={"workers": 2})
        assert "host memory" in told
        assert "parallel.zero: 1, 2 or 3" in told
    check_recipe(make_recipe(parallel={"zero": 3, "offload": "cpu"}))


def test_communication_that_would_be_ignored_is_refused() -> None:
    piped = {"zero": 1, "pipeline": 2}
    assert "after all passes" in refuse(parallel=piped | {"overlap": True}, cluster={"workers": 2})
    assert "after all passes" in refuse(parallel=piped, train={"reduce_precision": "bf16"}, cluster={"workers": 2})
    for changes in ({"parallel": {"zero": 0}}, {"parallel": {"zero": 1}, "train": {"precision": "bf16"}}):
        changes["parallel"]["overlap"] = True
        assert "nothing overlaps" in refuse(**changes)
    check_recipe(make_recipe(parallel={"zero": 1, "overlap": True}))
    for zero, shards in ((2, 2), (3, 3)):
        assert "second copy" in refuse(
            parallel={"zero": zero, "secondary_shards": shards}, cluster={"workers": 4}, train={"rows_per_step": 8}
        )
    check_recipe(make_recipe(parallel={"zero": 3, "secondary_shards": 2, "overlap": True}, cluster={"workers": 4}))


def test_an_objective_takes_what_it_looks_at() -> None:
    assert "kl_weight" in refuse(objective={"kl_top_k": 8})
    assert "loss: ipo" in refuse(objective={"kind": "dpo", "loss": "ipo", "label_smoothing": 0.1})
    assert "label_smoothing: 0.1" in refuse(objective={"kind": "cpo", "loss": "robust"})
    check_recipe(make_recipe(objective={"kind": "cpo", "loss": "robust", "label_smoothing": 0.1}))
    assert "objective.teachers" in refuse(objective="distill")
    teachers = {"kind": "distill", "teachers": ["a", "b"]}
    assert "2 weights" in refuse(objective={**teachers, "teacher_weights": [1.0]})
    check_recipe(make_recipe(objective={**teachers, "teacher_weights": [1.0, 3.0]}))
    assert "named once" in refuse(objective={**teachers, "teachers": ["a", "b", "a"]})
    assert "no weight where there is one" in refuse(objective={**teachers, "teachers": "a", "teacher_weights": [2.0]})
    assert "teacher_draws: 16" in refuse(objective={**teachers, "teacher_draws": 64})
    assert "divergence: js" in refuse(objective={**teachers, "teacher_draws": 16, "divergence": "js"})
    check_recipe(make_recipe(objective={**teachers, "teacher_draws": 16}))
    assert "no weight_column" in refuse(objective="dpo", data={"mixture": {"weight_column": "score"}})
    check_recipe(make_recipe(objective={"kl_top_k": 8, "kl_weight": 0.1}))
    check_recipe(parse_recipe(make_recipe().model_dump(mode="json")))  # as a trial gets it: every field is named
    check_recipe(make_recipe(objective="sft", data={"mixture": {"weight_column": "score"}}))
    check_recipe(make_recipe(objective="dpo"))
