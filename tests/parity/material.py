"""Data, tokenizer and recipe of the parity tests: samples whose target counts differ a lot, made from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raysft.data.records import Conversation, Message
from raysft.data.store.manifest import write_manifest
from raysft.data.store.parts import write_part
from raysft.data.store.windows import pack_window
from raysft.data.text.chat import encode
from raysft.data.text.tokenizer import template_for
from raysft.recipe.columns import Field

MAX_TOKENS = 128
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


def make_samples(count: int = 96) -> list[tuple[str, str]]:
    """(question, answer): a third long with short answers, a third the other way round, a third short."""
    draw = random.Random(0)
    samples = []
    for i in range(count):
        sizes = [(70, 1), (6, 65), (8, 4)][i % 3]
        question, answer = ("".join(draw.choice("abcde ") for _ in range(n)) for n in sizes)
        samples.append((question, answer))
    return samples


def make_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Bytes as tokens, no merges, so that pieces tokenize as the whole does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.save_pretrained(directory)
    return fast


def make_store(directory: Path, tokenizer: PreTrainedTokenizerFast, samples: list[tuple[str, str]]) -> str:
    """A token store of the samples, by the package's own stages, without Ray."""
    conversations = [
        Conversation(id=i, messages=(Message("user", q), Message("assistant", a)), source="made")
        for i, (q, a) in enumerate(samples)
    ]
    encoded = encode(
        conversations,
        tokenizer,
        template_for("chatml", tokenizer),
        train_on="all",
        max_tokens=MAX_TOKENS,
        over_long="drop",
    )
    assert all(isinstance(found, tuple) for found in encoded)
    examples = [example for found in encoded for example in found]
    table = pa.table(
        {
            "sample_id": pa.array([e.sample_id for e in examples], pa.int64()),
            "weight": pa.array([1.0] * len(examples), pa.float32()),
            "input_ids": pa.array([e.input_ids for e in examples], pa.list_(pa.int32())),
            "target": pa.array([e.target.astype(np.uint8) for e in examples], pa.list_(pa.uint8())),
        }
    )
    location = str(directory / "store")
    part = write_part(location, 0, pack_window(table, MAX_TOKENS))
    write_manifest(location, {"fingerprint": "made", "max_tokens": MAX_TOKENS, "parts": [part]})
    return location


def write_store(location: Path, table: pa.Table, fields: Sequence[Field]) -> str:
    """A store of one part whose rows have further columns."""
    part = write_part(str(location), 0, pack_window(table, MAX_TOKENS, fields))
    write_manifest(str(location), {"fingerprint": "made", "max_tokens": MAX_TOKENS, "parts": [part]})
    return str(location)


def recipe_fields(tokenizer: str, **changes: Any) -> dict[str, Any]:
    """A recipe as a mapping; `changes` are dotted fields with `__` for the dot."""
    fields: dict[str, Any] = {
        "name": "parity",
        "model": {"source": "random", "config": dict(CONFIG), "tokenizer": tokenizer},
        "data": {"train": ["unused.jsonl"], "max_tokens": MAX_TOKENS},
        "objective": {},
        "method": {},
        "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.1, "max_grad_norm": 1.0, "schedule": "constant"},
        "train": {"rows_per_step": 8, "micro_batch_rows": 1, "precision": "fp32", "max_steps": 20},
        "parallel": {"zero": 0},
        "cluster": {"workers": 1},
    }
    for name, value in changes.items():
        section, field = name.split("__")
        fields[section][field] = value
    return fields
