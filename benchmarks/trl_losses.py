"""`make compare-trl`: losses and gradients of TRL 1.16 and of raysft, on the batches that TRL's own trainers make.

    python benchmarks/trl_losses.py --peers FOLDER

For each loss that both have, TRL's trainer is built on a small Llama, tokenizes and pads a batch of unlike lengths,
and computes its loss; the same tokens, packed into one row, go through raysft's objective, with what the reference
model says as columns. Both losses, and both gradients of all parameters, must be one to 1e-5. Where they are not, the
last column says why, and which the paper has: such a loss must differ. FOLDER: what `pip install --no-deps --target`
made of trl, datasets, accelerate and what these need (see the Makefile); nothing of it is installed for raysft.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from raysft.data.feed.collate import collate
from raysft.data.store.packed_rows import Row
from raysft.engine.step import step_numbers
from raysft.model.fast.loss_head import install_loss_head
from raysft.objectives.batch import on_device
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.objectives.reduce import Sums
from raysft.recipe.load import parse_recipe

TOLERANCE = 1e-5
BETA, SMOOTHING, WEIGHT, GAMMA = 0.4, 0.15, 0.3, 0.7
VOCABULARY = 40
WITH_BETA = ("dpo", "cpo", "simpo", "orpo", "kto")

Sample = tuple[list[int], list[bool]]
"""(token ids, which of them are trained)."""


@dataclass(frozen=True)
class Told:
    """What a trainer of TRL made of a batch."""

    loss: Tensor
    samples: list[Sample]
    """As its collator gave them, without padding: for pairs preferred and rejected in turn; for KTO an answer and its
    mismatched one in turn."""
    wanted: list[bool]
    """KTO's labels of the answers; empty: there are none."""


@dataclass(frozen=True)
class Case:
    """One loss."""

    objective: dict[str, Any]
    """raysft's section; one with a divergence is distillation."""
    told: Callable[[nn.Module, nn.Module, Any, str], Told]
    """(model, reference model, tokenizer, folder) -> TRL's."""
    different: str = ""
    """Why the two are not one, and which of them the paper has; empty: they must be."""


def tokenizer() -> PreTrainedTokenizerFast:
    """A character is a token."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [" ", "?", "."]
    named = {"<eos>": 0, "<pad>": 1} | {letter: number + 2 for number, letter in enumerate(letters)}
    made = Tokenizer(models.BPE(named, [], unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<pad>")


def model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, pad_token_id=1, eos_token_id=0, bos_token_id=None, **sizes)
    return LlamaForCausalLM(config)


def texts(count: int) -> list[dict[str, str]]:
    """Prompts with answers of unlike lengths."""
    draw = random.Random(0)
    words = lambda most: "".join(draw.choice("abcdefgh ") for _ in range(draw.randint(2, most))) + "."  # noqa: E731
    return [{"prompt": words(9) + "?", "chosen": words(14), "rejected": words(20)} for _ in range(count)]


def arguments(config: Any, folder: str, **more: Any) -> Any:
    """A trainer's, with all that is random or rounded off."""
    quiet = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    return config(output_dir=folder, per_device_train_batch_size=6, learning_rate=1e-3, **quiet, **more)


def batch_of(trainer: Any) -> dict[str, Any]:
    trainer.model.eval()
    return dict(next(iter(trainer.get_train_dataloader())))


def unpadded(ids: Tensor, mask: Tensor, trained: Tensor) -> list[Sample]:
    """Rows [B, T] without their padding, on whichever side that is."""
    return [
        (row[here.bool()].tolist(), chosen[here.bool()].bool().tolist())
        for row, here, chosen in zip(ids, mask, trained, strict=True)
    ]


def by_sft(**more: Any) -> Callable[..., Told]:
    def tell(policy: nn.Module, reference: nn.Module, encoder: Any, folder: str) -> Told:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        records = [{"prompt": one["prompt"], "completion": one["chosen"]} for one in texts(6)]
        told = arguments(SFTConfig, folder, completion_only_loss=True, **more)
        trainer = SFTTrainer(policy, told, train_dataset=Dataset.from_list(records), processing_class=encoder)
        batch = batch_of(trainer)
        samples = unpadded(batch["input_ids"], batch["attention_mask"], batch["labels"] != -100)
        count = sum(sum(trained) for _, trained in samples)
        return Told(trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(count)), samples, [])

    return tell


def by_dpo(**more: Any) -> Callable[..., Told]:
    def tell(policy: nn.Module, reference: nn.Module, encoder: Any, folder: str) -> Told:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        told = arguments(DPOConfig, folder, beta=BETA, **more)
        data = Dataset.from_list(texts(6))
        trainer = DPOTrainer(policy, reference, told, train_dataset=data, processing_class=encoder)
        batch = batch_of(trainer)
        samples = unpadded(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
        half = len(samples) // 2
        pairs = [one for pair in zip(samples[:half], samples[half:], strict=True) for one in pair]
        return Told(trainer.compute_loss(trainer.model, batch), pairs, [])

    return tell


def by_pairs(kind: str, **more: Any) -> Callable[..., Told]:
    def tell(policy: nn.Module, reference: nn.Module, encoder: Any, folder: str) -> Told:
        from datasets import Dataset
        from trl.experimental.cpo import CPOConfig, CPOTrainer
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        config, made = {"cpo": (CPOConfig, CPOTrainer), "orpo": (ORPOConfig, ORPOTrainer)}[kind]
        told = arguments(config, folder, **{"beta": BETA, "max_length": 64} | more)
        trainer = made(policy, told, train_dataset=Dataset.from_list(texts(6)), processing_class=encoder)
        batch = batch_of(trainer)
        halves = [
            unpadded(batch[f"{name}_input_ids"], batch[f"{name}_attention_mask"], batch[f"{name}_labels"] != -100)
            for name in ("chosen", "rejected")
        ]
        pairs = [one for pair in zip(*halves, strict=True) for one in pair]
        return Told(trainer.compute_loss(trainer.model, batch), pairs, [])

    return tell


def by_odds() -> Callable[..., Told]:
    """ORPO's second term: what is left where the weight of it is taken away."""

    def tell(policy: nn.Module, reference: nn.Module, encoder: Any, folder: str) -> Told:
        both, first = (by_pairs("orpo", beta=beta)(policy, reference, encoder, folder) for beta in (BETA, 0.0))
        return Told(both.loss - first.loss, both.samples, [])

    return tell


def by_kto(**more: Any) -> Callable[..., Told]:
    def tell(policy: nn.Module, reference: nn.Module, encoder: Any, folder: str) -> Told:
        from datasets import Dataset
        from trl import KTOConfig, KTOTrainer

        records = [
            {"prompt": one["prompt"], "completion": one["chosen"], "label": i % 3 != 0}
            for i, one in enumerate(texts(6))
        ]
        told = arguments(KTOConfig, folder, beta=BETA, **more)
        data = Dataset.from_list(records)
        trainer = KTOTrainer(policy, reference, told, train_dataset=data, processing_class=encoder)
        batch = batch_of(trainer)
        own = unpadded(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
        others = unpadded(batch["KL_input_ids"], batch["KL_attention_mask"], batch["KL_completion_mask"])
        turns = [one for pair in zip(own, others, strict=True) for one in pair]
        return Told(trainer.compute_loss(trainer.model, batch), turns, [bool(label) for label in batch["label"]])

    return tell


def by_gkd(beta: float) -> Callable[..., Told]:
    """TRL's divergence alone: its trainer writes the answers itself."""

    def tell(policy: nn.Module, reference: nn.Module, encoder: Any, folder: str) -> Told:
        from trl.experimental.gkd import GKDTrainer

        ids = [encoder(one["prompt"] + one["chosen"])["input_ids"] for one in texts(6)]
        samples = [(row, [i >= len(row) // 2 for i in range(len(row))]) for row in ids]
        students, teachers = (
            torch.cat(
                [net(torch.tensor([row])).logits[0, :-1][torch.tensor(trained[1:])] for row, trained in samples]
            )
            for net in (policy, reference)
        )
        loss = GKDTrainer.generalized_jsd_loss(students, teachers.detach(), beta=beta, reduction="sum") / len(
            students
        )
        return Told(loss, samples, [])

    return tell


PROMPT = (
    "TRL's cross-entropy counts the prompt's tokens; the paper's P(y|x) (arXiv:2403.07691, equations 2 and 6) and "
    "raysft's does not"
)
CASES: dict[str, Case] = {
    "sft": Case({"kind": "sft"}, by_sft()),
    "sft, smoothed": Case({"kind": "sft", "label_smoothing": SMOOTHING}, by_sft(label_smoothing_factor=SMOOTHING)),
    "dft": Case({"kind": "dft"}, by_sft(loss_type="dft")),
    "distill, forward": Case({"divergence": "forward"}, by_gkd(0)),
    "distill, reverse": Case({"divergence": "reverse"}, by_gkd(1)),
    "distill, js": Case({"divergence": "js"}, by_gkd(0.5)),
    "dpo": Case({"kind": "dpo"}, by_dpo(loss_type="sigmoid")),
    "dpo + sft": Case(
        {"kind": "dpo", "sft_weight": WEIGHT}, by_dpo(loss_type=["sigmoid", "sft"], loss_weights=[1.0, WEIGHT])
    ),
    "dpo, hinge": Case({"kind": "dpo", "loss": "hinge"}, by_dpo(loss_type="hinge")),
    "dpo, ipo": Case({"kind": "dpo", "loss": "ipo"}, by_dpo(loss_type="ipo")),
    "dpo, robust": Case(
        {"kind": "dpo", "loss": "robust", "label_smoothing": SMOOTHING},
        by_dpo(loss_type="robust", label_smoothing=SMOOTHING),
    ),
    "dpo, smoothed": Case(
        {"kind": "dpo", "label_smoothing": SMOOTHING},
        by_dpo(loss_type="sigmoid", label_smoothing=SMOOTHING),
        "TRL 1.16 takes label_smoothing with sigmoid and does not look at it; raysft smooths as the authors do "
        "(conservative DPO, https://ericmitchell.ai/cdpo.pdf)",
    ),
    "cpo": Case({"kind": "cpo"}, by_pairs("cpo", loss_type="sigmoid", cpo_alpha=1.0)),
    "cpo, smoothed": Case(
        {"kind": "cpo", "label_smoothing": SMOOTHING},
        by_pairs("cpo", loss_type="sigmoid", cpo_alpha=1.0, label_smoothing=SMOOTHING),
    ),
    "cpo, hinge": Case({"kind": "cpo", "loss": "hinge"}, by_pairs("cpo", loss_type="hinge", cpo_alpha=1.0)),
    "cpo, ipo": Case({"kind": "cpo", "loss": "ipo"}, by_pairs("cpo", loss_type="ipo", cpo_alpha=1.0)),
    "simpo": Case(
        {"kind": "simpo", "gamma": GAMMA}, by_pairs("cpo", loss_type="simpo", cpo_alpha=0.0, simpo_gamma=GAMMA)
    ),
    "orpo": Case({"kind": "orpo"}, by_pairs("orpo"), PROMPT),
    "orpo, its odds": Case({"kind": "orpo", "sft_weight": 0.0}, by_odds()),
    "kto": Case({"kind": "kto", "unwanted_weight": 1.5}, by_kto(desirable_weight=1.0, undesirable_weight=1.5)),
}


def packed(told: Told, reference: nn.Module, fields: tuple[Any, ...]) -> Row:
    """All samples in one row, with what the reference model says of each."""
    columns: dict[str, dict[str, list[Any]]] = {"token": {}, "segment": {}, "atom": {}}
    for ids, trained in told.samples:
        with torch.no_grad():
            logits = reference(input_ids=torch.tensor([ids])).logits[0, :-1]
        log_probs = torch.log_softmax(logits, -1)
        chosen = log_probs.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        likeliest = log_probs.topk(VOCABULARY)
        first = [[0] * VOCABULARY]  # nothing predicts the first token
        said = {
            "reference_log_prob": [float(chosen[torch.tensor(trained[1:])].sum())],
            "teacher_ids": [*first, *likeliest.indices.tolist()],
            "teacher_log_probs": [*first, *likeliest.values.tolist()],
        }
        for field in fields:
            if field.name in said:
                columns[field.per].setdefault(field.name, []).extend(said[field.name])
    if told.wanted:
        columns["atom"]["wanted"] = [float(label) for label in told.wanted]
    made = {field.name: np.array(columns[field.per][field.name], field.dtype) for field in fields}
    together = 2 if len(told.samples) > 6 else 1
    return Row(
        {
            "input_ids": np.concatenate([np.array(ids, np.int32) for ids, _ in told.samples]),
            "target": np.concatenate([np.array(trained, np.float32) for _, trained in told.samples]),
            **{field.name: made[field.name] for field in fields if field.per == "token"},
        },
        {
            "length": np.array([len(ids) for ids, _ in told.samples], np.int32),
            "sample_id": np.arange(len(told.samples)),
            "atom": np.arange(len(told.samples), dtype=np.int32) // together,
            **{field.name: made[field.name] for field in fields if field.per == "segment"},
        },
        {field.name: made[field.name] for field in fields if field.per == "atom"},
    )


def by_raysft(section: dict[str, Any], told: Told, policy: LlamaForCausalLM, reference: nn.Module) -> Tensor:
    """The same samples through raysft's objective, as an engine of one rank does it."""
    distill = {"kind": "distill", "teachers": ["a"], "teacher_top_k": VOCABULARY, "share": 1.0}
    fields: dict[str, Any] = {"name": "a", "model": {"source": "a"}, "data": {"train": "a"}}
    same = distill if "divergence" in section else {"beta": BETA} if section["kind"] in WITH_BETA else {}
    objective = make_objective(parse_recipe({**fields, "objective": {**same, **section}}))
    install_loss_head(policy)
    module, row = ObjectiveModule(policy, objective), packed(told, reference, objective.columns)
    batch, units = collate([row], 0, packing=True, fields=objective.columns), objective.units([row])
    cpu = torch.device("cpu")

    def measured(means: Any) -> Sums:
        with torch.no_grad():
            found = module(*on_device(batch, cpu, means).flat(objective.batch_columns))
        return Sums({}, {}, {name: (float(value), float(count)) for name, (value, count) in found.metrics.items()})

    means = step_numbers(objective, measured)
    found = module(*on_device(batch, cpu, means).flat(objective.batch_columns))
    return torch.stack([term.weight * found.sums[term.name] / units[term.name] for term in objective.terms]).sum()


def gradient(loss: Tensor, of: nn.Module) -> Tensor:
    """All of it, in one vector."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(of.parameters()))])


def compare(name: str, case: Case) -> bool:
    """Prints a line of the table. Is it as it must be?"""
    encoder = tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        policy, reference = model(0), model(7)
        told = case.told(policy, reference, encoder, folder)
        theirs, their_gradient = float(told.loss), gradient(told.loss, policy)
    other = model(0)
    loss = by_raysft(case.objective, told, other, model(7))
    ours, own_gradient = float(loss), gradient(loss, other)
    apart = abs(ours - theirs) / abs(theirs)
    turned = float((own_gradient - their_gradient).norm() / their_gradient.norm())
    is_one = max(apart, turned) < TOLERANCE
    print(f"| {name} | {theirs:.6f} | {ours:.6f} | {apart:.0e} | {turned:.0e} | {case.different} |", flush=True)
    return is_one == (not case.different)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True)
    options = parser.parse_args()
    sys.path.append(str(Path(options.peers).absolute()))
    import datasets  # type: ignore[import-not-found]

    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    print("| loss | TRL | raysft | apart | gradients apart | why |\n|---|---|---|---|---|---|")
    wrong = [name for name, case in CASES.items() if not compare(name, case)]
    if wrong:
        sys.exit(f"not as expected: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
