"""A hub that does not answer means the cache, at once; a run without an export names the others."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import make_recipe

from raysft.model.hub import is_hub_id, settle_hub

ONLINE = {"HF_HUB_OFFLINE": None, "HTTPS_PROXY": None, "https_proxy": None, "ALL_PROXY": None, "all_proxy": None}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # so that what is set here is taken back
    for name in ONLINE:
        monkeypatch.delenv(name, raising=False)


def test_a_closed_hub_means_the_cache(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        settle_hub(make_recipe(model={"source": "org/model", "config": None}))
        assert "HF_HUB_OFFLINE" not in os.environ
    with caplog.at_level(logging.WARNING):
        settle_hub(make_recipe(model={"source": "./local", "config": None, "tokenizer": "/a/b"}))
        assert "HF_HUB_OFFLINE" not in os.environ
        settle_hub(make_recipe(model={"source": "org/model", "config": None}))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "cannot be reached" in caplog.text
    assert "org/model" in caplog.text


def test_teachers_are_of_the_hub_too(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    distill = {"kind": "distill", "teachers": ["./local", "org/teacher"]}
    with caplog.at_level(logging.WARNING):
        settle_hub(make_recipe(model={"tokenizer": "./tok"}, objective=distill))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "what is cached of org/teacher is used" in caplog.text


def test_a_proxy_answers_for_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    settle_hub(make_recipe(model={"source": "org/model", "config": None}))
    assert "HF_HUB_OFFLINE" not in os.environ


def test_the_hub_is_settled_before_its_library_is_imported() -> None:
    program = "import sys\nimport raysft.model.hub, raysft.recipe.load\nsys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("org/name", True), ("gpt2", True), ("./a", False), ("/a/b", False), ("~/a", False), ("run://x", False),
     ("random", False), ("a/b/c", False), ("s3://a/b", False)],
)  # fmt: skip
def test_hub_ids(name: str, is_one: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name) is is_one
