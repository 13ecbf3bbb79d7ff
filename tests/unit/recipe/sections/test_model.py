"""`model:`: a source, and what may be said beside it."""

from __future__ import annotations

from typing import Any

import pytest
from sections import read, refused


def test_remote_code_is_off_and_the_backend_is_chosen() -> None:
    section = read(model={"source": "a/b"}).model
    assert section.trust_remote_code is False
    assert section.attention == "auto"
    assert (section.tokenizer, section.revision, section.config) == (None, None, None)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({}, ("model.source is missing",)),
        ({"source": ["a", "b"]}, ("model.source",)),
        ({"source": "a", "trust_remote_code": "yes"}, ("model.trust_remote_code", "true or false")),
        ({"source": "a", "attention": "flash"}, ("model.attention", "flash_attention_2")),
        ({"source": "a", "config": "llama"}, ("model.config", "'llama'")),
        ({"source": "a", "revision": 5}, ("model.revision", "5")),
        ({"name": "a"}, ("unknown key model.name",)),
    ],
)
def test_what_is_refused(model: dict[str, Any], words: tuple[str, ...]) -> None:
    told = refused(model=model)
    assert all(word in told for word in words), told
