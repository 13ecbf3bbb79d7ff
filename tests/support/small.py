"""Small material for tests that train through Ray: records, a tokenizer and a recipe, all made from a seed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from raysft.data.text.tokenizer import train_tokenizer
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe


def make_records(path: Path, count: int, seed: int = 0) -> Path:
    """Instructions to reverse a word, as Alpaca records in JSONL."""
    draw = random.Random(seed)
    with path.open("w") as stream:
        for _ in range(count):
            word = "".join(draw.choices("abcdefghij", k=draw.randint(3, 9)))
            stream.write(json.dumps({"instruction": f"Reverse {word}", "output": word[::-1]}) + "\n")
    return path


def make_recipe(directory: Path, *, count: int = 200, **changes: Any) -> Recipe:
    """A recipe on material in `directory` (made when missing). `changes`: dotted fields, `__` for the dot."""
    data, tokenizer = directory / f"records-{count}.jsonl", directory / "tokenizer"
    if not data.exists():
        make_records(data, count)
    if not tokenizer.exists():
        train_tokenizer([str(data)], columns={}, vocab_size=275, template="chatml", out=str(tokenizer))
    fields: dict[str, Any] = {
        "name": "small",
        "storage": str(directory / "storage"),
        "model": {
            "source": "random",
            "tokenizer": str(tokenizer),
            "config": {
                "model_type": "llama",
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 256,
                "tie_word_embeddings": True,
            },
        },
        "data": {"train": str(data), "template": "chatml", "max_tokens": 128},
        "method": {},
        "optimizer": {"learning_rate": 3e-3},
        "train": {"rows_per_step": 8, "micro_batch_rows": 2, "precision": "fp32"},
        "parallel": {"zero": 2},
        "cluster": {"workers": 2},
        "checkpoint": {},
        "evaluate": {},
        "export": {},
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            fields[section][field] = value
        else:
            fields[section] = value
    return parse_recipe(fields)
