"""The base is known by its content: other weights or another config under the same name are another base."""

from __future__ import annotations

import hashlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes import make_recipe
from run_dirs import DATA

from raysft.errors import ConflictError
from raysft.recipe.fingerprint import FRESH_BASE, fingerprints, split_fields
from raysft.recipe.schema import Recipe
from raysft.run import base_weights
from raysft.run.base_weights import base_fingerprint
from raysft.run.locations import BASE, same_in_search
from raysft.run.rundir import check_base, check_fresh, check_same_recipe, claim

CONFIG: dict[str, Any] = {"model_type": "llama", "hidden_size": 32}


def make_base(place: Path, weights: bytes = b"weights", config: dict[str, Any] = CONFIG) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    (place / "model.safetensors").write_bytes(weights)
    return place


def recipe_on(tmp_path: Path, source: str, name: str = "b") -> Recipe:
    return make_recipe(name=name, storage=str(tmp_path / "storage"), model={"source": source, "config": None})


def test_it_follows_the_content_not_the_name_or_the_time(tmp_path: Path) -> None:
    one, two = make_base(tmp_path / "one"), make_base(tmp_path / "two")
    prints = [base_fingerprint(recipe_on(tmp_path, str(place))) for place in (one, two)]
    assert prints[0] == prints[1] is not None
    os.utime(one / "model.safetensors", (1, 1))
    make_base(one, config={**CONFIG, "transformers_version": "9", "torch_dtype": "bfloat16", "use_cache": False})
    (one / "README.md").write_text("more")
    assert base_fingerprint(recipe_on(tmp_path, str(one))) == prints[0]
    make_base(one, config={**CONFIG, "hidden_size": 64})
    assert base_fingerprint(recipe_on(tmp_path, str(one))) != prints[0]
    make_base(one, weights=b"weightz")  # as long as before
    assert base_fingerprint(recipe_on(tmp_path, str(one))) != prints[0]
    (one / "model.safetensors").unlink()
    assert base_fingerprint(recipe_on(tmp_path, str(one))) is None
    assert base_fingerprint(make_recipe(storage=str(tmp_path))) == FRESH_BASE
    assert base_fingerprint(recipe_on(tmp_path, "owner/not-on-this-machine")) is None
    assert base_fingerprint(recipe_on(tmp_path, "run://nobody")) is None


def test_every_shard_counts_and_nothing_else(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    (base / "1.safetensors").write_bytes(b"1")
    recipe = recipe_on(tmp_path, str(base))
    assert base_fingerprint(recipe) is None  # a shard is not there yet
    (base / "2.safetensors").write_bytes(b"2")
    first = base_fingerprint(recipe)
    (base / "consolidated.safetensors").write_bytes(b"the same weights once more")
    assert base_fingerprint(recipe) == first is not None
    (base / "2.safetensors").write_bytes(b"3")
    assert base_fingerprint(recipe) != first


def test_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / "base")
    monkeypatch.setattr("raysft.data.read.contents._SETTLED_S", -60.0)  # as if it had been written a minute ago
    first = base_fingerprint(recipe_on(tmp_path, str(base)))

    def read(*_: object) -> None:
        raise AssertionError("it is read again")

    monkeypatch.setattr("raysft.data.read.contents.content", read)
    assert base_fingerprint(recipe_on(tmp_path, str(base))) == first


def test_a_hubs_cache_names_files_by_their_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same content in a directory, and as a link into a cache of which no weight is read."""
    plain = base_fingerprint(recipe_on(tmp_path, str(make_base(tmp_path / "plain"))))
    blobs = tmp_path / "models--owner--name" / "blobs"
    cached = make_base(tmp_path / "models--owner--name" / "snapshots" / "abc")
    blobs.mkdir()
    (cached / "model.safetensors").rename(blobs / hashlib.sha256(b"weights").hexdigest())
    (cached / "model.safetensors").symlink_to(blobs / hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(base_weights, "contents", lambda *_: pytest.fail("it is read"))
    assert base_fingerprint(recipe_on(tmp_path, str(cached))) == plain


def test_a_run_refuses_a_base_that_was_replaced(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    recipe, run = recipe_on(tmp_path, str(base)), str(tmp_path / "storage" / "runs" / "b")
    prints = claim(run, recipe, DATA)
    assert prints["base"] == base_fingerprint(recipe)
    assert claim(run, recipe, DATA) == prints
    check_same_recipe(run, recipe)
    make_base(base, weights=b"trained anew")
    for refuses in (check_same_recipe, check_base, lambda run, recipe: claim(run, recipe, DATA)):
        with pytest.raises(ConflictError, match=r"the content of model.source .*other files lie there"):
            refuses(run, recipe)
    (base / "model.safetensors").unlink()
    check_same_recipe(run, recipe)  # a finished run needs its base no more
    make_base(base)
    assert claim(run, recipe, DATA) == prints
    other = claim(
        str(tmp_path / "storage" / "runs" / "c"), recipe_on(tmp_path, str(make_base(tmp_path / "o", b"o")), "c"), DATA
    )
    assert other["mathematics"] != prints["mathematics"]


def test_a_run_on_an_export_notices_that_it_was_made_anew(tmp_path: Path) -> None:
    export = tmp_path / "storage" / "runs" / "a" / "export"
    make_base(export / "merged")
    (export / "export.json").write_text("{}")
    recipe, run = recipe_on(tmp_path, "run://a"), str(tmp_path / "storage" / "runs" / "b")
    claim(run, recipe, DATA)
    make_base(export / "merged")  # the same bytes once more
    check_same_recipe(run, recipe)
    make_base(export / "merged", weights=b"trained anew")
    with pytest.raises(ConflictError, match=r"run://a.*the export of that run was made anew"):
        check_same_recipe(run, recipe)


def test_a_run_of_before_learns_its_base_when_it_goes_on(tmp_path: Path) -> None:
    """run.json without `base`: nobody can tell what it began with; from now on it is known."""
    base = make_base(tmp_path / "base")
    recipe, run = recipe_on(tmp_path, str(base)), tmp_path / "storage" / "runs" / "b"
    claim(str(run), recipe, DATA)
    record = json.loads((run / "run.json").read_text())
    del record["fingerprints"]["base"], record["sha256"], record["version"]
    record["fingerprints"]["mathematics"] = "as-it-was"
    (run / "run.json").write_text(json.dumps(record))
    check_same_recipe(str(run), recipe)
    assert claim(str(run), recipe, DATA)["mathematics"] == "as-it-was"
    make_base(base, weights=b"another")
    with pytest.raises(ConflictError, match=r"the content of model.source"):
        claim(str(run), recipe, DATA)


LORA = {"method": {"kind": "lora"}}
DPO = {"objective": {"kind": "dpo"}}


def older(recipe: Recipe) -> str:
    """A run of this recipe that began when fresh weights had no fingerprint."""
    run = str(Path(recipe.storage, "runs", recipe.name))
    Path(run).mkdir(parents=True)
    record = {
        "version": 2,
        "recipe": recipe.model_dump(mode="json"),
        "mathematics": split_fields(recipe)[0],
        "fingerprints": fingerprints(recipe, DATA),
    }
    Path(run, "run.json").write_text(json.dumps(record))
    return run


@pytest.mark.parametrize("fields", [LORA, {"method": {"kind": "freeze"}}, DPO])
def test_older_fresh_weights_that_a_run_still_needs_refuse_it(tmp_path: Path, fields: dict[str, Any]) -> None:
    recipe = make_recipe(storage=str(tmp_path), **fields)
    run = older(recipe)
    for check in (partial(claim, data_fingerprint=DATA), check_base, check_same_recipe, check_fresh):
        with pytest.raises(ConflictError, match="fresh weights that this version of raysft does not make") as caught:
            check(run, recipe)
        assert "version that it began with" in caught.value.fix


def test_an_older_run_of_all_weights_has_them_in_its_checkpoints(tmp_path: Path) -> None:
    recipe = make_recipe(storage=str(tmp_path))
    run = older(recipe)
    for _ in range(2):
        assert claim(run, recipe, DATA)["mathematics"] == fingerprints(recipe, DATA)["mathematics"]
        check_fresh(run, recipe)
        with pytest.raises(ConflictError, match="fresh weights"):
            check_fresh(run, recipe, untrained=True)


def test_a_run_on_todays_fresh_weights_goes_on_and_no_other_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(storage=str(tmp_path), **LORA)
    run = str(tmp_path / "runs" / recipe.name)
    assert claim(run, recipe, DATA)["base"] == FRESH_BASE
    assert claim(run, recipe, DATA)["base"] == FRESH_BASE
    check_fresh(run, recipe, untrained=True)
    monkeypatch.setattr(base_weights, "FRESH_BASE", "of tomorrow")
    with pytest.raises(ConflictError, match=rf"{FRESH_BASE} -> of tomorrow, another version"):
        check_same_recipe(run, recipe)


def test_a_study_of_older_fresh_weights_is_another() -> None:
    for before, is_same in ((FRESH_BASE, True), (None, False)):
        assert same_in_search("/storage/sweeps/s/", BASE, before, FRESH_BASE) is is_same
    assert same_in_search("/storage/sweeps/s/", BASE, None, "of files")
