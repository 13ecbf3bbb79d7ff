"""Pairs of answers: two samples that are never parted, each as it would be alone, and nothing of the prompt trained.

The reference is the tokenizer's own apply_chat_template of each side, and the texts themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raysft.data.on_ray import Item
from raysft.data.prepare import prepare as prepare_module
from raysft.data.prepare.fingerprint import describe_sides
from raysft.data.prepare.prepare import prepare
from raysft.data.report.preview import certificate, preview
from raysft.data.store.parts import TokenStore
from raysft.errors import DataError, RecipeError
from raysft.recipe.change import change
from raysft.recipe.checks import check_recipe
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.model import ModelSection
from raysft.recipe.sections.objective import DpoObjective


def trained_text(tokenizer: Any, ids: Sequence[int], target: Sequence[float]) -> str:
    return str(tokenizer.decode([i for i, weight in zip(ids, target, strict=True) if weight]))


def records() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"prompt": f"question {i}", "chosen": f"good {i} " * (1 + i % 5), "rejected": f"bad {i}"} for i in range(60)
    ]
    found.append({"prompt": "question x", "responses": ["poor x", "fine x", "so x"], "scores": [0.1, 0.9, 0.5]})
    return [*found, {"instruction": "q", "output": "alone"}, {"prompt": "p", "chosen": "same", "rejected": "same"}]


@pytest.fixture
def recipe(tmp_path: Path, tokenizers: Any, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    def here(function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[Any]:
        return (json.loads(json.dumps(function(item))) for item in items)

    monkeypatch.setattr(prepare_module.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(prepare_module, "on_ray", here)
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records()))
    return Recipe(
        name="r",
        storage=str(tmp_path / "storage"),
        objective=DpoObjective(kind="dpo"),
        model=ModelSection(source="random", tokenizer=str(tmp_path / "tok")),
        data=DataSection(train=(str(tmp_path / "a.jsonl"),), max_tokens=128, eval_fraction=0.2),
    )


def sides_of(location: str, tokenizer: Any) -> list[tuple[str, str]]:
    """(preferred, rejected) trained texts of every atom of a store."""
    store, found = TokenStore.open(location), []
    for row in store.read_rows(range(store.num_rows)):
        ends = np.cumsum(row.segment_fields["length"])[:-1]
        ids = np.split(row.token_fields["input_ids"], ends)
        targets = np.split(row.token_fields["target"], ends)
        atoms = row.segment_fields["atom"].tolist()
        assert atoms == sorted([*range(max(atoms) + 1)] * 2)
        assert row.num_tokens <= 128
        texts = [trained_text(tokenizer, *pair) for pair in zip(ids, targets, strict=True)]
        assert row.segment_fields["sample_id"][::2].tolist() == row.segment_fields["sample_id"][1::2].tolist()
        found += list(zip(texts[::2], texts[1::2], strict=True))
    return found


def test_a_store_of_pairs_holds_each_pair_once_in_one_row(recipe, tokenizers, monkeypatch) -> None:
    monkeypatch.setattr(prepare_module, "WINDOW", 7)  # a window is cut between pairs
    prepared = prepare(recipe)
    found = [sides_of(location, tokenizers["chatml"]) for location in (prepared.train, prepared.eval)]
    expected = {(r["chosen"] + "<|im_end|>", r["rejected"] + "<|im_end|>") for r in records()[:60]}
    expected.add(("fine x<|im_end|>", "poor x<|im_end|>"))
    assert sorted(found[0] + found[1]) == sorted(expected)
    assert min(map(len, found)) > 3
    counts = prepared.train_manifest["counts"]
    assert (counts["examples"], counts["records_read"]) == (
        len(found[0]),
        len(found[0]) + sum(counts["refused"].values()),
    )
    store = TokenStore.open(prepared.train)
    rows = store.read_rows(range(store.num_rows))
    assert counts["tokens"] == sum(row.num_tokens for row in rows)
    assert counts["target_tokens"] == sum(int(row.token_fields["target"].sum()) for row in rows)
    lines = certificate(prepared.train_manifest)
    assert lines[0].startswith(f"{len(found[0])} pairs of {counts['records_read']} records")
    assert any(line.startswith(f"unpacked again, all {len(found[0])} pairs are equal") for line in lines)
    refused = prepared.train_manifest["counts"]["refused"] | prepared.eval_manifest["counts"]["refused"]
    assert refused == {"no_pair": 1, "no_preference": 1}
    prompts = TokenStore.open(prepared.eval).prompts()
    assert {(line["answer"] + "<|im_end|>") for line in prompts} == {preferred for preferred, _ in found[1]}


def test_supervised_tuning_on_the_same_data_trains_the_preferred_answers_as_before(recipe, tokenizers) -> None:
    sft = change(recipe, {"objective": {"kind": "sft"}})
    (one, _), (pair, _) = describe_sides(sft), describe_sides(recipe)
    assert {name: value for name, value in pair.inputs.items() if name != "answers"} == one.inputs
    assert pair.inputs["answers"] == "pair"
    assert pair.fingerprint != one.fingerprint
    prepared = prepare(sft)
    assert prepared.train_manifest["counts"]["refused"] == {}
    store = TokenStore.open(prepared.train)
    assert all(
        row.segment_fields["atom"].tolist() == [*range(len(row.segment_fields["atom"]))]
        for row in store.read_rows(range(store.num_rows))
    )


def test_pairs_that_differ_in_the_rejected_answer_alone_are_no_duplicates(recipe, tmp_path, tokenizers) -> None:
    lines = [{"prompt": "q", "chosen": "good", "rejected": text} for text in ("bad", "worse", "BAD ")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rules = [{"rule": "exact_duplicates"}]
    prepared = prepare(change(recipe, {"data.rules": rules, "data.eval_fraction": 0.0}))
    assert sorted(sides_of(prepared.train, tokenizers["chatml"])) == [
        ("good<|im_end|>", "bad<|im_end|>"),
        ("good<|im_end|>", "worse<|im_end|>"),
    ]


def test_a_preview_shows_both_answers_and_which_is_preferred(recipe) -> None:
    text = preview(recipe, 63).plain.plain
    for name, answer in (("preferred", "fine x"), ("rejected", "poor x")):
        heading = text.index(f"[[{answer}<|im_end|>]]")
        assert f", {name}: " in text[:heading].rpartition("--- ")[2]
    assert "63 records, 61 pairs, 122 samples; refused: no_pair, no_preference" in text
    packed = preview(recipe, 4, packed=True).plain.plain
    assert ", preferred: " in packed
    assert packed.index(", preferred: ") < packed.index(", rejected: ")
    rows = [line for line in packed.splitlines() if line.startswith("--- row")]
    assert rows
    assert all(int(line.split(": ")[1].split()[0]) % 2 == 0 for line in rows), "a row holds whole pairs"


def test_a_store_without_any_pair_says_what_is_expected(recipe, tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"instruction": "q", "output": "a"}\n')
    with pytest.raises(DataError, match=r"no_pair.*expected two or more, in the format preference"):
        prepare(change(recipe, {"data.eval_fraction": 0.0}))


def judged_records() -> list[dict[str, Any]]:
    """Of each kind: TRL's prompt and completion, turns, and a pair, which is two answers."""
    found: list[dict[str, Any]] = []
    for i in range(10):
        found.append({"prompt": f"question {i}", "completion": f"answer {i}", "label": i % 3 > 0})
        turns = [{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": f"say {i}"}]
        turns += [{"role": "user", "content": "again"}, {"role": "assistant", "content": f"say {i} again"}]
        found.append({"messages": turns, "label": i % 2 == 0})
        found.append({"prompt": f"pair {i}", "chosen": f"good {i}", "rejected": f"bad {i}"})
    return [
        *found,
        {"prompt": "q", "completion": "unlabelled"},
        {"prompt": "q", "completion": "x " * 900, "label": 1},
    ]


def test_a_store_of_judged_answers_has_each_beside_one_of_another_prompt(recipe, tokenizers, tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in judged_records()))
    wide = {"objective": {"kind": "kto"}, "data.eval_fraction": 0.0, "data.max_tokens": 600}
    prepared = prepare(change(recipe, wide))
    store, tokenizer, found, said = TokenStore.open(prepared.train), tokenizers["chatml"], {}, {}
    for row in store.read_rows(range(store.num_rows)):
        ends = np.cumsum(row.segment_fields["length"])[:-1]
        ids, targets = (np.split(row.token_fields[name], ends) for name in ("input_ids", "target"))
        atoms = row.segment_fields["atom"]
        for atom, wanted in enumerate(row.atom_fields["wanted"].tolist()):
            places = np.flatnonzero(atoms == atom).tolist()
            texts = [trained_text(tokenizer, ids[i], targets[i]).removesuffix("<|im_end|>") for i in places]
            whole = [tokenizer.decode(ids[i]) for i in places]
            prompts = [text[: text.rindex(answer)] for text, answer in zip(whole, texts, strict=True)]
            found[texts[0]] = wanted
            said[prompts[0], texts[0]] = texts[1:]
            assert len(set(prompts)) == 1, "both answer the same"
    expected = {f"answer {i}": float(i % 3 > 0) for i in range(10)} | {
        f"say {i} again": float(i % 2 == 0) for i in range(10)
    }
    expected |= {f"{kind} {i}": float(kind == "good") for i in range(10) for kind in ("good", "bad")}
    assert found == expected
    answers = {answer: prompt for prompt, answer in said}
    for (prompt, answer), others in said.items():
        if answer in ("good 9", "bad 9"):
            assert not others, "the next one is too long"
            continue
        assert len(others) == 1
        assert others[0] != answer
        assert answers[others[0]] != prompt, "the other one answers something else"
    assert prepared.train_manifest["counts"]["refused"] == {"not_judged": 1, "over_long": 1}
    assert {field.name for field in store.fields} == {"target", "wanted"}
    judged = {"wanted": sum(map(int, expected.values())), "unwanted": sum(one == 0 for one in expected.values())}
    assert prepared.train_manifest["counts"]["judged"] == judged
    assert any(
        line.startswith(f"answers: {judged['wanted']} wanted") for line in certificate(prepared.train_manifest)
    )
    narrow = prepare(change(recipe, {**wide, "data.max_tokens": 128}))
    store = TokenStore.open(narrow.train)
    lengths = [row.segment_fields["length"] for row in store.read_rows(range(store.num_rows))]
    alone = sum(len(row.atom_fields["wanted"]) for row in store.read_rows(range(store.num_rows)))
    assert alone < sum(map(len, lengths)) < 2 * alone, "one beside which no other fits stands alone"


@pytest.mark.parametrize("label", [True, False, 1, "true"])
def test_answers_that_are_all_judged_alike_are_refused(recipe, tmp_path, label) -> None:
    records = [{"prompt": f"p {i}", "completion": f"c {i}", "label": label} for i in range(8)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(DataError, match="judged alike") as error:
        prepare(change(recipe, {"objective": {"kind": "kto"}, "data.eval_fraction": 0.0}))
    assert error.value.got == ("wanted 8, unwanted 0" if label else "wanted 0, unwanted 8")


def test_a_judged_answer_is_shown_with_its_judgement(recipe, tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "completion": "no good", "label": false}\n')
    text = preview(change(recipe, {"objective": {"kind": "kto"}, "data.eval_fraction": 0.0}), 1).plain.plain
    assert ", unwanted: " in text[: text.index("[[no good<|im_end|>]]")]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data.over_long": "truncate"}, "cut answers cannot be compared"),
        ({"data.over_long": "split"}, "data.over_long = split"),
        ({"data.mixture": {"weight_column": "w"}}, "weight_column: w"),
        (
            {"data.mode": "stream", "data.order": "windowed", "train.max_steps": 5, "data.eval_fraction": 0.0},
            "answers that are compared, or judged, and texts with labels are not streamed",
        ),
    ],
)
def test_what_pairs_cannot_go_with_is_refused_by_name(recipe, changes, named) -> None:
    fitting = change(recipe, {"model.config": {"model_type": "llama"}})
    check_recipe(fitting)
    with pytest.raises(RecipeError, match=named):
        check_recipe(change(fitting, changes))
    check_recipe(change(fitting, {**changes, "objective": {"kind": "sft"}}))
