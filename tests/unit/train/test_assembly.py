"""Which module a worker trains: in outline where all ranks can, else whole; none is left waiting for another."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fakes import FakeGroup, make_tokenizer
from family_rows import make_base
from workers import make_context

from raysft.errors import ModelError
from raysft.train.assembly import build_module
from raysft.train.worker_input import WorkerContext


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_base("llama", tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


class Counted(FakeGroup):
    """Counts what all ranks agree on."""

    asked = 0

    def all_true(self, value: bool) -> bool:
        self.asked += 1
        return super().all_true(value)


def context(directory: Path, group: FakeGroup) -> WorkerContext:
    model = {"source": str(directory), "config": None, "tokenizer": None}
    return make_context(str(directory.parent / "run"), group, sections={"model": model}, tokenizer=str(directory))


def test_weights_in_files_are_left_to_the_engine(directory: Path) -> None:
    module = build_module(context(directory, Counted()))
    assert module.unread is not None
    assert all(parameter in module.unread for parameter in module.parameters())
    assert module.unread.twin.config.model_type == "llama"


def test_one_rank_that_must_load_it_whole_has_all_do_so(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        module = build_module(context(directory, Counted(0, 2, others_agree=False)))
    assert module.unread is None
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert "every worker loads the whole model in fp32" in caplog.text


def test_a_rank_without_the_files_is_heard_before_it_fails(directory: Path) -> None:
    group = Counted(0, 2)
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot load the model"):
        build_module(context(directory, group))
    assert group.asked == 1
