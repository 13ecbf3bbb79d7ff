"""YAML that is meant to hurt: an error within a second, whatever its kind."""

from __future__ import annotations

import time

import pytest

from raysft.errors import RecipeError
from raysft.recipe.yaml_text import DEEPEST, MOST_BYTES, parse_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
MERGES = "m0: &m0 {k: v}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        MERGES,
        "a: " + "[" * 5000 + "]" * 5000,
        "a: " + "[" * 500_000,
        "a: " + "{b: " * 300 + "1" + "}" * 300,
        "".join("  " * i + "a:\n" for i in range(200)),
        "".join("- " for _ in range(3000)),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: b" * MOST_BYTES,
        "[" + "1, " * 200_000 + "1]",
        "a: " + "9" * 10_000,
        "a: " + "9" * 40,
        f"a: {2**63}",
        "[0x" + "f" * 20 + "]",
        "a: 2026-99-99",
        "a: !!python/object:os.system {}",
        "? [a, b]\n: 1",
        "a: *nobody",
        "\x00",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_bad_text_is_refused_within_a_second(text: str) -> None:
    started = time.process_time()
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "recipe.yaml")
    assert time.process_time() - started < 5  # a slow machine
    assert "recipe.yaml" in caught.value.what
    assert caught.value.got
    assert len(str(caught.value)) < 1000


def test_what_is_usual_is_read() -> None:
    assert parse_yaml(f"[{2**63 - 1}, -{2**63 - 1}, 0x10, 0b11, 1_000, -0]", "x") == [
        2**63 - 1,
        1 - 2**63,
        16,
        3,
        1000,
        0,
    ]
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}", "x") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }
    deep = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    assert parse_yaml(f"a: {deep}", "x")["a"] is not None
    assert parse_yaml("", "x") is None
