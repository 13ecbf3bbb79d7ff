"""A model in pieces gives what it gives whole, to the bit, and lies where it was told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import make_tokenizer
from family_rows import VOCABULARY, make_base
from models import local
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from raysft.errors import ModelError
from raysft.evaluate.generation import TransformersGenerator
from raysft.evaluate.sampling import Sampling
from raysft.model.load import dtypes_as_loaded
from raysft.model.methods import PlainForward
from raysft.model.spread import CPU, FILES, Room, _places, spread
from raysft.model.trained import load_untrained

FAMILIES = ["llama", "gpt2", "gemma2", "mixtral", "mamba"]


def bytes_of(*modules: nn.Module) -> int:
    return sum(4 * parameter.numel() for module in modules for parameter in module.parameters())


def room_for(model: PreTrainedModel, layers: int, folder: Path) -> Room:
    """Room for what is outside of the layers, one that computes and so many that stay."""
    found: Any = model.base_model
    of_model = next(list(m) for m in found.modules() if isinstance(m, nn.ModuleList) and len(m) > 1)
    outside = bytes_of(model) - bytes_of(*of_model)
    return Room({CPU: outside + (layers + 1) * max(map(bytes_of, of_model))}, folder=str(folder))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_layers_in_files_compute_what_they_compute_in_memory(
    tmp_path: Path, model_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_base(model_type, tmp_path / "base")
    whole: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
    recipe = local(tmp_path / "base")
    (tmp_path / "files").mkdir()
    room = room_for(whole, 0, tmp_path / "files")
    model = load_untrained(recipe, vocab_size=VOCABULARY, room=room).eval()
    assert sum(p.numel() * 4 for p in model.parameters() if p.device == CPU) < bytes_of(whole)
    assert list((tmp_path / "files").glob("*.dat"))
    assert "layers wait in files" in caplog.text
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, whole(input_ids=ids).logits)
        hidden = [PlainForward(one).hidden_states(ids, torch.arange(20)[None]) for one in (model, whole)]
        assert torch.equal(*hidden)
    answers = [
        TransformersGenerator(one, make_tokenizer()).generate(["one", "a longer one"], Sampling(6))
        for one in (model, whole)
    ]
    assert answers[0] == answers[1]


def test_a_whole_model_is_spread_too(tmp_path: Path) -> None:
    make_base("llama", tmp_path / "base")
    whole, again = (AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32) for _ in range(2))
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    (tmp_path / "files").mkdir()
    room = room_for(whole, 0, tmp_path / "files")
    spread(again, lambda parameter: parameter.data, dtypes_as_loaded(again, torch.bfloat16), room)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, rounded(input_ids=ids).logits)


def test_devices_are_filled_in_their_order_then_host_memory_then_files(tmp_path: Path) -> None:
    """Six layers: one on each of two GPUs, beside one that others compute in, two wait, the rest are in files."""
    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=6, num_attention_heads=2, vocab_size=90
    )
    model = AutoModelForCausalLM.from_config(config)
    layer = bytes_of(model.model.layers[0])
    outside = bytes_of(model) - 6 * layer
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    room = Room({first: outside + 2 * layer, second: 1.5 * layer}, host=2.5 * layer, folder=str(tmp_path))
    places = _places(model, dtypes_as_loaded(model, torch.float32), room)
    assert [places[f"model.layers.{i}"] for i in range(6)] == [first, second, "cpu", "cpu", FILES, FILES]
    assert {places[name] for name in ("model.embed_tokens", "model.norm", "lm_head")} == {first}
    roomy = Room({first: outside + 3 * layer, second: 3 * layer})
    places = _places(model, dtypes_as_loaded(model, torch.float32), roomy)
    assert [places[f"model.layers.{i}"] for i in range(6)] == [first] * 3 + [second] * 3


@pytest.mark.parametrize(("layers", "folder", "words"), [(-2, True, "room for embedding"), (0, False, "a folder")])
def test_what_has_no_room_is_told(tmp_path: Path, layers: int, folder: bool, words: str) -> None:
    make_base("llama", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    room = room_for(model, layers, tmp_path)
    with pytest.raises(ModelError, match=words):
        _places(model, dtypes_as_loaded(model, torch.float32), room if folder else Room(room.devices))
