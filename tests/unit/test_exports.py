"""The exports of runs, as other runs name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysft.errors import ModelError
from raysft.exports import merged_export


def test_a_run_without_an_export_names_those_with_one(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / "runs" / name / "export" / "merged").mkdir(parents=True)
        (tmp_path / "runs" / name / "export" / "export.json").write_text("{}")
    (tmp_path / "runs" / "begun" / "export" / "merged").mkdir(parents=True)
    assert merged_export(str(tmp_path), "first") == str(tmp_path / "runs" / "first" / "export" / "merged")
    with pytest.raises(ModelError, match="'frist' has no exported model") as caught:
        merged_export(str(tmp_path), "frist")
    assert caught.value.expected.endswith("first, second")
    with pytest.raises(ModelError):
        merged_export(str(tmp_path), "begun")


def test_an_adapter_alone_says_how_to_go_on_with_it(tmp_path: Path) -> None:
    (tmp_path / "runs" / "adapted" / "export" / "adapter").mkdir(parents=True)
    (tmp_path / "runs" / "adapted" / "export" / "export.json").write_text("{}")
    with pytest.raises(ModelError, match="'adapted' has no exported model") as caught:
        merged_export(str(tmp_path), "adapted")
    assert caught.value.got == "an adapter without its base"
    assert "export.merged: true" in caught.value.fix
    assert "method.begin_from: run://adapted" in caught.value.fix
