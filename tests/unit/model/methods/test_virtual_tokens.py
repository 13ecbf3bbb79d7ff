"""Prompt, P- and prefix tuning from attaching to an export: what peft alone computes, on families that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import FACTS
from fakes import GEMMA2, make_recipe, make_tokenizer
from families import COHERE, GPT2, LLAMA, NEOX, TIED, tiny_fields
from objective_rows import row
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.data.feed.collate import collate
from raysft.engine.parameters import undecayed
from raysft.errors import ModelError, RecipeError
from raysft.evaluate.exported import load_exported
from raysft.evaluate.generation import TransformersGenerator
from raysft.evaluate.sampling import Sampling
from raysft.model.adapter_check import check_forward
from raysft.model.export import export_run
from raysft.model.facts import read_facts
from raysft.model.fast.loss import output_head
from raysft.model.fast.start_check import use_fast_paths
from raysft.model.load import load_model
from raysft.model.methods import apply_method, base_model, forward_of
from raysft.model.outline import outline
from raysft.model.rehearsal import rehearse
from raysft.model.shape import read_shape
from raysft.model.trained import load_adapted
from raysft.objectives.batch import on_device
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.checks import check_recipe
from raysft.recipe.columns import REFERENCE_LOG_PROB
from raysft.recipe.compatibility import cell_of, verdict
from raysft.recipe.resolve import resolve
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import METHODS, method_of

METHOD: dict[str, dict[str, Any]] = {
    "prompt": {"kind": "prompt", "virtual_tokens": 4},
    "p_tuning": {"kind": "p_tuning", "virtual_tokens": 3, "hidden_size": 12},
    "prefix": {"kind": "prefix", "virtual_tokens": 4},
    "projected": {"kind": "prefix", "virtual_tokens": 3, "projection": True, "hidden_size": 12},
    "lstm": {"kind": "p_tuning", "virtual_tokens": 3, "encoder": "lstm", "hidden_size": 12, "dropout": 0.4},
}
FAMILIES = {"llama": LLAMA, "gpt2": GPT2, "gemma2": GEMMA2}
CELLS = [("llama", kind) for kind in METHOD] + [
    *(("gpt2", "prompt"), ("gemma2", "p_tuning")),
    *(("gpt2", "prefix"), ("gemma2", "prefix")),
]


def recipe_of(base: Path, method: dict[str, Any], **sections: Any) -> Recipe:
    model = {"source": str(base), "config": None, "tokenizer": None}
    return make_recipe(model=model, method=method, **{"data": {"max_tokens": 32}, **sections})


def save_base(fields: dict[str, Any], directory: Path) -> Path:
    """A model directory made by transformers alone."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(**fields, vocab_size=264, initializer_range=0.3, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory / "base")
    return directory / "base"


@pytest.fixture(params=CELLS, ids=lambda cell: " ".join(cell))
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    family, kind = request.param
    return recipe_of(save_base(FAMILIES[family], tmp_path), METHOD[kind])


def trained(recipe: Recipe) -> nn.Module:
    """As after training: every trained number is another."""
    model = load_model(recipe, vocab_size=264)
    use_fast_paths(model, 264)
    module = apply_method(model, recipe)
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def by_peft(module: nn.Module, ids: list[int]) -> Tensor:
    """[T, V]: plain peft's logits of one sample at its own tokens."""
    base = base_model(module)
    own, base.config._attn_implementation = base.config._attn_implementation, "eager"
    with torch.no_grad():
        found: Tensor = module(input_ids=torch.tensor([ids])).logits[0, -len(ids) :].float()
    base.config._attn_implementation = own
    return found


def test_only_its_encoder_is_trained_and_the_planner_counts_it(recipe: Recipe) -> None:
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert found
    assert all(name.startswith("prompt_encoder.default.") for name in found)
    still = undecayed(module)
    assert {name for name, p in found.items() if p in still} == {name for name in found if "bias" in name}
    shape = read_shape(recipe)
    assert sum(p.numel() for p in found.values()) == method_of(recipe).outer_parameters(recipe.method, shape)


def test_every_token_of_packed_rows_has_the_state_that_it_has_alone(recipe: Recipe) -> None:
    module = trained(recipe)
    generator = torch.Generator().manual_seed(1)
    rows = [[5, 2, 9], [16], [1, 1, 14]]
    samples = [[torch.randint(0, 264, (n,), generator=generator).tolist() for n in packed] for packed in rows]
    input_ids = torch.tensor([[token for sample in packed for token in sample] for packed in samples])
    position_ids = torch.tensor([[place for n in packed for place in range(n)] for packed in rows])
    with torch.no_grad():
        hidden = forward_of(module, recipe).hidden_states(input_ids, position_ids)
        head = output_head(base_model(module))
        logits = head.shape.apply_(head.module(hidden).float())
    for packed, found in zip(samples, logits, strict=True):
        expected = torch.cat([by_peft(module, sample) for sample in packed])
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_an_export_computes_and_answers_what_was_trained(recipe: Recipe, tmp_path: Path) -> None:
    """The adapter alone, in plain peft; prompts of several lengths in one batch answer as each does there."""
    module, tokenizer = trained(recipe), make_tokenizer()
    weights = [(name, p.detach().clone()) for name, p in module.named_parameters() if p.requires_grad]
    (adapter,) = export_run(recipe, iter(weights), tokenizer, out=str(tmp_path / "e"), card=FACTS)
    plain = AutoModelForCausalLM.from_pretrained(recipe.model.source, dtype=torch.float32)
    loaded: Any = PeftModel.from_pretrained(plain, adapter).eval()
    ids = list(range(40, 52))
    torch.testing.assert_close(by_peft(loaded, ids), by_peft(module, ids), atol=1e-5, rtol=1e-5)
    assert method_of(recipe).title in Path(adapter, "README.md").read_text()

    prompts, expected = ["a", "a longer prompt", "xyz", "prompt five"], []
    for prompt in prompts:
        given = torch.tensor([tokenizer(prompt)["input_ids"]])
        settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        answer = loaded.generate(input_ids=given, attention_mask=torch.ones_like(given), **settings)
        expected.append(tokenizer.decode(answer[0, given.shape[1] :], skip_special_tokens=True))
    assert len(set(expected)) > 1
    adapted = load_adapted(recipe, dict(weights), vocab_size=264)
    base, forward = base_model(adapted), forward_of(adapted, recipe)
    base.set_attn_implementation("eager")
    torch.testing.assert_close(by_peft(adapted, ids), by_peft(module, ids), atol=1e-5, rtol=1e-5)
    for batch_size in (1, 4):
        answering = TransformersGenerator(base, tokenizer, stops=[], batch_size=batch_size, forward=forward)
        assert answering.generate(prompts, Sampling(8)) == expected
    with pytest.raises(ModelError) as caught:
        load_exported(str(tmp_path / "e"))
    assert "virtual tokens" in caught.value.got


def test_a_rehearsal_says_what_is_exported_and_asks_peft(tmp_path: Path) -> None:
    base = save_base(LLAMA, tmp_path)
    for kind in ("lstm", "prefix"):
        lines = rehearse(recipe_of(base, METHOD[kind]), make_tokenizer())
        assert any(f"{METHOD[kind]['virtual_tokens']} virtual tokens before each" in line for line in lines)
        assert any(line.startswith("export") and "the adapter alone" in line for line in lines)
    assert not any(
        line.startswith("export") for line in rehearse(recipe_of(base, {"kind": "lora"}), make_tokenizer())
    )


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize("fields", [NEOX, TIED, COHERE], ids=lambda fields: str(fields["model_type"]))
def test_other_families_pass_the_rehearsal(fields: dict[str, Any], kind: str, tmp_path: Path) -> None:
    rehearse(recipe_of(save_base(fields, tmp_path), METHOD[kind]), make_tokenizer())


def test_a_prefix_and_gradient_checkpointing_exclude_each_other() -> None:
    """transformers takes the cache, which the prefix comes in, away from layers that it checkpoints."""
    with pytest.raises(RecipeError, match="prefix tuning needs"):
        check_recipe(make_recipe(method=METHOD["prefix"], train={"gradient_checkpointing": True}))
    check_recipe(make_recipe(method=METHOD["prompt"], train={"gradient_checkpointing": True}))


def test_a_model_that_computes_another_thing_from_embeddings_is_refused(tmp_path: Path) -> None:
    """OPT's embedding is narrower than its layers: peft's virtual tokens do not fit beside it."""
    fields = {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48} | {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    recipe = make_recipe(
        model={"source": "random", "config": fields, "tokenizer": "t"},
        method={"kind": "p_tuning"},
        data={"max_tokens": 32},
    )
    with pytest.raises(ModelError, match="is not what peft computes"):
        rehearse(recipe, make_tokenizer())


def test_a_worker_asks_the_whole_model(tmp_path: Path) -> None:
    """transformers gives packed samples of GPT-OSS no mask: they see each other, as alone in peft they cannot."""
    fields = tiny_fields("gpt_oss", 264)
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).save_pretrained(tmp_path / "base")
    alone = recipe_of(tmp_path / "base", METHOD["prompt"], data={"max_tokens": 32, "packing": False})
    module = apply_method(load_model(alone, vocab_size=264), alone)
    check_forward(module, alone, 264)
    with pytest.raises(ModelError, match="is not what peft computes"):
        check_forward(module, recipe_of(tmp_path / "base", METHOD["prompt"]), 264)


def test_random_embeddings_begin_in_outline_as_in_the_whole_model(tmp_path: Path) -> None:
    base, cpu = save_base(LLAMA, tmp_path), torch.device("cpu")
    begun = recipe_of(base, {**METHOD["prompt"], "init": "random"})
    whole = apply_method(load_model(begun, vocab_size=264), begun)
    by_shares = apply_method(outline(begun, vocab_size=264, device=cpu).model, begun)
    key = "prompt_encoder.default.embedding.weight"
    assert torch.equal(whole.get_parameter(key), by_shares.get_parameter(key))


def test_virtual_tokens_take_positions(tmp_path: Path) -> None:
    base = save_base(LLAMA, tmp_path)
    most = AutoConfig.from_pretrained(base).max_position_embeddings
    fits = recipe_of(base, METHOD["prompt"], data={"max_tokens": most - 4})
    resolve(fits, read_facts(fits), None)
    over = recipe_of(base, METHOD["prompt"], data={"max_tokens": most - 3})
    with pytest.raises(RecipeError) as caught:
        resolve(over, read_facts(over), None)
    assert f"data.max_tokens to {most - 4}" in caught.value.fix


@pytest.mark.parametrize("axis", ["pipeline", "tensor", "sequence", "shared_base"])
@pytest.mark.parametrize("kind", ["prompt", "p_tuning", "prefix"])
def test_what_it_does_not_go_with_is_refused(kind: str, axis: str) -> None:
    assert axis not in METHODS[kind].allows
    if axis != "shared_base":
        cut = make_recipe(method={"kind": kind}, parallel={axis: 2, "zero": 1}, cluster={"workers": 2})
        assert verdict(cell_of(cut)).status == "refused"


def test_an_empty_micro_batch_adds_nothing(tmp_path: Path) -> None:
    recipe = recipe_of(save_base(LLAMA, tmp_path), METHOD["prompt"])
    module, objective = trained(recipe), make_objective(recipe)
    whole = ObjectiveModule(module, objective, forward=forward_of(module, recipe))
    batch = on_device(collate([], 0, packing=True), torch.device("cpu"))
    loss = whole(*batch.flat(objective.columns)).sums["nll"]
    loss.backward()
    assert loss.item() == 0
    gradient = module.get_parameter("prompt_encoder.default.embedding.weight").grad
    assert gradient is not None
    assert not gradient.any()


def test_preferences_compare_with_the_model_without_virtual_tokens(tmp_path: Path) -> None:
    """DPO on packed pairs against its formula on peft's log-probabilities of each answer alone."""
    lengths, fields = [5, 3, 4, 6], (REFERENCE_LOG_PROB,)
    recipe = recipe_of(save_base(LLAMA, tmp_path), METHOD["prompt"], objective={"kind": "dpo", "beta": 0.5})
    module, objective = trained(recipe), make_objective(recipe)
    host = collate([row(lengths, fields, 1)], 0, packing=True, fields=fields)
    whole = ObjectiveModule(module, objective, forward=forward_of(module, recipe))
    found = whole(*on_device(host, torch.device("cpu")).flat(objective.columns)).sums["dpo"].item()
    gains, start = [], 0
    for length, reference in zip(lengths, host.fields["reference_log_prob"].tolist(), strict=True):
        log_probs = by_peft(module, host.input_ids[0, start : start + length].tolist()).log_softmax(-1).numpy()
        labels = host.labels[0, start : start + length]
        gains.append(sum(log_probs[place, label] for place, label in enumerate(labels) if label >= 0) - reference)
        start += length
    margins = 0.5 * (np.array(gains[0::2]) - np.array(gains[1::2]))
    assert found == pytest.approx(float(np.log1p(np.exp(-margins)).sum()), rel=1e-4)
