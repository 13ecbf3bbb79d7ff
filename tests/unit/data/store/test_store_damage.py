"""Every file that a prepare leaves, damaged in every way: the next prepare ends with the same bytes, or says why not.

The list of files is made by walking a finished storage, so a file of a new kind is damaged too. Tasks run here, one
after the other: what they leave is the same (tests/ray_local/test_prepare.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from raysft.data.on_ray import Item
from raysft.data.prepare import prepare as prepare_module
from raysft.data.prepare.prepare import prepare
from raysft.data.prepare.prepared import Prepared
from raysft.data.read.sources import plan_reads
from raysft.data.store.parts import TokenStore
from raysft.data.store.versions import read_log, roll_back
from raysft.data.text.tokenizer import train_tokenizer
from raysft.errors import DataError, RaysftError
from raysft.recipe.schema import DataSection, ModelSection, Recipe

READ = ("manifest.json", "prompts.jsonl", "part-00000.parquet")
"""What training and evaluation read of a store."""


def lines(word: str, count: int = 80) -> str:
    records = [{"instruction": f"{word} {i}", "output": f"answer {word} {i}" if i % 9 else ""} for i in range(count)]
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="module", autouse=True)
def without_ray() -> Iterator[None]:
    def here(function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[Any]:
        return (json.loads(json.dumps(function(item))) for item in items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module.ray, "is_initialized", lambda: True)
        patch.setattr(prepare_module, "on_ray", here)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, without_ray: None) -> Path:
    """Data, a tokenizer, and two finished storages: `whole` and, of other data, `other`."""
    folder = tmp_path_factory.mktemp("damage")
    for name in ("whole", "other"):
        (folder / f"{name}.jsonl").write_text(lines(name))
    path = str(folder / "whole.jsonl")
    train_tokenizer([path], columns={}, vocab_size=300, template="chatml", out=str(folder / "tok"))
    for name in ("whole", "other"):
        for max_tokens in (128, 64):  # two versions
            prepared = prepare(recipe(folder, name, storage=name, max_tokens=max_tokens))
            (folder / f"{name}-{max_tokens}.json").write_text(json.dumps(content(prepared)))
    return folder


def recipe(folder: Path, data: str, *, storage: str, **fields: object) -> Recipe:
    train = (str(folder / f"{data}.jsonl"),)
    return Recipe(
        name="r",
        storage=str(folder / storage),
        model=ModelSection(source="random", tokenizer=str(folder / "tok")),
        data=DataSection(train=train, eval_fraction=0.2, **{"max_tokens": 128, **fields}),
    )


def files_of(storage: Path) -> list[str]:
    return sorted(str(path.relative_to(storage)) for path in storage.rglob("*") if path.is_file())


def counterpart(folder: Path, name: str) -> Path:
    """A file of the same kind of another storage."""
    found = [path for path in sorted((folder / "other").rglob(Path(name).name)) if path.is_file()]
    same_side = [path for path in found if (path.parent / "prompts.jsonl").exists() == is_held_out(folder, name)]
    return (same_side or found or sorted((folder / "other").rglob("*.json")))[0]


def is_held_out(folder: Path, name: str) -> bool:
    return (folder / "whole" / name).with_name("prompts.jsonl").exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path, other: flip(path),
    "deleted": lambda path, other: path.unlink(),
    "another's": lambda path, other: path.write_bytes(other.read_bytes()),
}


def content(prepared: Prepared) -> list[object]:
    """All that training and evaluation read of it."""
    found: list[object] = []
    for location in (prepared.train, prepared.eval):
        assert location is not None
        store = TokenStore.open(location)
        rows = store.read_rows(range(store.num_rows))
        found.append([[row.token_fields[field].tolist() for field in ("input_ids", "target")] for row in rows])
        found += [store.prompts(), store.row_sizes()[0].tolist(), store.manifest["counts"]]
    return found


def check(folder: Path, name: str, damage: str) -> None:
    """Damage one file of a copy of the storage `whole`, and prepare both versions again."""
    storage = folder / "damaged"
    shutil.rmtree(storage, ignore_errors=True)
    shutil.copytree(folder / "whole", storage)
    DAMAGES[damage](storage / name, counterpart(folder, name))
    if damage == "another's" and Path(name).name in ("version-0002.json", "newest.json"):
        with pytest.raises(DataError, match=r"two records of data version 2(.|\n)*delete the wrong one"):
            prepare(recipe(folder, "whole", storage="damaged", max_tokens=64))
        return
    for max_tokens in (64, 128):
        again = prepare(recipe(folder, "whole", storage="damaged", max_tokens=max_tokens))
        assert content(again) == json.loads((folder / f"whole-{max_tokens}.json").read_text())
    read = [path for path in files_of(folder / "whole") if Path(path).name in READ]
    assert all((storage / path).read_bytes() == (folder / "whole" / path).read_bytes() for path in read)


def test_some_damages_of_every_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = files_of(folder / "whole")
    assert len(names) >= 13, names
    kinds = {Path(name).name: name for name in names}
    for index, name in enumerate(kinds.values()):
        caplog.clear()
        damage = list(DAMAGES)[index % len(DAMAGES)]
        check(folder, name, damage)
        is_noticed = "made anew" in caplog.text or damage == "deleted"
        assert is_noticed >= (Path(name).name in READ), (name, damage)
        if name.endswith("rejects.jsonl"):
            assert "rejects.jsonl" in caplog.text


@pytest.mark.full
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_every_file(folder: Path, damage: str) -> None:
    for name in files_of(folder / "whole"):
        check(folder, name, damage)


@pytest.mark.parametrize("damage", ["flipped", "deleted"])
def test_a_damaged_store_that_was_rolled_back_to_is_refused(folder: Path, damage: str) -> None:
    """It is of files or fields that are no more: made of those that are there now, it would be another store."""
    storage = folder / "rolled"
    shutil.rmtree(storage, ignore_errors=True)
    shutil.copytree(folder / "whole", storage)
    own = recipe(folder, "whole", storage="rolled")
    prepare(recipe(folder, "whole", storage="rolled", train_on="last"))
    newest = read_log(own)[-1].number
    prepared = prepare(own)
    roll_back(own, newest)
    store = Path(prepare(own).train or "")
    assert str(store) != prepared.train
    DAMAGES[damage](store / "part-00000.parquet", store)
    with pytest.raises(RaysftError, match=r"rolled back(.|\n)*part-00000(.|\n)*roll") as caught:
        prepare(own)
    assert caught.value.exit_code == 2
    assert (store / "manifest.json").exists(), "nothing was made in its place"


def test_a_file_that_changes_meanwhile_publishes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder / "edited.jsonl"
    good = lines("good")
    data.write_text(good)
    own = recipe(folder, "edited", storage="edited")
    monkeypatch.setattr(prepare_module, "plan_reads", lambda files: plan_reads(files, 1000))

    def write(what: str, done: int, total: int) -> None:
        if (what, done) == ("shards", 2):
            data.write_text(good.replace("good", "evil"))

    with pytest.raises(DataError, match=r"edited\.jsonl changed while it was read"):
        prepare(own, progress=write)
    assert not list((folder / "edited").rglob("manifest.json"))
    data.write_text(good)  # as it was: the fingerprint is that of before
    again = prepare(own)
    clean = prepare(recipe(folder, "edited", storage="clean"))
    assert (again.train_manifest, content(again)) == (clean.train_manifest, content(clean))


def test_damaged_shards_of_a_killed_prepare_are_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "plan_reads", lambda files: plan_reads(files, 500))

    def die(what: str, done: int, total: int) -> None:
        if (what, done) == ("shards", total):
            raise KeyboardInterrupt

    own = recipe(folder, "whole", storage="killed")
    with pytest.raises(KeyboardInterrupt):
        prepare(own, progress=die)
    shards = sorted((folder / "killed").glob("tokens/work-*/all/shard-*"))
    assert len(shards) > 20
    for index, path in enumerate(shards):
        list(DAMAGES.values())[index % 5 % 4](path, shards[0])
    assert content(prepare(own)) == json.loads((folder / "whole-128.json").read_text())
