"""An export that several tasks share is to the byte that of one, in a directory and by a URI, and goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import FACTS
from fakes import LLAMA, make_recipe, make_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from raysft import storage
from raysft.errors import StorageError
from raysft.model import export as module
from raysft.model.export import export_run, export_share

LATER = replace(FACTS, steps=8)


class Asked(dict[str, torch.Tensor]):
    """Weights, and which of them were asked for."""

    names: list[str]

    def __getitem__(self, name: str) -> torch.Tensor:
        self.names.append(name)
        return super().__getitem__(name)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Asked]:
    """(recipe, every weight changed) of a base that becomes a dozen files."""
    monkeypatch.setattr(module, "MAX_SHARD", "20KB")
    torch.manual_seed(3)
    fields = {k: v for k, v in LLAMA.items() if k != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(**fields, vocab_size=264))
    model.save_pretrained(tmp_path / "base")
    weights = Asked({name: p.detach() + 0.1 * torch.randn_like(p) for name, p in model.named_parameters()})
    weights.names = []
    return make_recipe(model={"source": str(tmp_path / "base"), "config": None, "tokenizer": None}), weights


def content(out: str, part: str = "merged") -> dict[str, str]:
    """{name: checksum} of a part."""
    names = storage.list_names(storage.join(out, part))
    return {name: storage.size_and_sha256(storage.join(out, part, name))[1] for name in names}


@pytest.mark.parametrize("kind", ["directory", "URI"])
def test_shares_are_together_the_export_of_one_task(trained: tuple[Any, Asked], tmp_path: Path, kind: str) -> None:
    recipe, weights = trained
    alone = str(tmp_path / "alone")
    (merged,) = export_run(recipe, weights, make_tokenizer(), out=alone, card=FACTS)
    out = str(tmp_path / "shared") if kind == "directory" else f"memory://{tmp_path.name}/shared"
    written: dict[str, dict[str, Any]] = {}
    for part in (2, 0, 1):
        weights.names.clear()
        found = export_share(recipe, weights, make_tokenizer(), out=out, card=FACTS, share=(part, 3))
        assert len(found) == 2
        assert not found.keys() & written.keys()
        assert len(weights.names) < len(weights) / 2, "each reads its own"
        written |= found
    weights.names.clear()
    export_run(recipe, weights, make_tokenizer(), out=out, card=FACTS, written=written)
    assert not weights.names, "all of them were there"
    assert content(out) == content(alone)
    assert sorted(storage.list_names(out)) == ["export.json", "merged"]
    told = {entry["name"]: entry["sha256"] for entry in storage.read_json(storage.join(out, "export.json"))["files"]}
    assert told == {f"merged/{name}": checksum for name, checksum in content(alone).items()}
    loaded = AutoModelForCausalLM.from_pretrained(merged).state_dict()
    assert all(torch.equal(loaded[name], dict.__getitem__(weights, name)) for name in weights)
    assert export_share(recipe, weights, make_tokenizer(), out=out, card=FACTS, share=(0, 1)) == {}
    assert not weights.names, "there is an export of this run"


@pytest.mark.parametrize("kind", ["directory", "URI"])
def test_what_a_killed_task_has_finished_is_kept_and_what_is_damaged_written_anew(
    trained: tuple[Any, Asked], tmp_path: Path, kind: str
) -> None:
    recipe, weights = trained
    out = str(tmp_path / "e") if kind == "directory" else f"memory://{tmp_path.name}/e"
    share = {"out": out, "card": FACTS, "share": (0, 2)}
    first = export_share(recipe, weights, make_tokenizer(), **share)
    weights.names.clear()
    assert export_share(recipe, weights, make_tokenizer(), **share) == first
    assert not weights.names
    place = find(out, next(iter(first)))
    data = bytearray(storage.read_bytes(place))
    data[-1] ^= 1
    storage.write_bytes(place, bytes(data))
    assert export_share(recipe, weights, make_tokenizer(), **share) == first
    assert 0 < len(weights.names) < 4
    weights.names.clear()
    export_share(recipe, weights, make_tokenizer(), out=out, card=LATER, share=(0, 2))
    assert len(weights.names) > 4, "files of other steps are not its own"
    (merged,) = export_run(recipe, weights, make_tokenizer(), out=out, card=FACTS)
    assert sorted(storage.list_names(out)) == ["export.json", "merged"]
    if kind == "directory":
        index = json.loads(Path(merged, "model.safetensors.index.json").read_text())["weight_map"]
        assert {*index} == {*weights}
        for name, file in index.items():
            assert torch.equal(load_file(Path(merged, file))[name], dict.__getitem__(weights, name))


def find(out: str, name: str) -> str:
    """Where a file of weights lies before the export is whole."""
    if "://" in out:
        return storage.join(out, "merged", name)
    (place,) = Path(out).rglob(name)
    return str(place)


def test_a_uri_holds_no_manifest_while_its_files_are_replaced(trained: tuple[Any, Asked], tmp_path: Path) -> None:
    recipe, weights = trained
    out = f"memory://{tmp_path.name}/again"
    export_run(recipe, weights, make_tokenizer(), out=out, card=FACTS)
    storage.write_bytes(storage.join(out, "merged", "of-another-version.txt"), b"x")
    export_share(recipe, weights, make_tokenizer(), out=out, card=LATER, share=(0, 3))
    assert not storage.exists(storage.join(out, "export.json"))
    export_run(recipe, weights, make_tokenizer(), out=out, card=LATER)
    assert "of-another-version.txt" not in content(out)


def test_storage_that_is_not_shared_is_named(trained: tuple[Any, Asked], tmp_path: Path) -> None:
    recipe, weights = trained
    far, here = (str(tmp_path / name) for name in ("far", "here"))
    written = export_share(recipe, weights, make_tokenizer(), out=far, card=FACTS, share=(0, 2))
    with pytest.raises(StorageError, match="is not there") as caught:
        export_run(recipe, weights, make_tokenizer(), out=here, card=FACTS, written=written)
    assert "shared directory or a URI" in str(caught.value.fix)
    assert hashlib.sha256(Path(find(far, next(iter(written)))).read_bytes()).hexdigest() in {
        entry["sha256"] for entry in written.values()
    }
