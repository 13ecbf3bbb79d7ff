"""Where a trained tokenizer goes: not over another, and whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raysft.data.text.tokenizer_files import check_out, publish
from raysft.errors import ConflictError, StorageError


class Saved:
    """Writes files as `save_pretrained` does, until there is no room."""

    def __init__(self, *names: str, fails_at: str = "") -> None:
        self.names, self.fails_at = names, fails_at

    def save_pretrained(self, folder: str) -> None:
        for name in self.names:
            if name == self.fails_at:
                raise RuntimeError("No space left on device (os error 28)")
            Path(folder, name).write_text(f"new {name}")


def test_a_tokenizer_that_is_there_is_not_lost(tmp_path: Path) -> None:
    check_out(str(tmp_path / "new"), overwrite=False)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConflictError, match="there is a tokenizer") as caught:
        check_out(str(tmp_path), overwrite=False)
    assert "--overwrite" in caught.value.fix
    check_out(str(tmp_path), overwrite=True)


def test_a_place_that_cannot_be_written_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        with pytest.raises(StorageError, match="cannot write the tokenizer") as caught:
            check_out(out, overwrite=True)
        assert "--out" in caught.value.fix


def test_a_disk_that_fills_up_leaves_the_old_one_whole(tmp_path: Path) -> None:
    out = tmp_path / "tok"
    out.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_text("old")
    broken: Any = Saved("tokenizer_config.json", "tokenizer.json", fails_at="tokenizer.json")
    with pytest.raises(StorageError, match="cannot write the tokenizer") as caught:
        publish(broken, str(out))
    assert "No space left" in caught.value.got
    assert {path.read_text() for path in out.iterdir()} == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["tok"], "nothing is left beside it"


def test_the_tokenizer_itself_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees tokenizer.json sees all of them."""
    out, moved = tmp_path / "tok", []
    replace = __import__("os").replace
    monkeypatch.setattr("os.replace", lambda old, new: (moved.append(Path(new).name), replace(old, new)))
    whole: Any = Saved("tokenizer.json", "a.json", "z.json")
    publish(whole, str(out))
    assert moved == ["a.json", "z.json", "tokenizer.json"]
    assert {path.read_text() for path in out.iterdir()} == {f"new {name}" for name in moved}
