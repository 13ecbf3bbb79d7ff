"""A model in outline, filled, is the model that transformers loads: every parameter and buffer, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from fakes import make_recipe
from family_rows import VOCABULARY, make_base, recipe_of
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TYPES

from raysft.errors import ModelError
from raysft.model.load import load_model
from raysft.model.methods import METHODS, OfWeight, apply_method, of_weights
from raysft.model.outline import Outline, Unread, WholeOnlyError, outline, why_whole
from raysft.model.stacked import Source, StackedTensor
from raysft.model.stored import StoredTensor
from raysft.recipe.schema import Recipe

CPU = torch.device("cpu")
EXPERTS = ("mixtral", "qwen3_moe", "deepseek_v3", "nemotron_h")
READ = (
    *EXPERTS,
    "llama",
    "qwen3",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "opt",
    "falcon",
    "gpt_oss",
    "mamba",
    "bloom",
    "phi3",
)
"""A type of each manner: tied or not, with stored buffers, Conv1D, biases, a state, experts in one parameter."""
WHOLE = {
    "hrm_text": "computes model",
    "ctrl": "lm_head.bias",
    "fuyu": "more than text",
}
"""Types that are loaded whole, and why."""


def fill(module: nn.Module, found: Outline, computed: Sequence[OfWeight] = ()) -> list[Source]:
    """What a rank does that keeps everything. Returns what was read."""
    unread = Unread(module, found, found.model, computed)
    read = []
    with torch.no_grad():
        for one in unread.computed:
            one.parameter.copy_(one.compute(unread.source(one.weight).read).view_as(one.parameter))
    for parameter in module.parameters():
        if parameter in unread:
            read.append(unread.take(parameter))
            parameter.data = torch.empty(parameter.shape)
            read[-1].read(parameter.data.view(-1))
    assert not len(unread)
    return read


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for kind in ("named_parameters", "named_buffers"):
        a, b = (dict(getattr(module, kind)(remove_duplicate=False)) for module in (ours, theirs))
        assert a.keys() == b.keys()
        for name, tensor in a.items():
            assert (tensor.dtype, tensor.stride()) == (b[name].dtype, b[name].stride()), name
            assert torch.equal(tensor, b[name]), name
            assert {n for n in a if a[n] is tensor} == {n for n in b if b[n] is b[name]}, name  # tied alike


@pytest.mark.parametrize("model_type", READ)
def test_every_tensor_is_that_of_from_pretrained(tmp_path: Path, model_type: str) -> None:
    make_base(model_type, tmp_path)
    found = outline(recipe_of(tmp_path, "full"), vocab_size=VOCABULARY, device=CPU)
    assert {p.untyped_storage().nbytes() for p in found.model.parameters()} == {4}
    read = fill(found.model, found)
    assert {type(source) for source in read} <= {StoredTensor, StackedTensor}
    assert (StackedTensor in {type(source) for source in read}) == (model_type in EXPERTS)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert_same(found.model, theirs)
    theirs.config.use_cache = False
    assert found.model.config.to_dict() == theirs.config.to_dict()
    assert found.model.generation_config.to_dict() == theirs.generation_config.to_dict()


@pytest.mark.full
def test_every_causal_family(tmp_path: Path) -> None:
    """A type is read as from_pretrained reads it, or says why it is loaded whole."""
    told: dict[str, str] = {}
    for model_type in TYPES:
        directory = tmp_path / model_type
        try:
            make_base(model_type, directory)
            theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        except Exception:  # no tiny one can be made: see `make models`
            continue
        try:
            found = outline(recipe_of(directory, "full"), vocab_size=VOCABULARY, device=CPU)
        except WholeOnlyError as error:
            told[model_type] = str(error)
            continue
        fill(found.model, found)
        assert_same(found.model, theirs)
    assert len(told) < 25, told


def save(directory: Path, dtype: torch.dtype = torch.bfloat16, **changes: object) -> dict[str, torch.Tensor]:
    make_base("llama", directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    model.save_pretrained(directory, **changes)
    return model.state_dict()


def local(directory: Path, **sections: object) -> Recipe:
    return make_recipe(model={"source": str(directory), "config": None, "tokenizer": None}, **sections)


def test_several_files_and_a_prefix_that_transformers_renames(tmp_path: Path) -> None:
    """Weights saved from the model without its head have other names: transformers puts the prefix before them."""
    make_base("qwen3", tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    theirs.lm_head.weight = theirs.model.embed_tokens.weight
    theirs.config.tie_word_embeddings = True
    theirs.save_pretrained(tmp_path)
    theirs.model.save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "model.safetensors").unlink()
    found = outline(local(tmp_path), vocab_size=VOCABULARY, device=CPU)
    assert len({tensor.path for tensor in fill(found.model, found) if isinstance(tensor, StoredTensor)}) > 1
    assert found.model.lm_head.weight is found.model.model.embed_tokens.weight
    for name, tensor in theirs.named_parameters():
        assert torch.equal(found.model.get_parameter(name), tensor), name


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "lora", "rank": 3},
        {"kind": "lora", "rank": 2, "target_modules": ["lm_head", "q_proj"]},
        {"kind": "ia3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ],
)
@pytest.mark.parametrize("model_type", ["llama", "gemma"])
def test_adapters_are_those_of_the_whole_model(tmp_path: Path, method: dict[str, object], model_type: str) -> None:
    """And so they are where the head is parted from the embedding, which is then read twice."""
    make_base(model_type, tmp_path)
    recipe = local(tmp_path, method=method)
    theirs = apply_method(load_model(recipe, vocab_size=VOCABULARY), recipe)
    found = outline(recipe, vocab_size=VOCABULARY, device=CPU)
    ours = apply_method(found.model, recipe)
    fill(ours, found)
    assert_same(ours, theirs)
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_begins_as_on_the_whole_model(tmp_path: Path, kind: str) -> None:
    """One that looks at the weights would see placeholders: it says of which it computes what."""
    make_base("llama", tmp_path)
    recipe = local(tmp_path, method={"kind": kind})
    theirs = apply_method(load_model(recipe, vocab_size=VOCABULARY), recipe)
    found = outline(recipe, vocab_size=VOCABULARY, device=CPU)
    ours = apply_method(found.model, recipe)
    fill(ours, found, of_weights(ours, recipe))
    assert_same(ours, theirs)


def test_what_is_computed_from_placeholders_is_noticed(tmp_path: Path) -> None:
    """A method that reads weights and does not say so; a zero would be trained in silence."""
    make_base("llama", tmp_path)
    found = outline(local(tmp_path), vocab_size=VOCABULARY, device=CPU)
    layer = found.model.model.layers[0]
    layer.length = nn.Parameter(layer.mlp.up_proj.weight.detach().norm(dim=1))
    with pytest.raises(WholeOnlyError, match=r"computes model\.layers\.0\.length from its weights"):
        Unread(found.model, found, found.model)


@pytest.mark.parametrize("model_type", WHOLE)
def test_what_is_more_than_read_is_loaded_whole(tmp_path: Path, model_type: str) -> None:
    make_base(model_type, tmp_path)
    with pytest.raises(WholeOnlyError, match=WHOLE[model_type]):
        outline(recipe_of(tmp_path, "full"), vocab_size=VOCABULARY, device=CPU)
    if model_type != "ctrl":
        assert WHOLE[model_type] in (why_whole(recipe_of(tmp_path, "full"), vocab_size=VOCABULARY) or "")


def test_the_driver_says_nothing_of_what_is_read_by_shares(tmp_path: Path) -> None:
    make_base("llama", tmp_path)
    assert why_whole(recipe_of(tmp_path, "full"), vocab_size=VOCABULARY) is None
    hub = make_recipe(model={"source": "some/hub-id", "config": None, "tokenizer": None})
    assert why_whole(hub, vocab_size=VOCABULARY) is None


def test_any_range_of_stacked_experts(tmp_path: Path) -> None:
    make_base("mixtral", tmp_path)
    found = outline(recipe_of(tmp_path, "full"), vocab_size=VOCABULARY, device=CPU).stored
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    whole = theirs.get_parameter(name).detach().flatten()
    for start, count in ((0, len(whole)), (1, 1), (len(whole) // 3, len(whole) // 2), (len(whole) - 7, 7)):
        into = torch.full((count,), torch.nan)
        found[name].read(into, start)
        assert torch.equal(into, whole[start : start + count])


def test_a_lost_expert_is_left_to_the_whole_load(tmp_path: Path) -> None:
    make_base("mixtral", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.0.block_sparse_moe.experts.2.w1.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WholeOnlyError, match="are not in its files"):
        outline(recipe_of(tmp_path, "full"), vocab_size=VOCABULARY, device=CPU)
    with pytest.raises(ModelError, match="cannot load"):
        load_model(recipe_of(tmp_path, "full"), vocab_size=VOCABULARY)


def damage(directory: Path, what: str) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    if what == "missing":
        del weights["model.norm.weight"]
    elif what == "another shape":
        weights["model.norm.weight"] = weights["model.norm.weight"][:-1].clone()
    elif what == "whole numbers":
        weights["model.norm.weight"] = torch.ones(32, dtype=torch.int8)
    save_file(weights, path, metadata={"format": "pt"})
    if what == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if what == "none":
        path.unlink()


@pytest.mark.parametrize("what", ["missing", "another shape", "whole numbers", "truncated", "none"])
def test_wrong_files_are_left_to_the_whole_load_which_names_them(tmp_path: Path, what: str) -> None:
    save(tmp_path)
    damage(tmp_path, what)
    with pytest.raises((WholeOnlyError, ModelError)):
        outline(local(tmp_path), vocab_size=VOCABULARY, device=CPU)
    if what != "whole numbers":
        with pytest.raises(ModelError, match="cannot load"):
            load_model(local(tmp_path), vocab_size=VOCABULARY)
