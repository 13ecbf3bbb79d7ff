"""Every mistake in a recipe is told in the recipe's words: no word of pydantic's, no guess that leads astray."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from fakes import recipe_content

from raysft.errors import RecipeError
from raysft.recipe.kinds import KINDS
from raysft.recipe.load import parse_recipe
from raysft.recipe.mistakes import KINDS_MEANT, MEANT, fields_at
from raysft.recipe.schema import Recipe

FOREIGN = re.compile(
    r"Input|discriminator|\btag\b|valid (string|integer|number|boolean)|tuple|pattern|instance|Section|\bstr\b"
)
FIELDS = [
    f"{name}.{field}" if field else name for name in Recipe.model_fields for field in (fields_at([name]) or [""])
]
SPACE = {"seed": {"distribution": "int", "low": 1, "high": 2}}
WRONG: list[Any] = [None, -1, 2**70, float("nan"), "no such", "", [], [[]], [{}], {}, {"a": 1}, {1: 2}, True, 0.5]


def told(dotted: str, value: object) -> RecipeError | None:
    content = recipe_content(tune={"space": SPACE} if dotted.startswith("tune.") else None)
    *sections, last = dotted.split(".")
    node: dict[str, Any] = content
    for key in sections:
        node = node.setdefault(key, {})
    node[last] = value
    try:
        parse_recipe(content)
    except RecipeError as error:
        return error
    return None


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_refuses_in_the_recipes_words(field: str) -> None:
    refused = 0
    for value in WRONG:
        error = told(field, value)
        if error is not None:
            refused += 1
            text = str(error)
            assert FOREIGN.search(text.replace(repr(value), "")) is None, text
            assert field in text
            assert error.expected
            assert "did you mean ?" not in text
    assert refused


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("report_to", None),
        ("train.batch_size", "train.rows_per_step"),
        ("batch_size", "train.rows_per_step"),
        ("learning_rate", "optimizer.learning_rate"),
        ("train.learning_rate", "optimizer.learning_rate"),
        ("optimizer.learning_rat", "optimizer.learning_rate"),
        ("method.lora_alpha", "method.alpha"),
        ("data.max_length", "data.max_tokens"),
        ("datas", "data"),
        ("parallel.zero_stage", "parallel.zero"),
        ("wandb", None),
        ("train.qqqq", None),
    ],
)
def test_a_guess_helps_or_is_not_made(key: str, meant: str | None) -> None:
    error = told(key, 1)
    assert error is not None
    found = re.search(r"did you mean (.*?)\?", error.fix)
    assert (found[1].split(" ")[0] if found else None) == meant


def test_what_other_tools_call_it_is_a_field_here() -> None:
    for name in MEANT.values():
        section, _, field = re.split(r"[ :,]", name)[0].partition(".")
        assert section in Recipe.model_fields
        assert not field or field in fields_at([section]), name


@pytest.mark.parametrize("section", KINDS_MEANT)
def test_what_elsewhere_is_a_kind_is_a_kind_here_with_what_is_said_besides(section: str) -> None:
    for name, meant in KINDS_MEANT[section].items():
        assert name not in KINDS[section]
        error = told(section, {"kind": name.upper().replace("_", "-")})
        assert error is not None
        assert f"did you mean {meant}?" in error.fix
        kind, _, more = meant.partition(" with ")
        field, _, value = more.partition(": ")
        fields: dict[str, Any] = {field: yaml.safe_load(value)} if value else {}
        if "." not in field and not meant.endswith(")"):
            assert not field or field in KINDS[section][kind].model_fields
            KINDS[section][kind].model_validate({"kind": kind, **fields})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method.alphas", {"q_proj": 1e-300}),
        ("objective.class_weights", {"a": 1e300}),
        ("objective.teacher_weights", [1e300]),
        ("optimizer.learning_rate", 1e-60),
    ],
)
def test_a_number_that_training_cannot_hold_is_refused(field: str, value: object) -> None:
    """fp32 ends at 3.4e38, and at 1.2e-38 with all its digits."""
    section, _, name = field.partition(".")
    kind = {"method": "lora", "objective": "classify" if name == "class_weights" else "distill"}.get(section)
    error = told(section, {**({"kind": kind} if kind else {}), name: value})
    assert error is not None
    assert error.what == f"the recipe is not valid: {field} is wrong"


@pytest.mark.parametrize("field", ["data.eval", "model.source", "model.tokenizer", "storage"])
def test_no_path_is_not_this_directory(field: str) -> None:
    error = told(field, "")
    assert error is not None
    assert "text that is not empty" in error.expected


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("data.train", [{"path": "a", "weight": -1}], "data.train.0.weight is wrong"),
        ("data.rules", [{"rule": "length", "min_answer_chars": "a"}], "data.rules.0.min_answer_chars is wrong"),
        ("data.rules", [{"rule": "lenght"}], "data.rules.0 is wrong"),
        ("tune", {"space": {"seed": {"distribution": "int", "low": "x", "high": 1}}}, "tune.space.seed.low is wrong"),
    ],
)
def test_the_innermost_field_is_named_alone(field: str, value: object, what: str) -> None:
    error = told(field, value)
    assert error is not None
    assert error.what == f"the recipe is not valid: {what}"


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (
            {"kind": "full", "rank": 8},
            ("method.kind: full has no field rank", "method.rank: 8", "method.kind: lora", "remove method.rank"),
        ),
        ({"alpha": 8.0}, ("method.kind: full has no field alpha", "set method.kind: lora")),
        ({"kind": "lora", "ranc": 8}, ("unknown key method.ranc", "kind, rank, alpha", "did you mean method.rank?")),
        ({"kind": "full", "colour": 8}, ("unknown key method.colour", "one of kind")),
        ({"kind": "lora", "rank": 0}, ("method.rank is wrong", "1 or more")),
        *(
            ({"kind": "freeze", "layers": layers}, ("method.layers is wrong", "8-15, or 0-3, 12-15"))
            for layers in ("5-2", "a", "-1", "1-", "0-1,", "1, 0-2", "", "0-99999999999", "\u0663", 1.5, True, None)
        ),
        ({"kind": "lorra"}, ("full, freeze, probe, lora", "did you mean lora?")),
        ("lora", ("method is wrong", "a section with fields")),
    ],
)
def test_a_section_of_one_kind_has_the_fields_of_that_kind(method: object, told: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**recipe_content(), "method": method})
    assert [words for words in told if words not in str(caught.value)] == []


def test_a_section_within_a_kind_has_its_own_fields() -> None:
    content = recipe_content(
        objective={"kind": "classify", "labels": ["a", "b"], "domains": {"names": ["x", "y"], "hiden_size": 1}}
    )
    with pytest.raises(RecipeError, match=r"objective\.domains") as found:
        parse_recipe(content)
    assert "names, column" in found.value.expected
    assert "objective.domains.hidden_size" in f"{found.value.fix}{found.value.what}"
