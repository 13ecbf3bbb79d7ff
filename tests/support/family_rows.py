"""What raysft does with one model family, against plain transformers and peft on the same samples.

A row is made of a tiny model that transformers alone builds and saves. The references read that directory with
transformers and peft and compute each sample by itself; nothing of raysft is in them.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fakes import make_recipe, make_tokenizer
from families import tiny_fields
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from raysft.errors import RaysftError
from raysft.model.card import CardFacts
from raysft.model.export import export_run
from raysft.model.facts import read_facts
from raysft.model.fast.attention import SEGMENTS
from raysft.model.fast.start_check import use_fast_paths
from raysft.model.load import load_model
from raysft.model.methods import apply_method, base_model
from raysft.model.rehearsal import rehearse
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.known import known_of
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.families import CUT_INTO_SHARDS, CUT_INTO_STAGES
from raysft.recipe.resolve import resolve
from raysft.recipe.schema import Recipe

FACTS = CardFacts(1, 1, 1, 1, dict.fromkeys(("data", "mathematics", "execution"), "f" * 16), {}, {})
VOCABULARY = 264
"""Rows for each token of fakes.make_tokenizer."""
LENGTHS = (9, 14, 5)
TOLERANCE = 2e-5
"""Of a mean loss, relative."""
EXPORT_TOLERANCE = 1e-4
"""Of logits, relative to the largest: merging rounds, and HRM passes its layers many times."""


@dataclass
class Row:
    """One family."""

    model_type: str
    parameters: int = 0
    attention: str = ""
    packing: str = ""
    first_loss: float = float("nan")
    """Largest relative difference to plain transformers, of both methods."""
    export: float = float("nan")
    """Largest relative difference of logits, exported and loaded again, of both methods and of the adapter."""
    full: str = ""
    lora: str = ""
    """`yes`, or why not."""
    frozen: list[str] = field(default_factory=list)
    """What LoRA leaves as it is."""

    @property
    def pipeline(self) -> bool:
        return self.model_type in CUT_INTO_STAGES

    @property
    def tensor(self) -> bool:
        return self.model_type in CUT_INTO_SHARDS


class NotCausalError(Exception):
    """This type's language model sees what comes after."""


def make_base(model_type: str, directory: Path) -> None:
    """A tiny model of a family on disk, by transformers alone. Raises NotCausalError, or what a config raises."""
    torch.manual_seed(0)
    fields = tiny_fields(model_type, VOCABULARY)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > 5_000_000:
        raise ValueError(f"no tiny config: {size:,} parameters")
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.add_(0.05 * torch.randn_like(parameter))
    one = torch.arange(3, 15)[None]
    other = torch.cat([one[:, :-1], one[:, -1:] + 40], dim=1)
    with torch.no_grad():
        seen = [model(input_ids=ids, use_cache=False).logits[:, :-1] for ids in (one, other)]
    if not torch.allclose(*seen, atol=1e-4):
        raise NotCausalError(model_type)
    model.save_pretrained(directory)


def samples() -> list[Tensor]:
    """[n] token ids each."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, 90, (n,), generator=draw) for n in LENGTHS]


def plain_loss(directory: Path) -> float:
    """Nats per token over all samples, each by itself, every token but the first a target."""
    model = plain(directory)
    total = 0.0
    for sample in samples():
        with torch.no_grad():
            log_probs = model(input_ids=sample[None], use_cache=False).logits[0].double().log_softmax(-1)
        total -= float(log_probs[:-1].gather(-1, sample[1:, None]).sum())
    return total / sum(n - 1 for n in LENGTHS)


def plain(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=samples()[1][None], use_cache=False).logits.float()
    return found


def recipe_of(directory: Path, method: str, packing: bool = True) -> Recipe:
    return make_recipe(
        model={"source": str(directory), "config": None, "tokenizer": None},
        data={"packing": packing},
        method={"kind": method} | ({"rank": 4} if method == "lora" else {}),
    )


def batch(packing: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The samples in one row, or each in a padded row; padding is a segment of its own. Each [B, T]."""
    width = sum(LENGTHS) + 4 if packing else max(LENGTHS) + 4
    rows = [samples()] if packing else [[sample] for sample in samples()]
    ids, positions = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for number, row in enumerate(rows):
        start = 0
        for sample in [*row, torch.zeros(width - sum(map(len, row)), dtype=torch.long)]:
            part = slice(start, start + len(sample))
            ids[number, part], positions[number, part] = sample, torch.arange(len(sample))
            if start + len(sample) < width:
                labels[number, part][:-1] = sample[1:]
            start += len(sample)
    return ids, positions, labels, torch.ones(len(rows), width)


def make_row(model_type: str, directory: Path) -> Row:
    """All that the table says of a family. Raises NotCausalError, or what a config raises that is not tiny."""
    with quiet():
        make_base(model_type, directory / "base")
        row = Row(model_type)
        expected = plain_loss(directory / "base")
        for method in ("full", "lora"):
            told = _train(row, directory, method, expected)
            if method == "full":
                row.full = told
            else:
                row.lora = told
    return row


def _train(row: Row, directory: Path, method: str, expected: float) -> str:
    """`yes`, or the message of a refusal."""
    told = ""
    for packing in (True, False):
        recipe = recipe_of(directory / "base", method, packing)
        try:
            module = _set_up(row, recipe)
        except RaysftError as error:
            told = f"{error.what}: {error.got}"
            if "packing" not in error.fix:
                return told
            continue
        row.packing = row.packing or ("yes" if packing else f"off: {told}")
        row.first_loss = _worse(row.first_loss, _first_loss(module, packing, expected))
        row.export = _worse(row.export, _export(recipe, module, directory / method))
        return "yes"
    return told


def _set_up(row: Row, recipe: Recipe) -> ObjectiveModule:
    """As a run does: in the driver, then in a worker."""
    tokenizer = make_tokenizer()
    resolve(recipe, read_facts(recipe), None)
    lines = rehearse(recipe, tokenizer)
    row.frozen = [line.removeprefix("frozen").strip() for line in lines if line.startswith("frozen")]
    model = load_model(recipe, vocab_size=len(tokenizer))
    row.parameters = sum(p.numel() for p in model.parameters())
    use_fast_paths(model, len(tokenizer), packing=recipe.data.packing, max_tokens=recipe.data.max_tokens)
    used = model.config._attn_implementation
    row.attention = row.attention or {SEGMENTS: "segments"}.get(used, used)
    return ObjectiveModule(apply_method(model, recipe), make_objective(recipe))


def _first_loss(module: ObjectiveModule, packing: bool, expected: float) -> float:
    ids, positions, labels, weights = batch(packing)
    module.eval()
    row = torch.zeros_like(ids)
    tensors = (ids, positions, labels, weights, row, row.bool(), torch.zeros(1, dtype=torch.long))
    given = DeviceBatch(*tensors, {}, known_of(tensors))
    loss = float(module(*given.flat(())).sums["nll"]) / int((labels != -100).sum())
    return abs(loss - expected) / expected


def _export(recipe: Recipe, module: ObjectiveModule, directory: Path) -> float:
    """Moves every trained parameter, exports it, loads it as anybody would."""
    torch.manual_seed(2)
    trained = {name: p for name, p in module.model.named_parameters() if p.requires_grad}
    if base_model(module.model).config._attn_implementation == SEGMENTS:
        base_model(module.model).set_attn_implementation("sdpa")  # as others call it
    before = logits(module.model)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = logits(module.model)
    assert not torch.allclose(before, expected, atol=1e-3), "what is trained changes nothing"
    weights = ((name, p.detach().clone()) for name, p in trained.items())
    *adapter, merged = export_run(recipe, weights, make_tokenizer(), out=str(directory), card=FACTS)
    found = [logits(plain(Path(merged)))]
    if adapter:
        base: nn.Module = plain(Path(recipe.model.source))
        found.append(logits(PeftModel.from_pretrained(base, adapter[0])))
    return max(float((one - expected).abs().max() / expected.abs().max()) for one in found)


def _worse(one: float, other: float) -> float:
    return other if one != one else max(one, other)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
