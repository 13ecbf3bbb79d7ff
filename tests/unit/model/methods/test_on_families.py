"""Every method and every variant of one, trained, exported, read again by plain libraries, on different families."""

from __future__ import annotations

from pathlib import Path

import pytest
from method_rows import METHODS, TOLERANCE, make_any_base, method_of, walk

from raysft.recipe import traits
from raysft.recipe.tuners import TUNERS

FAMILIES: dict[str, dict[str, str]] = {
    "llama": {},
    "gpt2": {
        "hra": "a Conv1D",
        "loha": "a Conv1D",
        "miss": "a Conv1D",
        "oft": "a Conv1D",
    },
    "qwen3_moe": {"pfeiffer": "qwen3_moe, whose last layer", "houlsby": "qwen3_moe, whose last layer"},
    "bert": dict.fromkeys(
        ("prompt", "p_tuning", "p_tuning, lstm", "prefix", "prefix, projected"), "exported as an adapter alone"
    ),
}
"""{model type: {row: what the refusal says}}; whatever is not refused trains."""
SOME = {"gpt2", "qwen3_moe", "bert"}
"""Types on which rows that differ by what is trained alone are left to `make method-families`."""
ALIKE = {
    "freeze",
    "oft",
    "loha",
    "hra",
    "miss",
    "unfreezing",
    "lora, rsLoRA, LoRA+",
    "lora, OLoRA",
    "fourierft",
    "p_tuning, lstm",
    "prefix, projected",
    "houlsby",
}


def test_every_method_and_every_tuner_has_a_row() -> None:
    assert {method["kind"] for method in METHODS.values()} == traits.METHODS.keys()
    assert {method["tuner"] for method in METHODS.values() if "tuner" in method} == TUNERS.keys()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, bool]]:
    found = {}
    for model_type in FAMILIES:
        base = tmp_path_factory.mktemp(model_type) / "base"
        found[model_type] = (base, make_any_base(model_type, base))
    return found


@pytest.mark.parametrize("row", METHODS)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_method_trains_and_its_export_is_what_it_trained(
    bases: dict[str, tuple[Path, bool]], tmp_path: Path, model_type: str, row: str
) -> None:
    if model_type in SOME and row in ALIKE - FAMILIES[model_type].keys():
        pytest.skip("as on a Llama")
    base, is_encoder = bases[model_type]
    found = walk(base, tmp_path / "out", method_of(model_type, row), is_encoder=is_encoder)
    refusal = FAMILIES[model_type].get(row)
    if refusal is not None:
        assert refusal in found.refused
        return
    assert not found.refused
    assert found.worst < TOLERANCE
