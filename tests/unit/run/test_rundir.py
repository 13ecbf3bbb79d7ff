"""Whether a run may go on: under a schema that has grown, from other directories, with its own record lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes import make_recipe, recipe_content
from pydantic import Field
from run_dirs import DATA, LAST, make_run, recipe_of

from raysft.errors import ConflictError
from raysft.recipe import fingerprint
from raysft.recipe.fingerprint import default_of, differences, digest, fingerprints, split_fields
from raysft.recipe.load import parse_recipe
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.train import TrainSection
from raysft.run import rundir
from raysft.run.rundir import check_same_recipe, claim, read_result

FIRST = {"mathematics": "31d29ea6172bf9df", "execution": "f3f7dd6ed3a0f2fd", "data": DATA}
"""Of VERSION 1, as raysft wrote it into the record below."""


ALL_METHODS = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": ["all-linear"]}
"""Fields that every method had then, whatever its kind."""


def old_record(storage: str) -> dict[str, Any]:
    """run.json of a run that began before records had checksums and before several fields were there."""
    recipe = make_recipe(storage=storage).model_dump(mode="json")
    mathematics = split_fields(make_recipe(storage=storage))[0]
    recipe["method"] |= ALL_METHODS
    mathematics |= {f"method.{name}": value for name, value in ALL_METHODS.items()}
    for section, field in (("optimizer", "beta2"), ("method", "dropout"), ("train", "reduce_precision")):
        del recipe[section][field], mathematics[f"{section}.{field}"]
    del recipe["data"]["mixture"], recipe["tune"]
    return {"recipe": recipe, "mathematics": mathematics, "fingerprints": FIRST}


def test_an_old_run_goes_on_under_a_schema_that_has_grown(tmp_path: Path) -> None:
    run = tmp_path / "storage" / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(old_record(str(tmp_path / "storage"))))
    recipe = make_recipe(storage=str(tmp_path / "storage"))
    check_same_recipe(str(run), recipe)
    prints = claim(str(run), recipe, DATA)
    assert prints["mathematics"] == FIRST["mathematics"]  # as its checkpoints say
    assert prints["execution"] == fingerprints(recipe, DATA)["execution"]
    other = make_recipe(storage=str(tmp_path / "storage"), optimizer={"beta2": 0.5})
    with pytest.raises(ConflictError, match=r"optimizer.beta2: 0.95 -> 0.5"):
        claim(str(run), other, DATA)
    with pytest.raises(ConflictError, match=r"the contents of data.train"):
        claim(str(run), recipe, "other data")


def test_what_an_earlier_version_passed_over_does_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    run, recipe = str(tmp_path / "runs" / "tiny"), make_recipe(storage=str(tmp_path))
    Path(run).mkdir(parents=True)
    record = old_record(str(tmp_path))
    record["recipe"]["method"]["rank"] = record["mathematics"]["method.rank"] = 8  # with kind: full
    (Path(run) / "run.json").write_text(json.dumps(record))
    assert claim(run, recipe, DATA)["mathematics"] == FIRST["mathematics"]
    lora = make_recipe(storage=str(tmp_path), method={"kind": "lora"})
    with pytest.raises(ConflictError, match=r"got: method.kind: 'full' -> 'lora'\n"):
        claim(run, lora, DATA)


def test_a_new_field_with_a_default_changes_no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema of tomorrow: one more field, in a section that every run has."""

    class Tomorrow(TrainSection):
        cautious: bool = Field(False, description="New.")

    class NewRecipe(Recipe):
        train: Tomorrow = Tomorrow()

    content = recipe_content(train={"max_steps": 25})
    before = fingerprints(parse_recipe(content), DATA)
    old = split_fields(parse_recipe(content))[0]
    monkeypatch.setattr(fingerprint, "Recipe", NewRecipe)
    same, changed = (
        NewRecipe.model_validate({**content, "train": {**content["train"], "cautious": value}})
        for value in (False, True)
    )
    assert fingerprints(same, DATA) == before
    assert differences(old, split_fields(same)[0]) == []
    assert fingerprints(changed, DATA)["mathematics"] != before["mathematics"]
    assert differences(old, split_fields(changed)[0]) == ["train.cautious: False -> True"]


def test_the_default_of_every_field_is_found() -> None:
    minimal = parse_recipe({"name": "a", "model": {"source": "a/b"}, "data": {"train": "x"}})
    mathematics, execution = split_fields(minimal)
    given = {"name": "a", "model.source": "a/b"}
    for name, value in (mathematics | execution).items():
        assert default_of(name) == (None if name in given else value), name
    assert default_of("optimizer.nothing") is default_of("model.config.hidden_size") is default_of("no.such") is None
    assert fingerprints(minimal, DATA)["mathematics"] == digest({"data": DATA, "version": 2, "model.source": "a/b"})


def test_secrets_are_in_no_record(tmp_path: Path) -> None:
    space = {"seed": {"distribution": "int", "low": 1, "high": 2}}
    recipe = make_recipe(
        storage=str(tmp_path),
        data={"train": "https://host/a.jsonl?X-Amz-Signature=GEHEIM1"},
        tune={"space": space, "study": "postgresql://me:GEHEIM2@host/db", "budget": {"trials": 1}},
    )
    run = str(tmp_path / "runs" / "tiny")
    claim(run, recipe, DATA)
    claim(run, recipe, DATA)
    assert "GEHEIM" not in Path(run, "run.json").read_text()
    assert rundir.has_same_data_fields(run, recipe)


def test_a_run_that_lost_its_record_goes_on_under_its_recipe_only(tmp_path: Path) -> None:
    run = make_run(tmp_path / "storage", "one", 1)
    before = json.loads((run / "run.json").read_text())["fingerprints"]
    (run / "run.json").unlink()
    with pytest.raises(ConflictError, match=r"has lost its run.json, and its checkpoints are of another recipe"):
        claim(str(run), recipe_of(tmp_path / "storage", "one", 2), DATA)
    assert claim(str(run), recipe_of(tmp_path / "storage", "one", 1), DATA) == before
    assert json.loads((run / "run.json").read_text())["fingerprints"] == before


def test_a_result_of_another_run_is_none(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "storage", "one", 1), make_run(tmp_path / "storage", "other", 2)
    assert read_result(str(one))["steps"] == LAST  # type: ignore[index]
    shutil.copy(other / "result.json", one / "result.json")
    assert read_result(str(one)) is None


def store(tmp_path: Path, name: str, *sums: str) -> None:
    """A manifest as raysft wrote it before manifests had checksums."""
    parts = [{"name": f"part-{i:05d}.parquet", "rows": 8, "sha256": one} for i, one in enumerate(sums)]
    place = tmp_path / "storage" / "tokens" / name
    place.mkdir(parents=True)
    (place / "manifest.json").write_text(json.dumps({"format_version": 2, "fingerprint": name, "parts": parts}))


def test_a_store_with_the_same_rows_is_the_same_data(tmp_path: Path) -> None:
    """Another version of raysft names the store otherwise, and writes the same bytes: the run goes on."""
    recipe, run = make_recipe(storage=str(tmp_path / "storage")), str(tmp_path / "storage" / "runs" / "tiny")
    store(tmp_path, "before", "aa", "bb")
    store(tmp_path, "same", "aa", "bb")
    store(tmp_path, "swapped", "bb", "aa")
    store(tmp_path, "other", "aa", "cc")
    began = claim(run, recipe, "before")
    for name in ("swapped", "other", "absent"):
        with pytest.raises(ConflictError, match=r"how this raysft reads") as refused:
            claim(run, recipe, name)
        assert "finish it with the raysft version that it began with" in refused.value.fix
    assert claim(run, recipe, "same") == {**began, "data": "same"}
    shutil.rmtree(tmp_path / "storage" / "tokens" / "before")
    assert claim(run, recipe, "same")["data"] == "same"  # it is known by its new name


def test_data_are_compared_by_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, run = make_recipe(storage="storage", data={"train": ["train.jsonl"]}), "storage/runs/tiny"
    claim(run, recipe, DATA)
    with pytest.raises(ConflictError, match=r"^the run.*\n  got: the contents of data.train"):
        claim(run, with_absolute_paths(recipe), "other data")
    assert rundir.has_same_data_fields(run, with_absolute_paths(recipe))
    with pytest.raises(ConflictError, match=r"got: data.train: "):
        claim(run, make_recipe(storage="storage", data={"train": ["valid.jsonl"]}), "other data")


def test_a_field_that_is_gone_says_nothing_at_its_former_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "storage" / "runs" / "tiny"
    run.mkdir(parents=True)
    record = old_record(str(tmp_path / "storage"))
    record["recipe"]["optimizer"]["lookahead"] = record["mathematics"]["optimizer.lookahead"] = 5
    (run / "run.json").write_text(json.dumps(record))
    recipe = make_recipe(storage=str(tmp_path / "storage"))
    with pytest.raises(ConflictError, match=r"optimizer.lookahead: 5 -> None"):
        check_same_recipe(str(run), recipe)
    monkeypatch.setitem(fingerprint.FORMER_DEFAULTS, "optimizer.lookahead", 5)
    check_same_recipe(str(run), recipe)
    monkeypatch.setitem(fingerprint.FORMER_DEFAULTS, "optimizer.lookahead", 1)
    with pytest.raises(ConflictError, match=r"optimizer.lookahead: 5 -> 1"):
        check_same_recipe(str(run), recipe)


def test_another_mathematics_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, run = make_recipe(storage=str(tmp_path)), str(tmp_path / "runs" / "tiny")
    claim(run, recipe, DATA)
    monkeypatch.setattr(rundir, "VERSION", 9)
    check_same_recipe(run, recipe)
    monkeypatch.setattr(rundir, "SAME_MATHEMATICS", (9,))
    with pytest.raises(ConflictError, match=r"version of the mathematics: 2 -> 9"):
        check_same_recipe(run, recipe)
