"""When liger's kernels are asked for, and that a change of what the model computes is refused. Not the kernels."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from families import LLAMA, make_model
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.fast import liger


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, bool]]:
    """A liger_kernel that knows Llama, and a model that believes to be on a GPU."""
    known, calls = types.ModuleType("liger_kernel.transformers.monkey_patch"), []  # type: ignore[var-annotated]
    known.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, known.__name__, known)
    monkeypatch.setattr(liger, "is_liger_kernel_available", lambda: True)
    monkeypatch.setattr(liger, "_apply", lambda model, config: calls.append(config))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: self)
    monkeypatch.setattr(PreTrainedModel, "device", torch.device("cuda"))
    return calls


def test_the_loss_stays_ours(applied: list[dict[str, bool]]) -> None:
    liger.use_liger(make_model(LLAMA))
    assert applied == [{"cross_entropy": False, "fused_linear_cross_entropy": False}]


def test_other_models_and_a_cpu_are_left_alone(
    applied: list[dict[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    liger.use_liger(make_model({"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4}))
    monkeypatch.setattr(PreTrainedModel, "device", torch.device("cpu"))
    liger.use_liger(make_model(LLAMA))
    assert applied == []


def test_a_kernel_that_changes_the_answers_is_refused(
    applied: list[dict[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: Any, config: Any) -> None:
        model.model.norm.weight.data[::2].mul_(1.1)

    monkeypatch.setattr(liger, "_apply", wrong)
    with pytest.raises(ModelError, match="liger"):
        liger.use_liger(make_model(LLAMA))
