"""Weights that are made by ranges: transformers' distributions, any range to the bit, whole as by shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fakes import LLAMA, make_recipe
from families import tiny_fields
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, initialization
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TYPES

from raysft.model import fresh
from raysft.model.fresh import BLOCK, FreshTensor, UnknownStepError, generator_of, put, record
from raysft.model.load import fresh_model, load_model
from raysft.model.methods import apply_method, of_weights
from raysft.model.outline import Unread, WholeOnlyError, outline, why_whole
from raysft.recipe.schema import Recipe

CPU = torch.device("cpu")
VOCABULARY = 264
FAMILIES = ("llama", "qwen3", "gemma3_text", "gpt2", "mixtral", "qwen3_moe", "phi", "mamba", "qwen3_next", "bloom")
"""Normal, by layer (GPT-2's c_proj), zeros and ones, experts in one tensor, computed values in a part (Mamba)."""
WHOLE = {"rwkv": "orthogonal_", "roberta": "lm_head.bias", "nemotron_h": "copy_"}
"""Types that are made whole, and what of them."""


def recipe_of(model_type: str, **sections: Any) -> Recipe:
    fields = {key: value for key, value in tiny_fields(model_type, VOCABULARY).items() if key != "pad_token_id"}
    return make_recipe(model={"source": "random", "config": fields, "tokenizer": "somewhere"}, **sections)


def plainly(model_type: str) -> PreTrainedModel:
    """transformers' own initialisation of the same config."""
    torch.manual_seed(0)
    fields = dict(tiny_fields(model_type, VOCABULARY)) | {"pad_token_id": None}
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(fields.pop("model_type"), **fields), dtype=torch.float32
    )
    return model


def named(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(remove_duplicate=False))


def assert_distributed_alike(ours: nn.Module, theirs: nn.Module) -> None:
    """Constants equal; moments, and the largest number, within the error of a sample; tied alike; buffers equal."""
    a, b = named(ours), named(theirs)
    assert a.keys() == b.keys()
    for name, one in a.items():
        other = b[name]
        assert (one.shape, one.dtype, one.requires_grad) == (other.shape, other.dtype, other.requires_grad), name
        assert {n for n in a if a[n] is one} == {n for n in b if b[n] is other}, name
        ones, others = (tensor.detach().double() for tensor in (one, other))
        count = ones.numel()
        if float(others.amax() - others.amin()) == 0 or torch.equal(ones, others):
            assert torch.equal(ones, others), name
        elif count >= 32:
            spread = float(others.std())
            assert abs(float(ones.mean() - others.mean())) < 8 * spread / count**0.5, name
            assert float(ones.std()) == pytest.approx(spread, rel=8 / count**0.5), name
            assert not torch.equal(ones, others), name
    buffers = dict(ours.named_buffers())
    assert buffers.keys() == dict(theirs.named_buffers()).keys()
    for name, buffer in theirs.named_buffers():
        assert torch.equal(buffers[name], buffer), name


@pytest.mark.parametrize("model_type", FAMILIES)
def test_weights_are_distributed_as_transformers_has_them(model_type: str) -> None:
    ours = load_model(recipe_of(model_type), vocab_size=VOCABULARY)
    theirs = plainly(model_type)
    assert_distributed_alike(ours, theirs)
    theirs.config.use_cache = False
    assert ours.config.to_diff_dict() == theirs.config.to_diff_dict()
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_an_outline_that_is_filled_is_the_whole_model(model_type: str) -> None:
    whole = named(load_model(recipe_of(model_type), vocab_size=VOCABULARY))
    found = outline(recipe_of(model_type), vocab_size=VOCABULARY, device=CPU)
    assert {parameter.untyped_storage().nbytes() for parameter in found.model.parameters()} == {4}
    assert found.stored.keys() == whole.keys()
    for name, made in found.stored.items():
        value = torch.empty(made.shape)
        made.read(value.view(-1))
        assert torch.equal(value, whole[name]), name


def tensor(shape: tuple[int, ...], seed: int = 0, name: str = "a.weight", act: str = "normal_") -> FreshTensor:
    """One parameter of those shapes that a model has, initialised so."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            owner, _, own = name.partition(".")
            self.add_module(owner, nn.Module())
            self.get_submodule(owner).register_parameter(own, nn.Parameter(torch.empty(shape)))
            with torch.no_grad():
                getattr(initialization, act)(self.get_parameter(name), 0.0, 0.02)

    make: Any = Model
    return record(make, seed)[1][name]


def whole(made: FreshTensor) -> Tensor:
    value = torch.empty(made.shape)
    made.read(value.view(-1))
    return value


@pytest.mark.parametrize("act", ["normal_", "uniform_", "trunc_normal_"])
def test_any_range_is_that_of_the_whole(act: str) -> None:
    made = tensor((3, BLOCK - 5), act=act)
    flat = whole(made).flatten()
    for start, count in ((0, len(flat)), (1, 1), (BLOCK - 1, 2), (BLOCK + 7, BLOCK), (len(flat) - 3, 3)):
        into = torch.full((count,), torch.nan)
        made.read(into, start)
        assert torch.equal(into, flat[start : start + count])
    half = torch.empty(len(flat), dtype=torch.bfloat16)
    made.read(half)
    assert torch.equal(half, flat.bfloat16())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_part_of_an_axis_is_that_of_the_whole(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "_ROWS", 2_000)
    made = tensor((6, 10, 64))
    into = torch.full([size // 2 if at == axis else size for at, size in enumerate(made.shape)], torch.nan)
    made.read_part(into, axis, made.shape[axis] // 2)
    assert torch.equal(into, whole(made).narrow(axis, made.shape[axis] // 2, made.shape[axis] // 2))


def test_no_two_parameters_blocks_or_seeds_draw_the_same() -> None:
    one = whole(tensor((2, BLOCK)))
    others = (whole(tensor((2, BLOCK), seed=1)), whole(tensor((2, BLOCK), name="b.weight")), one.flip(0))
    assert not any(bool((one == other).all(1).any()) for other in others)
    assert torch.equal(one, whole(tensor((2, BLOCK))))
    correlated = torch.corrcoef(torch.stack([*one, *others[0], *others[1]])) - torch.eye(6)
    assert float(correlated.abs().max()) < 6 / BLOCK**0.5


def test_a_key_makes_all_of_a_generators_state() -> None:
    """torch takes the low 32 bits of a seed; where its state holds what they make is known here by that recurrence
    (Matsumoto and Nishimura 1998, init_genrand)."""
    state = torch.Generator().manual_seed(5 + 2**32).get_state().numpy().view(np.uint64)
    words = [5]
    for number in range(1, fresh._WORDS):
        words.append((1812433253 * (words[-1] ^ words[-1] >> 30) + number) % 2**32)
    found = state[fresh._FIRST_WORD : fresh._FIRST_WORD + fresh._WORDS].tolist()
    assert found == words
    numbers = {float(torch.rand((), dtype=torch.float64, generator=generator_of(f"0/a/{i}/0"))) for i in range(999)}
    assert len(numbers) == 999
    assert torch.equal(torch.rand(9, generator=generator_of("a")), torch.rand(9, generator=generator_of("a")))


def test_a_truncated_normal_ends_where_it_is_cut() -> None:
    made = tensor((BLOCK,), act="trunc_normal_")
    cut = FreshTensor(
        0, "a", made.shape, (made.steps[0].__class__(nn.init.trunc_normal_, (0, 1, -1, 1), 0, BLOCK, True),)
    )
    assert float(whole(cut).abs().max()) <= 1
    assert float(whole(cut).std()) == pytest.approx(0.5396, abs=0.01)  # of a normal cut at one deviation
    assert float(whole(made).std()) == pytest.approx(0.02, rel=0.02)


class Stepwise(nn.Module):
    """Initialised in steps, some of which are known and some of which are not."""

    def __init__(self, odd: str = "") -> None:
        super().__init__()
        self.weight, self.scaled = nn.Parameter(torch.zeros(4, 8)), nn.Parameter(torch.empty(BLOCK + 9))
        with torch.no_grad():
            nn.init.normal_(self.weight)
            self.weight[1].zero_()
            self.weight.data[2:4].copy_(torch.arange(16.0).view(2, 8))
            self.scaled.uniform_(-1, 1).mul_(2).add_(1).clamp_(max=2.5)
            if odd == "column":
                self.weight[:, 1].zero_()
            if odd == "sum":
                self.weight.cumsum_(0)
            if odd == "of itself":
                self.weight.copy_(self.weight / 2)
            if odd == "orthogonal":
                initialization.orthogonal_(self.weight)
            if odd == "new":
                self.weight = nn.Parameter(torch.ones(4, 8))


def test_steps_on_parts_are_played_where_they_belong() -> None:
    model: Any
    model, made = record(Stepwise, 0)  # type: ignore[arg-type]
    put(model, lambda name, parameter: whole(made[name]))
    weight, scaled = model.weight.detach(), model.scaled.detach()
    assert torch.equal(weight[1], torch.zeros(8))
    assert torch.equal(weight[2:].flatten(), torch.arange(16.0))
    assert float(weight[0].abs().min()) > 0
    assert 2.4 < float(scaled.max()) <= 2.5
    assert -1 <= float(scaled.min()) < -0.99


@pytest.mark.parametrize("odd", ["column", "sum", "of itself", "orthogonal", "new"])
def test_what_is_no_step_on_a_range_is_not_taken_for_one(odd: str) -> None:
    before = dict(initialization.TORCH_INIT_FUNCTIONS)
    with pytest.raises(UnknownStepError, match="weight"):
        record(lambda: Stepwise(odd), 0)  # type: ignore[arg-type, return-value]
    assert before == initialization.TORCH_INIT_FUNCTIONS
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("model_type", WHOLE)
def test_other_types_are_made_whole_by_transformers(model_type: str) -> None:
    recipe = recipe_of(model_type)
    with pytest.raises(WholeOnlyError, match=WHOLE[model_type]):
        outline(recipe, vocab_size=VOCABULARY, device=CPU)
    assert WHOLE[model_type] in (why_whole(recipe, vocab_size=VOCABULARY) or "")
    ours, theirs = named(load_model(recipe, vocab_size=VOCABULARY)), named(plainly(model_type))
    assert all(torch.equal(ours[name], parameter) for name, parameter in theirs.items())


def test_the_row_of_a_padding_token_is_zero_as_in_transformers() -> None:
    config = LLAMA | {"vocab_size": 100, "pad_token_id": 7}
    recipe = make_recipe(model={"source": "random", "config": config, "tokenizer": "somewhere"})
    rows = load_model(recipe, vocab_size=100).get_input_embeddings().weight
    assert isinstance(rows, Tensor)
    assert (rows.abs().amax(1) == 0).nonzero().flatten().tolist() == [7]


def test_a_method_that_begins_with_weights_begins_with_these() -> None:
    config = LLAMA | {"vocab_size": VOCABULARY}
    recipe = make_recipe(
        model={"source": "random", "config": config, "tokenizer": "somewhere"}, method={"kind": "dora"}
    )
    found = outline(recipe, vocab_size=VOCABULARY, device=CPU)
    ours = apply_method(found.model, recipe)
    computed = of_weights(ours, recipe)
    unread = Unread(ours, found, found.model, computed)
    theirs = dict(apply_method(load_model(recipe, vocab_size=VOCABULARY), recipe).named_parameters())
    names = {parameter: name for name, parameter in ours.named_parameters()}
    assert computed
    for one in computed:
        assert torch.equal(one.compute(unread.source(one.weight).read), theirs[names[one.parameter]])


@pytest.mark.full
def test_every_causal_type(capsys: pytest.CaptureFixture[str]) -> None:
    """By ranges it has transformers' distributions; or it says why it is made whole."""
    by_ranges, told = [], {}
    for model_type in TYPES:
        try:
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in plainly(model_type).parameters())
            theirs = plainly(model_type) if size < 5_000_000 else None
        except Exception:  # no tiny one can be made: see `make models`
            continue
        if theirs is None:
            continue
        config = type(theirs.config)
        assert issubclass(config, PretrainedConfig)
        try:
            model, made = record(lambda model_type=model_type: plainly(model_type), 0)  # type: ignore[misc]
        except UnknownStepError as error:
            told[model_type] = str(error)
            continue
        put(model, lambda name, parameter, made=made: whole(made[name]))  # type: ignore[misc]
        assert_distributed_alike(model, theirs)
        by_ranges.append(model_type)
    with capsys.disabled():
        print(f"\n{len(by_ranges)} of {len(by_ranges) + len(told)} types by ranges; whole:")
        print("\n".join(f"  {name}: {why}" for name, why in told.items()))
    assert len(by_ranges) > 120
    assert {"llama", "qwen3_5_text", "mamba2", "deepseek_v3", "gpt_oss"} <= {*by_ranges}


def test_the_recipes_seed_decides() -> None:
    one, other = (fresh_model(recipe_of("llama", seed=seed), vocab_size=VOCABULARY)[1] for seed in (1, 2))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(whole(one[name]), whole(other[name]))
    torch.manual_seed(9)
    state = torch.get_rng_state()
    load_model(recipe_of("llama"), vocab_size=VOCABULARY)
    assert torch.equal(state, torch.get_rng_state())
