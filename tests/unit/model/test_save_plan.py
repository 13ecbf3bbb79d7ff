"""A model that is exported as a stream has the files that save_pretrained writes of the whole one."""

from __future__ import annotations

import gc
import json
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import make_recipe, make_tokenizer
from family_rows import FACTS, make_base
from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TYPES

from raysft.errors import StorageError
from raysft.model import export
from raysft.model.decoder import unread
from raysft.model.export import export_run
from raysft.model.methods import apply_method
from raysft.model.stored import StoredTensor
from raysft.recipe.schema import Recipe

DENSE = ("llama", "qwen2", "qwen3", "gemma", "gemma3_text", "gpt2", "opt", "gpt_oss")
"""Tied and untied, Conv1D, stored prefixes, experts in one parameter."""
EXPERTS = ("mixtral", "qwen3_moe", "deepseek_v3")
"""Taken apart again when they are saved; a buffer that stays in fp32."""
SHARD = "60KB"


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_SHARD", SHARD)


def recipe_on(base: Path, precision: str = "fp32", **sections: Any) -> Recipe:
    model = {"source": str(base), "config": None, "tokenizer": None}
    return make_recipe(model=model, train={"precision": precision}, **sections)


def changed(model: torch.nn.Module) -> dict[str, Tensor]:
    """Every trained weight, moved by noise; the model has them afterwards."""
    torch.manual_seed(7)
    weights = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
                weights[name] = parameter.detach().clone()
    return weights


def load(base: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return model


def tensors(directory: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            names = list(file.keys())
            assert not found.keys() & set(names)
            found |= {name: file.get_tensor(name) for name in names}
    return found


def assert_same(ours: Path, theirs: Path) -> None:
    """Names, precisions and bits of all tensors; the index; the config."""
    a, b = tensors(ours), tensors(theirs)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert torch.equal(tensor, b[name]), name
    index = ours / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"] if index.exists() else None
    assert (places is None) == (len(list(ours.glob("*.safetensors"))) == 1)
    for name, file in (places or {}).items():
        with safe_open(ours / file, "pt") as opened:
            assert opened.get_slice(name) is not None
    configs = [json.loads((directory / "config.json").read_text()) for directory in (ours, theirs)]
    assert configs[0] | {"use_cache": True} == configs[1] | {"use_cache": True}


def raw(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if "safetensors" in path.name}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model_type", [*DENSE, *EXPERTS])
def test_every_tensor_as_save_pretrained_writes_it(tmp_path: Path, model_type: str, precision: str) -> None:
    """And every byte of the files, where no expert is taken apart."""
    make_base(model_type, tmp_path / "base")
    weights = changed(load(tmp_path / "base"))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    theirs: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(weights[name])  # rounded once
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=SHARD)
    recipe = recipe_on(tmp_path / "base", precision)
    (merged,) = export_run(recipe, weights, make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    assert_same(Path(merged), tmp_path / "theirs")
    if model_type in DENSE:
        assert raw(Path(merged)) == raw(tmp_path / "theirs")


@pytest.mark.full
def test_every_causal_family(tmp_path: Path) -> None:
    """As save_pretrained writes it; or transformers computes tensors of its files, and it is made whole."""
    compared = 0
    for model_type in TYPES:
        base = tmp_path / model_type
        try:
            make_base(model_type, base)
            theirs = load(base)
        except Exception:  # no tiny one can be made: see `make models`
            continue
        weights = {n: p.detach() for n, p in theirs.named_parameters() if n not in unread_names(theirs)}
        theirs.save_pretrained(base / "theirs", max_shard_size=SHARD)
        (merged,) = export_run(recipe_on(base), weights, make_tokenizer(), out=str(base / "e"), card=FACTS)
        assert_same(Path(merged), base / "theirs")
        compared += 1
    assert compared > 100


def unread_names(model: PreTrainedModel) -> set[str]:
    """Parameters of towers, which no text passes and `full` leaves as they are."""
    towers = unread(model)
    return {n for n, _ in model.named_parameters() if any(n.startswith(f"{tower}.") for tower in towers)}


TARGETS = ["q_proj", "down_proj"]
METHODS: dict[str, tuple[dict[str, Any], Any]] = {
    "lora": ({"rank": 4, "alpha": 12.0}, LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS)),
    "dora": ({"rank": 4, "alpha": 12.0}, LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS, use_dora=True)),
    "adalora": (
        {"rank": 4, "target_rank": 2, "alpha": 12.0},
        AdaLoraConfig(init_r=4, target_r=2, lora_alpha=12, target_modules=TARGETS, total_step=8),
    ),
    "ia3": (
        {"feedforward_modules": ["down_proj"]},
        IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]),
    ),
}


def with_adapter(base: Path, config: Any) -> Any:
    config.task_type = "CAUSAL_LM"
    return get_peft_model(load(base), config)


@pytest.mark.parametrize("kind", METHODS)
def test_adapters_are_merged_layer_by_layer_as_peft_merges_the_whole_model(tmp_path: Path, kind: str) -> None:
    make_base("llama", tmp_path / "base")
    fields, config = METHODS[kind]
    theirs = with_adapter(tmp_path / "base", config)
    weights = changed(theirs)
    theirs.save_pretrained(tmp_path / "adapter")
    theirs.merge_and_unload().save_pretrained(tmp_path / "theirs", max_shard_size=SHARD)
    recipe = recipe_on(tmp_path / "base", method={"kind": kind, "target_modules": TARGETS, **fields})
    adapter, merged = export_run(recipe, weights, make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    assert_same(Path(merged), tmp_path / "theirs")
    assert raw(Path(merged)) == raw(tmp_path / "theirs")
    found, expected = tensors(Path(adapter)), tensors(tmp_path / "adapter")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def lora(targets: list[str], **fields: Any) -> tuple[dict[str, Any], LoraConfig]:
    method = {"kind": "lora", "rank": 2, "alpha": 8.0, "target_modules": targets}
    return method, LoraConfig(r=2, lora_alpha=8, target_modules=targets, **fields)


@pytest.mark.parametrize(
    ("model_type", "targets"),
    [("gpt2", ["c_attn", "c_proj"]), ("gemma", ["lm_head"]), ("gemma", ["embed_tokens", "q_proj"])],
)
def test_conv1d_and_a_head_that_was_tied(tmp_path: Path, model_type: str, targets: list[str]) -> None:
    """Parted from its embedding it is written beside it; peft saves an adapted embedding with its adapter."""
    make_base(model_type, tmp_path / "base")
    method, config = lora(targets, fan_in_fan_out=model_type == "gpt2")
    theirs = with_adapter(tmp_path / "base", config)
    weights = changed(theirs)
    recipe = recipe_on(tmp_path / "base", method=method)
    adapter, merged = export_run(recipe, weights, make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    if model_type == "gemma":  # as decision 021 has it
        inner = theirs.get_base_model()
        ends = {
            name: getattr(inner, name) if name == "lm_head" else inner.model.embed_tokens
            for name in ("lm_head", "embed_tokens")
        }
        head = getattr(ends["lm_head"], "base_layer", ends["lm_head"])
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        inner.config.tie_word_embeddings = False
    theirs.merge_and_unload().save_pretrained(tmp_path / "theirs", max_shard_size=SHARD)
    assert_same(Path(merged), tmp_path / "theirs")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors(Path(adapter)).values())


def test_adapters_of_stacked_experts(tmp_path: Path) -> None:
    """Two adapters around one layer: peft gives experts that were fused twice the rank, so raysft puts them there."""
    make_base("mixtral", tmp_path / "base")
    method, _ = lora(["all-linear"])
    recipe = recipe_on(tmp_path / "base", method=method, export={"adapter": False})
    theirs: Any = apply_method(load(tmp_path / "base"), recipe)
    weights = changed(theirs)
    assert any("experts" in name for name in weights)
    theirs.merge_and_unload().save_pretrained(tmp_path / "theirs", max_shard_size=SHARD)
    (merged,) = export_run(recipe, weights, make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    assert_same(Path(merged), tmp_path / "theirs")


class Asked(Mapping[str, Tensor]):
    """Weights that are made when they are asked for."""

    def __init__(self, weights: dict[str, Tensor], dies_at: int | None = None) -> None:
        self._weights, self._dies_at = weights, dies_at
        self.alive: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __getitem__(self, name: str) -> Tensor:
        if self._dies_at == len(self.alive):
            os._exit(9)
        tensor = self._weights[name].clone()
        self.alive.append(weakref.ref(tensor))
        gc.collect(0)
        self.most = max(self.most, sum(one() is not None for one in self.alive))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def test_weights_are_asked_for_one_at_a_time(tmp_path: Path) -> None:
    make_base("llama", tmp_path / "base")
    weights = Asked(changed(load(tmp_path / "base")))
    export_run(recipe_on(tmp_path / "base"), weights, make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    assert len(weights.alive) == len(weights)
    assert weights.most == 1


def test_a_killed_export_is_gone_on_with(tmp_path: Path) -> None:
    """Files of weights that it had finished are kept, unless they are damaged; all else is made again."""
    make_base("llama", tmp_path / "base")
    recipe, given = recipe_on(tmp_path / "base"), changed(load(tmp_path / "base"))
    export_run(recipe, given, make_tokenizer(), out=str(tmp_path / "whole"), card=FACTS)
    out = tmp_path / "e"
    if not (child := os.fork()):
        try:
            export_run(recipe, Asked(given, dies_at=len(given) - 1), make_tokenizer(), out=str(out), card=FACTS)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (staging,) = out.iterdir()
    assert staging.name.startswith(".export-")
    finished = sorted(path.name.removesuffix(".json") for path in (staging / "weights").glob("*.json"))
    assert len(finished) == 2
    first = staging / "weights" / finished[0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(bytes(data))
    (staging / "merged/model-00001-of-00099.safetensors").write_text("of another version")
    (staging / "weights/model-00001-of-00099.safetensors").write_text("of another version")
    weights = Asked(given)
    (merged,) = export_run(recipe, weights, make_tokenizer(), out=str(out), card=FACTS)
    assert raw(Path(merged)) == raw(tmp_path / "whole/merged")
    kept = finished[1:]
    places = json.loads((Path(merged) / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(weights.alive) == len([file for file in places.values() if file not in kept])
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "merged"]


def test_what_cannot_be_streamed_is_made_whole_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_base("hrm_text", tmp_path / "base")
    theirs = load(tmp_path / "base").requires_grad_(True)
    weights = changed(theirs)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=SHARD)
    (merged,) = export_run(
        recipe_on(tmp_path / "base"), weights, make_tokenizer(), out=str(tmp_path / "e"), card=FACTS
    )
    assert_same(Path(merged), tmp_path / "theirs")
    (line,) = [record.message for record in caplog.records if record.name.startswith("raysft")]
    assert line.startswith("export: the whole model is held in fp32: transformers computes")


def test_a_disk_that_takes_no_more_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base("llama", tmp_path / "base")
    weights = changed(load(tmp_path / "base"))
    out = tmp_path / "e"

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    usual = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", **how: Full() if mode == "wb" else usual(self, mode, **how)
    )
    with pytest.raises(StorageError, match="No space left"):
        export_run(recipe_on(tmp_path / "base"), weights, make_tokenizer(), out=str(out), card=FACTS)
    assert not list(out.iterdir())


def test_frozen_weights_are_read_one_layer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base("llama", tmp_path / "base")
    method, config = lora(["q_proj", "down_proj"])
    weights = changed(with_adapter(tmp_path / "base", config))
    alive: list[weakref.ref[Tensor]] = []
    most, read = 0, StoredTensor.read

    def counted(stored: StoredTensor, into: Tensor, start: int = 0) -> None:
        nonlocal most
        assert into._base is not None
        alive.append(weakref.ref(into._base))
        gc.collect(0)
        most = max(most, sum(one() is not None for one in alive))
        read(stored, into, start)

    monkeypatch.setattr(StoredTensor, "read", counted)
    recipe = recipe_on(tmp_path / "base", method=method, export={"adapter": False})
    export_run(recipe, weights, make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    assert len(alive) == len(list(load(tmp_path / "base").parameters()))
    assert most == 1
