"""A tokenizer without its library, on its way to a task."""

from __future__ import annotations

from typing import Any

from raysft.data.text.backend import BackendJson
from raysft.data.text.offsets import tokenize

TEXTS = ["one two", "  x\n\ny", "Zażółć 子 🙂", "<|im_start|>user\n7<|im_end|>", ""]


def test_a_tokenizer_is_the_same_behind_its_json(tokenizers: dict[str, Any]) -> None:
    for tokenizer in tokenizers.values():
        sent = BackendJson.of(tokenizer).load()
        here, there = tokenize(tokenizer, TEXTS), tokenize(sent, TEXTS)
        assert there.ids.tolist() == here.ids.tolist()
        assert there.starts.tolist() == here.starts.tolist()
        reference = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        assert there.ids.tolist() == [index for ids in reference for index in ids]
