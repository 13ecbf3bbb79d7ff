"""`raysft ...` run in this process, and a small folder of material for it. Shared by the tests of the CLI."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from raysft.cli import main
from raysft.data.text.tokenizer import train_tokenizer

RECIPE = """
name: tiny
storage: {folder}/storage
model:
  source: random
  tokenizer: {folder}/tokenizer
  config: {{model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1,
    num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 256}}
data: {{train: {folder}/data.jsonl, eval_fraction: 0.1, max_tokens: 128}}
train: {{max_steps: 2, rows_per_step: 2, precision: fp32}}
parallel: {{zero: 0}}
"""

RECORDS = [{"instruction": f"say {i}", "output": f"number {i} " * 3} for i in range(40)]


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


def json_lines(*records: object) -> str:
    """Records as JSON Lines; a string stands for a line as it is."""
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def write_material(folder: Path) -> Path:
    """Data, a tokenizer and a recipe that names them. Returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.jsonl").write_text(json_lines(*RECORDS))
    train_tokenizer(
        [str(folder / "data.jsonl")], columns={}, vocab_size=270, template="chatml", out=str(folder / "tokenizer")
    )
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=folder))
    return recipe


def overrides(*assignments: str) -> list[str]:
    """`a.b=v`... as arguments."""
    return [argument for assignment in assignments for argument in ("--set", assignment)]


def raysft(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """Run one command here. What it changes in the process, environment and logging, is put back."""
    root, own, environment = logging.getLogger(), logging.getLogger("raysft"), dict(os.environ)
    handlers, levels = root.handlers[:], (root.level, own.level)
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as ended:  # argparse
        code = int(ended.code or 0)
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        own.setLevel(levels[1])
        os.environ.clear()
        os.environ.update(environment)
    text = capsys.readouterr()
    return Ran(code, text.out, text.err)


def assert_refused(ran: Ran, *words: str, code: int = 2) -> None:
    """It ended with a whole message, these words in it, and no traceback."""
    assert ran.code == code, ran
    assert "Traceback" not in ran.err
    message = ran.err[ran.err.index("error: ") :]
    assert all(part in message for part in ("\n  got: ", "\n  expected: ", "\n  fix: ")), message
    missing = [word for word in words if word not in message]
    assert not missing, (missing, message)
