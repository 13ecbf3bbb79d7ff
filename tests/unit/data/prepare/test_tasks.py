"""What tasks on the cluster import, and that they make of a tokenizer what the driver has."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from raysft.data.text.backend import BackendJson
from raysft.data.text.offsets import tokenize

TEXTS = ["one two", "  x\n\ny", "Zażółć 子 🙂", "<|im_start|>user\n7<|im_end|>", ""]


@pytest.mark.parametrize(
    "module",
    [
        "raysft.data.prepare.tasks",
        "raysft.data.feed.stream",
        "raysft.data.report.survey_task",
        "raysft.data.rules.near_duplicates",
    ],
)
def test_a_task_on_the_cluster_imports_no_model_library(module: str) -> None:
    """Each process of a prepare would take 3 s and 300 MB for it, on every node."""
    code = f"import sys, {module}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_a_tokenizer_is_the_same_behind_its_json(tokenizers: dict[str, Any]) -> None:
    for tokenizer in tokenizers.values():
        sent = BackendJson.of(tokenizer).load()
        here, there = tokenize(tokenizer, TEXTS), tokenize(sent, TEXTS)
        assert there.ids.tolist() == here.ids.tolist()
        assert there.starts.tolist() == here.starts.tolist()
        reference = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        assert there.ids.tolist() == [index for ids in reference for index in ids]
