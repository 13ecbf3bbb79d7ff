"""YAML and overrides -> Recipe; every mistake is told in our words."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_files import TEXT, load, refuse

from raysft.errors import RecipeError
from raysft.recipe.load import load_recipe


def test_one_file_or_a_list_of_files(tmp_path: Path) -> None:
    assert load(tmp_path, TEXT, "data.train=[a, b]").data.train == ("a", "b")
    lora = load(tmp_path, TEXT, "method.kind=lora", "method.target_modules=q_proj")
    assert lora.method.model_dump()["target_modules"] == ("q_proj",)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("2E5", 2e5), ("5", 5.0), ("0.25", 0.25), (".5", 0.5), ("1.5e-05", 1.5e-5)]
)
def test_numbers_are_read_as_yaml_1_2_reads_them(tmp_path: Path, text: str, value: float) -> None:
    assert load(tmp_path, TEXT + f"optimizer: {{learning_rate: {text}}}").optimizer.learning_rate == value
    assert load(tmp_path, TEXT, f"optimizer.learning_rate={text}").optimizer.learning_rate == value


def test_words_that_look_like_numbers_stay_words(tmp_path: Path) -> None:
    assert load(tmp_path, TEXT, "model.revision=e10a7").model.revision == "e10a7"
    assert load(tmp_path, TEXT, "model.revision='12'").model.revision == "12"


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("optimizer: {learning_rat: 1}", "did you mean optimizer.learning_rate?"),
        ("trian: {epochs: 1}", "did you mean train?"),
        ("parallel: {zero_stage: 1}", "did you mean parallel.zero?"),
    ],
)
def test_an_unknown_key_names_its_nearest(tmp_path: Path, line: str, nearest: str) -> None:
    assert nearest in refuse(tmp_path, TEXT + line)


def test_an_unknown_key_near_to_nothing_lists_what_is_known(tmp_path: Path) -> None:
    message = refuse(tmp_path, TEXT + "cluster: {qqqqqq: 1}")
    assert "unknown key cluster.qqqqqq" in message
    assert "cpus_per_worker" in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epochs=two", ("train.epochs", "a whole number", "'two'")),
        ("train.epochs=1.5", ("train.epochs", "1.5")),
        ("train.epochs='2'", ("train.epochs", "'2'")),
        ("train.epochs=true", ("train.epochs", "True")),
        ("train.epochs=0", ("train.epochs", "1 or more")),
        ("data.packing=1", ("data.packing", "true or false")),
        ("optimizer.learning_rate=fast", ("optimizer.learning_rate", "'fast'")),
        ("optimizer.learning_rate=-1", ("optimizer.learning_rate", "more than 0")),
        ("parallel.zero=4", ("parallel.zero", "4")),
        ("train.precision=fp8", ("train.precision", "bf16", "'fp8'")),
        ("data.train=5", ("data.train", "5")),
        ("name=../x", ("name", "'../x'")),
        ("model=x", ("model", "'x'")),
    ],
)
def test_a_wrong_type_or_value_names_field_expectation_and_value(
    tmp_path: Path, override: str, parts: tuple[str, ...]
) -> None:
    message = refuse(tmp_path, TEXT, override)
    assert all(part in message for part in parts), message


def test_all_wrong_fields_are_named_at_once(tmp_path: Path) -> None:
    message = refuse(tmp_path, TEXT + "train: {epochs: x, max_step: 3}\nseed: -1")
    assert all(part in message for part in ("train.epochs", "did you mean train.max_steps?", "seed"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read the recipe") as caught:
        load_recipe(tmp_path / "nowhere.yaml")
    assert "nowhere.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "- a\n- b\n", "just words"])
def test_an_empty_file_and_what_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert "is no mapping" in refuse(tmp_path, text)


def test_what_is_no_yaml_names_its_line(tmp_path: Path) -> None:
    message = refuse(tmp_path, "name: x\nmodel: {source: [\n")
    assert "is not YAML" in message
    assert "line" in message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe(tmp_path / "bad.yaml")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "'epochs' stands twice" in refuse(tmp_path, TEXT + "train:\n  epochs: 1\n  epochs: 2\n")


def test_python_objects_are_not_made(tmp_path: Path) -> None:
    refuse(tmp_path, TEXT + "storage: !!python/object/apply:os.getcwd []")


def test_overrides_apply_in_their_order_and_make_sections(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, TEXT, "train.epochs=2", "train.epochs=3", "model.config={a: {b: 1}}", "model.config.a.b=2"
    )
    assert recipe.train.epochs == 3
    assert recipe.model.config == {"a": {"b": 2}}


def test_an_override_may_set_null(tmp_path: Path) -> None:
    assert load(tmp_path, TEXT + "train: {max_steps: 5}", "train.max_steps=null").train.max_steps is None


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train..epochs=3", "train.=3"])
def test_an_override_that_cannot_be_read(tmp_path: Path, override: str) -> None:
    assert "cannot read the override" in refuse(tmp_path, TEXT, override)


def test_an_override_below_a_value_is_refused(tmp_path: Path) -> None:
    assert "name is no section" in refuse(tmp_path, TEXT, "name.first=x")
