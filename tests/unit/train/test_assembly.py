"""Which module a worker trains: in outline where all ranks can, else whole; none is left waiting for another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeGroup, make_tokenizer
from family_rows import make_base
from torch import Tensor
from workers import make_context

from raysft.errors import ModelError
from raysft.model.fast import attention
from raysft.model.methods import base_model
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


def context(directory: Path, group: FakeGroup, **sections: Any) -> WorkerContext:
    model = {"source": str(directory), "config": None, "tokenizer": None}
    sections = {"model": model, **sections}
    return make_context(str(directory.parent / "run"), group, sections=sections, tokenizer=str(directory))


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


def test_the_attention_that_trains_is_asked_in_bf16(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With heads as wide as the model's, for kernels differ by that. What is wrong there is not trained with."""
    right, widths = attention._one_by_one, set()

    def kernel(query: Tensor, key: Tensor, *others: Any) -> Tensor:
        if query.dtype == torch.bfloat16:
            widths.add(query.shape[-1])
            return right(query, key * 2, *others)
        return right(query, key, *others)

    monkeypatch.setattr(attention, "_one_by_one", kernel)
    found = {}
    for precision in ("fp32", "bf16"):
        one = context(directory, Counted(), train={"precision": precision})
        found[precision] = base_model(build_module(one).model).config
    assert found["fp32"]._attn_implementation == attention.SEGMENTS
    assert found["bf16"]._attn_implementation == "sdpa"
    assert widths == {found["bf16"].head_dim}
