"""Every kind of adapter equals peft alone in a bare loop, over every split that its traits allow; bottlenecks, which
peft has not, equal hooks written out here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import LORA, Bench, Curve, cells, follows, furthest, resumes
from material import CONFIG, make_samples
from peft import (
    AdaLoraConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    MissConfig,
    OFTConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from peft.optimizers import create_loraplus_optimizer
from reference import fresh_model, mean_loss, tokens_and_targets
from torch import nn

from raysft.recipe.traits import METHODS

UNTIL = 8
NETWORK = {"method__projection": True, "method__hidden_size": 24}
LSTM = {"method__encoder": "lstm", "method__dropout": 0.3}
DECAY, LEARNING_RATE = 0.1, 3e-3

TARGETS = {"method__target_modules": ["q_proj", "v_proj"]}


class Behind(nn.Module):
    """Houlsby's adapter: y + W2 gelu(W1 y + b1) + b2 behind a layer of a plain model, W2 and b2 zero at first."""

    def __init__(self, layer: nn.Linear, size: int) -> None:
        super().__init__()
        self.layer = layer
        self.first, self.second = nn.Linear(layer.out_features, size), nn.Linear(size, layer.out_features)
        self.second.weight.data.zero_()
        self.second.bias.data.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y + self.second(nn.functional.gelu(self.first(y)))


def with_bottlenecks(model: Any) -> Any:
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.o_proj = Behind(layer.self_attn.o_proj, 4)
        layer.mlp.down_proj = Behind(layer.mlp.down_proj, 4)
    return model


ADAPTERS: dict[str, tuple[dict[str, Any], Callable[[], PeftConfig] | None, float]] = {
    "lora": (LORA, lambda: LoraConfig(r=4, lora_alpha=8.0, target_modules=["q_proj", "v_proj"]), DECAY),
    "dora": (
        {**LORA, "method__kind": "dora", "method__rslora": True},
        lambda: LoraConfig(r=4, lora_alpha=8.0, target_modules=["q_proj", "v_proj"], use_dora=True, use_rslora=True),
        DECAY,
    ),
    "ia3": (
        {"method__kind": "ia3"},
        lambda: IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        0.0,
    ),
    "adalora": (
        {
            "method__kind": "adalora",
            "method__rank": 4,
            "method__target_rank": 2,
            "method__alpha": 8.0,
            "method__target_modules": ["q_proj", "v_proj"],
            "method__warmup_share": 0.2,
            "method__final_share": 0.25,
            "method__every_steps": 2,
            "train__max_steps": UNTIL,
        },
        lambda: AdaLoraConfig(
            **{"init_r": 4, "target_r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
            **{"tinit": 1, "tfinal": 2, "deltaT": 2, "total_step": UNTIL},
        ),
        DECAY,
    ),
    "tuner": (
        {"method__kind": "tuner", "method__tuner": "miss", "method__options": {"r": 4}, **TARGETS},
        lambda: MissConfig(r=4, target_modules=["q_proj", "v_proj"]),
        DECAY,
    ),
    "prompt": (
        {"method__kind": "prompt", "method__virtual_tokens": 6},
        lambda: PromptTuningConfig(num_virtual_tokens=6, prompt_tuning_init="SAMPLE_VOCAB", task_type="CAUSAL_LM"),
        DECAY,
    ),
    "p_tuning": (
        {"method__kind": "p_tuning", "method__virtual_tokens": 5, "method__hidden_size": 24},
        lambda: PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=24, task_type="CAUSAL_LM"),
        DECAY,
    ),
    "prefix": (
        {"method__kind": "prefix", "method__virtual_tokens": 5},
        lambda: PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
        DECAY,
    ),
    "bottleneck": (
        {"method__kind": "bottleneck", "method__placement": "houlsby", "method__bottleneck_size": 4}
        | {"method__activation": "gelu"},
        None,
        DECAY,
    ),
}
"""{kind: (fields of a recipe, peft's own config if it has one, weight decay of its parameters)}."""

TUNERS: dict[str, tuple[dict[str, float], Callable[[], PeftConfig]]] = {
    "fourierft": (
        {"n_frequency": 50, "scaling": 20.0},
        lambda: FourierFTConfig(n_frequency=50, scaling=20.0, init_weights=True, random_loc_seed=0),
    ),
    "hra": ({"r": 4}, lambda: HRAConfig(r=4)),
    "loha": ({"r": 4, "alpha": 8}, lambda: LoHaConfig(r=4, alpha=8)),
    "miss": ({"r": 4}, lambda: MissConfig(r=4)),
    "oft": ({"oft_block_size": 4}, lambda: OFTConfig(r=0, oft_block_size=4)),
    "vera": ({"r": 8}, lambda: VeraConfig(r=8, projection_prng_key=0)),
}

BEGINNINGS = ("pissa", "olora", "eva")

SPLITS: dict[str, tuple[int, dict[str, Any]]] = {
    "ZeRO 0": (1, {}),
    "ZeRO 1, micro-batch 4": (2, {"parallel__zero": 1, "train__micro_batch_rows": 4}),
    "ZeRO 2": (2, {"parallel__zero": 2}),
    "ZeRO 3, micro-batch 2": (2, {"parallel__zero": 3, "train__micro_batch_rows": 2}),
    "ZeRO 2, in host memory": (2, {"parallel__zero": 2, "parallel__offload": "cpu"}),
    "ZeRO 3, in host memory": (2, {"parallel__zero": 3, "parallel__offload": "cpu"}),
    "pipeline": (2, {"parallel__pipeline": 2, "parallel__zero": 1}),
    "sequence": (2, {"parallel__sequence": 2, "parallel__zero": 2}),
    "tensor": (2, {"parallel__tensor": 2, "parallel__zero": 1}),
    "unpacked": (1, {"data__packing": False}),
}


def test_every_adapter_is_here() -> None:
    assert ADAPTERS.keys() == {name for name, traits in METHODS.items() if not traits.trains_base}


@pytest.fixture(scope="module")
def alone(bench: Bench) -> dict[str, Curve]:
    """(losses, norms) by peft alone, on the samples of each step."""
    return {kind: by_peft(bench, kind) for kind in ADAPTERS}


def by_peft(bench: Bench, kind: str) -> tuple[list[float], list[float]]:
    _, config, decay = ADAPTERS[kind]
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    torch.manual_seed(0)
    return bare_loop(bench, get_peft_model(model, config()) if config else with_bottlenecks(model), decay, kind)


def bare_loop(
    bench: Bench, adapted: Any, decay: float, kind: str, optimizer: torch.optim.Optimizer | None = None
) -> tuple[list[float], list[float]]:
    samples = [tokens_and_targets(bench.tokenizer, q, a) for q, a in make_samples()]
    trained = [p for p in adapted.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},  # DoRA's magnitudes
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = optimizer or torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for members in bench.base["samples"][:UNTIL]:
        loss = mean_loss(adapted, samples, members)
        optimizer.zero_grad()
        (loss + (orthogonality(adapted) if kind == "adalora" else 0.0)).backward()
        gradients = [p.grad.clone() for p in trained]
        norms.append(float(nn.utils.clip_grad_norm_(trained, 1.0)))
        optimizer.step()
        if kind == "adalora":
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad.copy_(gradient)  # as before the clip
            adapted.base_model.update_and_allocate(len(losses))
        losses.append(loss.item())
    return losses, norms


def orthogonality(adapted: nn.Module) -> torch.Tensor:
    """AdaLoRA's penalty as peft's forward adds it to a loss: half the mean of |A A' - 1| and |B' B - 1|."""
    excess = [
        (p @ p.T if "lora_A" in name else p.T @ p) - torch.eye(4)
        for name, p in adapted.named_parameters()
        if "lora_A" in name or "lora_B" in name
    ]
    return 0.5 * torch.stack([torch.linalg.matrix_norm(one) for one in excess]).mean()


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("split", cells(*SPLITS, often=("ZeRO 0", "ZeRO 3, micro-batch 2", "pipeline")))
def test_an_adapter_equals_peft_alone(bench: Bench, alone: dict[str, Curve], kind: str, split: str) -> None:
    workers, changes = SPLITS[split]
    if split in ("pipeline", "tensor", "sequence") and split not in METHODS[kind].allows:
        pytest.skip("the matrix refuses it")
    found = bench.cell(workers, until=UNTIL, **ADAPTERS[kind][0], **changes)[0]
    follows(found, alone[kind])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        pytest.param("ia3", {"parallel__zero": 2}, marks=pytest.mark.full),
        pytest.param("prefix", {"parallel__zero": 2, "train__precision": "bf16", **NETWORK}, marks=pytest.mark.full),
        ("p_tuning", {"parallel__zero": 2, "train__precision": "bf16", **LSTM}),
        pytest.param("bottleneck", {"parallel__zero": 1, "train__precision": "bf16"}, marks=pytest.mark.full),
        pytest.param("bottleneck", {"parallel__pipeline": 2, "parallel__zero": 1}, marks=pytest.mark.full),
        pytest.param("bottleneck", {"parallel__tensor": 2, "parallel__zero": 1}, marks=pytest.mark.full),
        pytest.param("adalora", {"parallel__zero": 1, "train__precision": "bf16"}, marks=pytest.mark.full),
        pytest.param("adalora", {"parallel__zero": 2, "train__precision": "bf16"}, marks=pytest.mark.full),
        pytest.param("adalora", {"parallel__zero": 2, "parallel__offload": "cpu"}, marks=pytest.mark.full),
        pytest.param("adalora", {"parallel__zero": 3, "parallel__offload": "cpu"}, marks=pytest.mark.full),
    ],
)
def test_adapters_resume_bit_identically(bench: Bench, tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    """Where ZeRO 0 and 3 in fp32 (test_method_matrix.py) are not all."""
    cell = {**ADAPTERS[kind][0], "train__micro_batch_rows": 2, **changes}
    whole = bench.cell(2, until=UNTIL, **cell)[0]
    resumes(bench, tmp_path, whole, (2, 3, UNTIL), cell)


@pytest.fixture(scope="module")
def begun_alone(bench: Bench) -> dict[str, Curve]:
    """(losses, norms) of LoRA that peft alone begins: it puts the rest of a weight into the layer."""
    found = {}
    for init in BEGINNINGS:
        model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
        rows = largest_inputs(bench, model) if init == "eva" else {}
        config = LoraConfig(
            r=4, lora_alpha=8.0, target_modules=["q_proj", "v_proj"], init_lora_weights=init if not rows else True
        )
        adapted = get_peft_model(model, config)
        for name, directions in rows.items():
            adapted.get_submodule(f"base_model.model.{name}").lora_A["default"].weight.data = directions
        found[init] = bare_loop(bench, adapted, DECAY, "lora")
    return found


def largest_inputs(bench: Bench, model: Any) -> dict[str, torch.Tensor]:
    """{layer: first right singular vectors of all that it is given, sample by sample}."""
    given: dict[str, list[torch.Tensor]] = {}
    names = [name for name, _ in model.named_modules() if name.endswith(("q_proj", "v_proj"))]
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, x, name=name: given.setdefault(name, []).append(x[0][0])
        )
        for name in names
    ]
    with torch.no_grad():
        for question, answer in make_samples():
            ids, _ = tokens_and_targets(bench.tokenizer, question, answer)
            model(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return {name: torch.linalg.svd(torch.cat(rows).double())[2][:4].float() for name, rows in given.items()}


@pytest.mark.parametrize("init", BEGINNINGS)
@pytest.mark.parametrize("split", cells(*SPLITS, often=("ZeRO 3, micro-batch 2", "tensor")))
def test_a_computed_beginning_equals_pefts(
    bench: Bench, begun_alone: dict[str, Curve], init: str, split: str
) -> None:
    workers, changes = SPLITS[split]
    found = bench.cell(workers, until=UNTIL, **LORA, method__init=init, **changes)[0]
    follows(found, begun_alone[init])


@pytest.mark.parametrize(
    ("init", "changes"),
    [
        ("pissa", {"parallel__zero": 3}),
        ("pissa", {"parallel__pipeline": 2, "parallel__zero": 1}),
        pytest.param("pissa", {"parallel__tensor": 2, "parallel__zero": 1}, marks=pytest.mark.full),
        pytest.param("olora", {"parallel__zero": 2, "train__precision": "bf16"}, marks=pytest.mark.full),
        pytest.param("eva", {"parallel__zero": 3, "train__precision": "bf16"}, marks=pytest.mark.full),
    ],
)
def test_computed_beginnings_resume_bit_identically(
    bench: Bench, tmp_path: Path, init: str, changes: dict[str, Any]
) -> None:
    """What is taken away from the base comes from the commit: with another seed of it nothing would fit."""
    cell = {**LORA, "method__init": init, "train__micro_batch_rows": 2, **changes}
    whole = bench.cell(2, until=4, **cell)[0]
    resumes(bench, tmp_path, whole, (2, 2, 4), cell)


@pytest.mark.parametrize(
    ("tuner", "split"),
    cells(
        *((tuner, split) for tuner in TUNERS for split in ("ZeRO 0", "ZeRO 3, micro-batch 2")),
        often=(("hra", "ZeRO 3, micro-batch 2"), ("vera", "ZeRO 3, micro-batch 2")),
    ),
)
def test_further_adapters_equal_peft_alone(bench: Bench, tuner: str, split: str) -> None:
    options, config = TUNERS[tuner]
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    torch.manual_seed(0)
    theirs = config()
    theirs.target_modules = {"q_proj", "v_proj"}
    losses, norms = bare_loop(bench, get_peft_model(model, theirs), DECAY, tuner)
    workers, changes = SPLITS[split]
    named = {"method__kind": "tuner", "method__tuner": tuner, "method__options": options, **TARGETS}
    follows(bench.cell(workers, until=UNTIL, **named, **changes)[0], (losses, norms))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("split", ["ZeRO 0", "ZeRO 1, micro-batch 4", "ZeRO 2"])
def test_a_base_in_four_bits_equals_peft_on_its_numbers_and_resumes(bench: Bench, tmp_path: Path, split: str) -> None:
    functional = importlib.import_module("bitsandbytes.functional")
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    for layer in (m for m in model.model.modules() if isinstance(m, nn.Linear)):
        packed, state = functional.quantize_4bit(layer.weight.data, compress_statistics=True, quant_type="nf4")
        layer.weight.data = functional.dequantize_4bit(packed, state)
    torch.manual_seed(0)
    _, config, decay = ADAPTERS["lora"]
    losses, norms = bare_loop(bench, get_peft_model(model, config()), decay, "lora")
    workers, changes = SPLITS[split]
    cell = {**LORA, "method__base_precision": "nf4", **changes}
    found = bench.cell(workers, until=UNTIL, **cell)[0]
    follows(found, (losses, norms))
    resumes(bench, tmp_path, found, (workers, 3, UNTIL), cell)


@pytest.mark.parametrize(
    "split", cells("ZeRO 0", "ZeRO 2", "ZeRO 3, micro-batch 2", "pipeline", often=("ZeRO 3, micro-batch 2",))
)
def test_lora_plus_equals_pefts_own_optimizer(bench: Bench, split: str) -> None:
    fields, config, decay = ADAPTERS["lora"]
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    torch.manual_seed(0)
    adapted = get_peft_model(model, config())
    plus = create_loraplus_optimizer(
        *(adapted, torch.optim.AdamW),
        **{"lr": LEARNING_RATE, "loraplus_lr_ratio": 4.0, "loraplus_weight_decay": decay, "betas": (0.9, 0.95)},
    )
    losses, norms = bare_loop(bench, adapted, decay, "lora", plus)
    workers, changes = SPLITS[split]
    found = bench.cell(workers, until=UNTIL, **fields, method__b_learning_rate_ratio=4.0, **changes)[0]
    follows(found, (losses, norms))


@pytest.mark.parametrize("zero", cells(1, 3, often=(3,)))
def test_noise_on_embeddings_resumes_bit_identically(bench: Bench, tmp_path: Path, zero: int) -> None:
    cell = {"train__embedding_noise": 5.0, "parallel__zero": zero, "train__micro_batch_rows": 2}
    whole = bench.cell(2, until=4, **cell)[0]
    resumes(bench, tmp_path, whole, (2, 2, 4), cell)
    assert furthest(whole["losses"], bench.base["losses"][:4]) > 1e-4


FREEZE = {"method__kind": "freeze", "method__layers": 1, "method__parameters": ["model.norm.*"]}


@pytest.mark.parametrize(
    "split",
    cells("ZeRO 0", "ZeRO 2", "ZeRO 3, micro-batch 2", "sequence", "tensor", often=("ZeRO 3, micro-batch 2",)),
)
def test_freezing_equals_a_bare_loop(bench: Bench, split: str) -> None:
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith((f"model.layers.{CONFIG['num_hidden_layers'] - 1}.", "model.norm.")))
    losses, norms = bare_loop(bench, model, DECAY, "freeze")
    workers, changes = SPLITS[split]
    follows(bench.cell(workers, until=UNTIL, **FREEZE, **changes)[0], (losses, norms))


@pytest.mark.full
@pytest.mark.parametrize("split", ["ZeRO 0", "ZeRO 1, micro-batch 4", "ZeRO 2", "ZeRO 3, micro-batch 2", "sequence"])
def test_layers_join_one_by_one(bench: Bench, tmp_path: Path, split: str) -> None:
    """Every two steps; what has not joined keeps its weights to the bit."""
    count = CONFIG["num_hidden_layers"]
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    steps = {f"model.layers.{i}.": 2 * (count - 1 - i) for i in range(count)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(steps)))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    joined = {name: next(step for start, step in steps.items() if name.startswith(start)) for name in trained}
    for name, parameter in trained.items():
        parameter.register_hook(lambda gradient, name=name: gradient * (len(done) >= joined[name]))
    done: list[int] = []
    optimizer = torch.optim.AdamW(trained.values(), lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    optimizer.register_step_post_hook(lambda *_: done.append(1))
    losses, norms = bare_loop(bench, model, 0.0, "freeze", optimizer)
    workers, changes = SPLITS[split]
    cell = {"method__kind": "freeze", "method__layers": count, "method__unfreeze_every_steps": 2}
    cell |= {"optimizer__weight_decay": 0.0, **changes}
    found = bench.cell(workers, until=UNTIL, **cell)[0]
    follows(found, (losses, norms))
    at_once = {name: value for name, value in cell.items() if name != "method__unfreeze_every_steps"}
    assert furthest(bench.cell(workers, until=UNTIL, **at_once)[0]["norms"], norms) > 1e-3
    resumes(bench, tmp_path, found, (workers, 3, UNTIL), cell)


@pytest.mark.full
def test_sizes_that_the_ranks_do_not_divide_resume_too(bench: Bench, tmp_path: Path) -> None:
    """ZeRO 3 on three ranks: the last partition of a scale reaches past its end."""
    cell = {**ADAPTERS["ia3"][0], "parallel__zero": 3, "train__rows_per_step": 9}
    whole = bench.cell(3, until=4, **cell)[0]
    resumes(bench, tmp_path, whole, (3, 2, 4), cell)


@pytest.mark.full
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_adalora_in_bf16(bench: Bench, alone: dict[str, Curve], zero: int) -> None:
    """Follows fp32: every optimizer of DeepSpeed keeps gradients elsewhere, and the penalty must reach each."""
    cell = {**ADAPTERS["adalora"][0], "parallel__zero": zero, "train__precision": "bf16"}
    found = bench.cell(2, until=UNTIL, **cell)[0]
    losses, norms = alone["adalora"]
    assert furthest(found["losses"], losses) < 1e-2
    assert furthest(found["norms"], norms) < 3e-2
