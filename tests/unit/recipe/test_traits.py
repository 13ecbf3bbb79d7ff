"""What methods and objectives are, against counts made by hand and against peft."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import LLAMA, make_recipe
from families import make_model

from raysft.model.methods import apply_method
from raysft.model.shape import read_shape
from raysft.recipe.adapter_sizes import ends_in
from raysft.recipe.objective_traits import objective_of, reference_columns
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import METHODS, method_of

H, F, KV, LAYERS = 32, 48, 16, 2  # of LLAMA: hidden, inner, keys and values
LINEAR = {
    "q_proj": (H, H),
    "k_proj": (H, KV),
    "v_proj": (H, KV),
    "o_proj": (H, H),
    "gate_proj": (H, F),
    "up_proj": (H, F),
    "down_proj": (F, H),
}
"""Layer: (inputs, outputs)."""


def recipe(**method: object) -> Recipe:
    return make_recipe(model={"config": {**LLAMA, "vocab_size": 97}}, method=method)


def adapter_weights(given: Recipe) -> int:
    """Of one decoder layer."""
    return method_of(given).layer_parameters(given.method, read_shape(given), 1)


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "v_proj"], ["self_attn.o_proj"], ["down_proj"]])
def test_lora_has_rank_times_inputs_and_outputs(targets: list[str]) -> None:
    given = recipe(kind="lora", rank=3, target_modules=targets)
    names = [target.rpartition(".")[2] for target in targets]
    adapted = [size for name, size in LINEAR.items() if name in names or names == ["all-linear"]]
    assert adapter_weights(given) == 3 * sum(i + o for i, o in adapted)
    model = apply_method(make_model(LLAMA), given)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == LAYERS * adapter_weights(given), "as peft makes them"


def test_some_layers_have_another_rank() -> None:
    given = recipe(kind="lora", rank=3, target_modules=["q_proj", "down_proj"], ranks={"down_proj": 5})
    assert adapter_weights(given) == 3 * (H + H) + 5 * (F + H)
    model = apply_method(make_model(LLAMA), given)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == LAYERS * adapter_weights(given)


def test_the_name_that_says_more_gives_the_rank_whatever_the_order() -> None:
    """peft takes the first that fits, and an order of keys is soon lost."""
    names = {"q_proj": 2, "layers.0.self_attn.q_proj": 7}
    for ranks in (names, dict(reversed(names.items()))):
        given = recipe(kind="lora", rank=3, target_modules=["q_proj", "down_proj"], ranks=ranks)
        model = apply_method(make_model(LLAMA), given)
        trained = {name: p.shape[0] for name, p in model.named_parameters() if p.requires_grad and "lora_A" in name}
        assert sorted(trained.values()) == [2, 3, 3, 7]
        assert adapter_weights(given) == 7 * (H + H) + 3 * (F + H)  # a plan knows no single layers: the largest


def test_ia3_scales_inputs_of_the_mlp_and_outputs_of_others() -> None:
    given = recipe(kind="ia3", target_modules=["k_proj", "v_proj", "down_proj"])
    assert adapter_weights(given) == KV + KV + F
    model = apply_method(make_model(LLAMA), given)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == LAYERS * adapter_weights(given)
    given = recipe(kind="ia3", target_modules=["q_proj", "down_proj"], feedforward_modules=["q_proj"])
    assert adapter_weights(given) == H + H, "the inputs of q_proj, the outputs of down_proj"


def test_full_tuning_has_no_adapter() -> None:
    given = recipe(kind="full")
    traits = method_of(given)
    assert adapter_weights(given) == 0
    assert traits.adapted(given.method, read_shape(given)) == frozenset()
    assert (traits.trains_base, traits.exports) == (True, ("merged",))
    flops = {
        kind: method_of(recipe(kind=kind)).flops_per_weight(recipe(kind=kind).method, 8) for kind in ("full", "lora")
    }
    assert flops == {"full": 6, "lora": 4}
    last = recipe(kind="freeze", layers=-2)
    assert method_of(last).flops_per_weight(last.method, 8) == 4.5


def test_a_row_and_a_column_are_cut_over_tensor_parallel_ranks() -> None:
    given = recipe(kind="lora", rank=2, target_modules=["q_proj", "o_proj"])
    halves = method_of(given).layer_parameters(given.method, read_shape(given), 2)
    assert halves == 2 * (H + H // 2) + 2 * (H // 2 + H)


@pytest.mark.parametrize(
    ("name", "targets", "is_one"),
    [
        ("q_proj", ("q_proj",), True),
        ("self_attn.q_proj", ("q_proj",), True),
        ("self_attn.q_proj", ("attn.q_proj",), False),
        ("seq_proj", ("q_proj",), False),
        ("q_proj", ("self_attn.q_proj",), False),
        ("mlp.up", ("down", "up"), True),
    ],
)
def test_a_target_is_the_end_of_a_name(name: str, targets: tuple[str, ...], is_one: bool) -> None:
    assert ends_in(name, targets) is is_one


def test_dropout_draws_random_numbers() -> None:
    for method, drops in (({"dropout": 0.1}, True), ({"dropout": 0.0}, False)):
        given = recipe(kind="lora", **method)
        assert method_of(given).drops(given.method) is drops


@pytest.mark.parametrize(
    ("objective", "columns", "answers"),
    [
        ("sft", {}, "one"),
        ({"kind": "sft", "kl_weight": 0.5, "kl_top_k": 4}, {"reference_ids": 4, "reference_log_probs": 4}, "one"),
        ("dpo", {"reference_log_prob": 1}, "pair"),
        ("orpo", {}, "pair"),
        ("kto", {"reference_log_prob": 1}, "judged"),
    ],
)
def test_what_the_untrained_model_writes(objective: object, columns: dict[str, int], answers: str) -> None:
    given = make_recipe(objective=objective)
    assert {field.name: field.width for field in reference_columns(given)} == columns
    assert objective_of(given).answers == answers


def test_the_guides_table_says_what_the_traits_say() -> None:
    guide = Path(__file__).resolve().parents[3] / "docs" / "guide" / "methods.md"
    lines = guide.read_text(encoding="utf-8").split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = {row[0].strip("`"): row[1:5] for row in cells[2:]}
    assert found == {
        kind: [
            *("yes" if axis in traits.allows else "-" for axis in ("pipeline", "tensor", "sequence")),
            ", ".join(traits.exports),
        ]
        for kind, traits in METHODS.items()
    }
