"""The file that describes a cluster: every wrong field is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysft.errors import RecipeError
from raysft.kube.settings import read_settings

ROOT = Path(__file__).parents[3]


def test_the_file_of_the_repository_is_read() -> None:
    settings = read_settings(ROOT / "k8s" / "cluster.yaml")
    assert settings.claim == "raysft"
    assert settings.tolerations[0]["operator"] == "Exists"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image: a\nimgae: b", "imgae"),
        ("namespace: x", "image: Field required"),
        ("image: a\nmount: storage", "mount"),
        ("image: a\nclaim: Not_A_Name", "claim"),
        ("image: a\nworkers_per_node: 0", "workers_per_node"),
        ("- a list", "the file"),
        ("", "the file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_settings(tmp_path / "cluster.yaml")
    assert told in caught.value.got


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read"):
        read_settings(tmp_path / "none.yaml")
