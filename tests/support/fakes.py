"""Stand-ins for what is slow or distributed: a group, an engine, a token store, a tokenizer, tiny recipes.

They share no code with what they stand in for. Nothing here asserts; tests do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raysft.data.feed.step_plan import Order, StepPlan
from raysft.data.store.packed_rows import Row
from raysft.engine.hold import Hold
from raysft.engine.protocol import HostBatch, StepCosts, StepResult
from raysft.engine.slices import Slice, whole
from raysft.objectives.reduce import Reduced, Sums
from raysft.recipe.columns import TARGET
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.train.state import StepInfo, TrainState

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
GEMMA2 = LLAMA | {
    "model_type": "gemma2",
    "head_dim": 8,
    "final_logit_softcapping": 2.0,
    "attn_logit_softcapping": 5.0,
    "sliding_window": 64,
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def recipe_content(**sections: Any) -> dict[str, Any]:
    """A small valid recipe as a mapping; each section given is merged over it one level deep."""
    content: dict[str, Any] = {
        "name": "tiny",
        "model": {"source": "random", "config": dict(LLAMA), "tokenizer": "somewhere"},
        "data": {"train": "train.jsonl", "max_tokens": 64},
        "train": {"precision": "fp32"},
    }
    for name, value in sections.items():
        old = content.get(name)
        content[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return content


def make_recipe(**sections: Any) -> Recipe:
    """recipe_content, validated."""
    return parse_recipe(recipe_content(**sections))


def recipe_8b(workers: int = 8, **sections: Any) -> Recipe:
    """An 8B Llama in bf16, 64 rows of 4,096 tokens a step."""
    data = {"max_tokens": 4096} | sections.pop("data", {})
    train = {"precision": "bf16", "rows_per_step": 64} | sections.pop("train", {})
    cluster = {"workers": workers} | sections.pop("cluster", {})
    return make_recipe(model={"config": LLAMA_8B}, data=data, train=train, cluster=cluster, **sections)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, no merges: 256 bytes and four special tokens; ChatML."""
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


class FakeGroup:
    """One rank of a group whose collectives are played by a script (by default: it is alone)."""

    def __init__(self, rank: int = 0, size: int = 1, others_agree: bool = True) -> None:
        self.rank, self.size = rank, size
        self.others_agree = others_agree
        self.barriers = 0

    def barrier(self) -> None:
        self.barriers += 1

    def from_rank_0(self, value: int) -> int:
        return value

    def all_true(self, value: bool, while_waiting: Callable[[], None] | None = None) -> bool:
        return value and self.others_agree

    def all_true_within(self, value: bool, timeout_s: float) -> bool:
        return value and self.others_agree

    def sum(self, value: float) -> float:
        return value * self.size


@dataclass
class FakeBatch:
    """A share of a global step without arrays."""

    micro_batches: tuple[HostBatch, ...] = ()
    units: Mapping[str, float] = field(default_factory=lambda: {"nll": 4.0})
    cursor: Mapping[str, int] = field(default_factory=dict)
    flops: float = 1e9


@dataclass
class FakeEngine:
    """Loss falls as 1 / (step + 1); steps named in `skips` have gradients that are not finite."""

    skips: frozenset[int] = frozenset()
    calls: list[tuple[int, float]] = field(default_factory=list)
    hold: Hold = field(default_factory=Hold)

    def train_step(
        self,
        micro_batches: Sequence[HostBatch],
        units: Mapping[str, float],
        *,
        step: int,
        learning_rate: float,
        aside: Sequence[float] = (),
    ) -> StepResult:
        self.calls.append((step, learning_rate))
        self.hold.end()
        skipped = step in self.skips
        return StepResult(
            found=_found(units, 1.0 / (step + 1)),
            grad_norm=float("inf") if skipped else 1.0,
            skipped=skipped,
            tokens=10,
            sample_ids=(2 * step, 2 * step + 1),
            costs=StepCosts(passes_s=(0.25,), forward_s=(0.0,), peak_bytes=2**30),
            asides=(tuple(aside),),
        )

    def eval_step(self, micro_batches: Sequence[HostBatch], units: Mapping[str, float]) -> Sums:
        return Sums({"nll": 1.0 * units["nll"]}, dict(units))

    def state(self) -> Iterator[Slice]:
        yield whole("adam_step", torch.zeros(()))


def _found(units: Mapping[str, float], mean: float) -> Reduced:
    """Every term has the same mean, and the units are target tokens."""
    total = sum(units.values())
    return Reduced(mean * len(units), dict.fromkeys(units, mean), {}, dict(units), total)


def step_info(step: int, **changes: Any) -> StepInfo:
    """What hooks and records get after step `step`."""
    plain = StepInfo(
        state=TrainState(step=step),
        loss=1.0,
        terms={"nll": 1.0},
        metrics={},
        grad_norm=1.0,
        skipped=False,
        replayed=False,
        learning_rate=0.1,
        step_s=0.1,
        data_wait_s=0.0,
        forward_backward_s=0.1,
        peak_bytes=1,
        flops=1.0,
        tokens=1,
        target_tokens=1.0,
        sample_ids=(),
        notice=0,
    )
    return replace(plain, **changes)


class FakeStore:
    """A token store in memory: rows of random tokens in segments, the first half of each segment a prompt."""

    fields = (TARGET,)

    def __init__(self, rows: Sequence[Sequence[int]], *, vocab_size: int = 260, seed: int = 0) -> None:
        """rows: the segment lengths of every row. Sample ids count up from 100 through the rows."""
        generator, next_id = np.random.default_rng(seed), 100
        self.rows: list[Row] = []
        for lengths in rows:
            target = [np.arange(n) >= max(1, n // 2) for n in lengths]
            self.rows.append(
                Row(
                    token_fields={
                        "input_ids": generator.integers(0, vocab_size, sum(lengths)).astype(np.int32),
                        "target": np.concatenate(target).astype(np.float32),
                    },
                    segment_fields={
                        "length": np.array(lengths, np.int32),
                        "sample_id": np.arange(next_id, next_id + len(lengths), dtype=np.int64),
                        "atom": np.arange(len(lengths), dtype=np.int32),
                    },
                )
            )
            next_id += len(lengths)

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    @property
    def windows(self) -> tuple[int, ...]:
        return (len(self.rows),)

    def plan(self, rows_per_step: int, seed: int) -> StepPlan:
        return StepPlan(Order(rows_per_step, seed), self.windows, self.row_sizes()[1])

    @property
    def sample_ids(self) -> list[int]:
        return [int(i) for row in self.rows for i in row.segment_fields["sample_id"]]

    def read_rows(self, indices: Sequence[int]) -> list[Row]:
        return [self.rows[i] for i in indices]

    def row_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        lengths = [row.segment_fields["length"].astype(np.int64) for row in self.rows]
        return np.array([sum(n) for n in lengths]), np.array([sum(n * n) for n in lengths])


def recorder(log: list[Any]) -> Callable[[Any], None]:
    """A callable that keeps copies of what it is called with."""

    def record(value: Any) -> None:
        log.append(copy.deepcopy(value))

    return record
