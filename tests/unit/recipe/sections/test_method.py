"""`method:`: one section for each kind, with the fields of that kind and no other."""

from __future__ import annotations

from typing import Any

import pytest
from sections import read, refused

from raysft.recipe.sections.method import FullMethod, Ia3Method, LoraMethod


@pytest.mark.parametrize("full", [{}, {"kind": "full"}])
def test_where_no_kind_is_named_all_is_trained(full: dict[str, Any]) -> None:
    assert read(method=full).method == FullMethod()


def test_each_kind_has_its_defaults() -> None:
    lora = read(method={"kind": "lora"}).method
    assert isinstance(lora, LoraMethod)
    assert (lora.rank, lora.alpha, lora.dropout, lora.target_modules) == (16, 32.0, 0.0, ("all-linear",))
    ia3 = read(method={"kind": "ia3"}).method
    assert isinstance(ia3, Ia3Method)
    assert set(ia3.feedforward_modules) <= set(ia3.target_modules)


def test_one_name_is_a_list_of_one() -> None:
    lora = read(method={"kind": "lora", "target_modules": "q_proj"}).method
    assert isinstance(lora, LoraMethod)
    assert lora.target_modules == ("q_proj",)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"kind": "full", "rank": 8}, ("method.rank", "lora")),
        ({"kind": "ia3", "alpha": 8.0}, ("method.alpha", "lora")),
        ({"rank": 8}, ("method.rank",)),
        ({"kind": "lora", "feedforward_modules": ["a"]}, ("method.feedforward_modules", "ia3")),
        ({"kind": "lorra"}, ("'lorra'", "lora")),
        ({"kind": "lora", "rank": 0}, ("method.rank", "1 or more")),
        ({"kind": "lora", "alpha": 0}, ("method.alpha", "more than 0")),
        ({"kind": "lora", "dropout": 1.0}, ("method.dropout", "less than 1")),
        ("lora", ("method", "'lora'")),
    ],
)
def test_what_is_refused(method: Any, words: tuple[str, ...]) -> None:
    told = refused(method=method)
    assert all(word in told for word in words), told
