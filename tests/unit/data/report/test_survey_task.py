"""What the survey counts of a piece of a file, against counts made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from surveyed import ENGLISH, RECORDS

from raysft.data.read.sources import expand, plan_reads
from raysft.data.report import survey as survey_module
from raysft.data.report.survey_facts import Facts, merge_facts
from raysft.data.report.survey_task import SurveyPlan, survey_part
from raysft.data.store.shards import shard_path
from raysft.data.text.backend import BackendJson
from raysft.data.text.tokenizer import template_for
from raysft.recipe.schema import Recipe


def looked(recipe: Recipe, tokenizers: Any, work: Path, *, range_bytes: int = 1 << 20, answers: Any = "one") -> Facts:
    plan = SurveyPlan(
        BackendJson.of(tokenizers["chatml"]),
        template_for(recipe.data.template, tokenizers["chatml"]),
        recipe.data,
        recipe.seed,
        frozenset(["gender"]),
        survey_module._comparing(recipe.data.rules),
        str(work),
        answers,
    )
    tasks = plan_reads(expand(recipe.data.sources), range_bytes)
    return merge_facts([survey_part(index, task, plan) for index, task in enumerate(tasks)])


def test_the_facts_of_a_file(make, tokenizers, tmp_path) -> None:
    recipe = make(RECORDS, max_tokens=64)
    facts = looked(recipe, tokenizers, tmp_path)
    assert (facts["records"], facts["conversations"], facts["kept"]) == (12, 10, 10)
    assert facts["refused"] == {"empty_answer": 1, "unknown_format": 1}
    assert facts["formats"] == {"alpaca": 11, "unknown": 1}
    assert facts["found"]["language.en"] == 7
    assert facts["found"]["language.zh"] == 3
    assert facts["found"]["pii.email"] == 2
    assert facts["findings"] == {}
    assert facts["columns"]["gender"] == {"f": 6, "m": 4}
    assert facts["attributes"]["gender"]["f"]["answer_chars"] == 6 * len(ENGLISH)
    lengths = []
    for record in RECORDS[:10]:
        messages = [
            {"role": "user", "content": record["instruction"]},
            {"role": "assistant", "content": record["output"]},
        ]
        text = tokenizers["chatml"].apply_chat_template(messages, tokenize=False)
        lengths.append(len(tokenizers["chatml"](text, add_special_tokens=False).input_ids))
    assert facts["tokens"] == sum(lengths)
    assert facts["lengths"] == {str(length): lengths.count(length) for length in set(lengths)}
    assert facts["over_long"] == sum(length > 64 for length in lengths) > 0
    keys = pa.ipc.open_file(shard_path(str(tmp_path), 0)).read_all()
    assert len(keys) == 10


def test_the_tokens_of_a_pair_are_those_of_both_answers(make, tokenizers, tmp_path) -> None:
    records = [{"prompt": f"q {i}", "chosen": "yes " * (i + 1), "rejected": "no"} for i in range(5)]
    facts = looked(make([*records, RECORDS[0]], max_tokens=64), tokenizers, tmp_path, answers="pair")
    lengths = []
    for record in records:
        of_both = 0
        for answer in (record["chosen"], record["rejected"]):
            talk = [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": answer}]
            text = tokenizers["chatml"].apply_chat_template(talk, tokenize=False)
            of_both += len(tokenizers["chatml"](text, add_special_tokens=False).input_ids)
        lengths.append(of_both)
    assert (facts["kept"], facts["tokens"], facts["refused"]) == (5, sum(lengths), {"no_pair": 1})


def test_pieces_of_a_file_add_up_to_the_whole(make, tokenizers, tmp_path) -> None:
    recipe = make(RECORDS)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    one = looked(recipe, tokenizers, whole)
    many = looked(recipe, tokenizers, parts, range_bytes=300)
    assert len(list(parts.glob("*.arrow"))) > 2
    for facts in (one, many):
        for sums in facts["components"].values():
            sums["sum"] = round(sums["sum"], 9)
        for group in facts["attributes"]["gender"].values():
            group["quality"] = round(group["quality"], 9)
    assert json.dumps(one, sort_keys=True) == json.dumps(many, sort_keys=True)


def test_the_recipes_rules_decide_what_is_kept_and_the_data_is_described_as_it_was_found(
    make, tokenizers, tmp_path
) -> None:
    rules = [{"rule": "language", "action": "drop", "keep": ["en"]}, {"rule": "pii"}, {"rule": "noise"}]
    facts = looked(make(RECORDS, rules=rules), tokenizers, tmp_path)
    assert facts["kept"] == 7, "no copy of the augmentation"
    assert facts["refused"]["language:zh"] == 3
    assert facts["found"]["language.zh"] == 3
    assert facts["found"]["pii.email"] == facts["findings"]["pii.email"] == 2
    group = facts["attributes"]["gender"]["m"]
    assert (group["records"], group["kept"]) == (4, 1)
