"""What the survey counts of a file, against counts made by hand; what it compares with; what it refuses."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raysft.data.read.sources import expand, plan_reads
from raysft.data.report import survey as survey_module
from raysft.data.report.survey import survey
from raysft.data.report.survey_facts import Facts, merge_facts
from raysft.data.report.survey_task import SurveyPlan, survey_part
from raysft.data.rules import near_duplicates
from raysft.data.store.shards import shard_path
from raysft.data.text.backend import BackendJson
from raysft.data.text.tokenizer import template_for
from raysft.errors import DataError, UserError
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.model import ModelSection

ENGLISH = "The river runs slowly through the old town, and people walk along its banks in the evening."
CHINESE = "这条河缓缓流过古老的城镇，人们傍晚沿着河岸散步。"
RECORDS: list[Any] = [
    *({"instruction": f"Tell me about rivers, part {i}.", "output": ENGLISH, "gender": "f"} for i in range(6)),
    *(
        {"instruction": f"请介绍河流，第{i}部分。", "output": CHINESE, "gender": "m", "user": f"u{i}"}
        for i in range(3)
    ),
    {
        "instruction": "Whom do I ask?",
        "output": "Write to anna@example.org or ben@example.org about it.",
        "gender": "m",
    },
    {"instruction": "Nothing?", "output": ""},
    {"no": "format"},
]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory, tokenizers) -> str:
    folder = tmp_path_factory.mktemp("tok")
    tokenizers["chatml"].save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make(tmp_path: Path, tokenizer_folder: str):
    def recipe(records: list[Any], **data: Any) -> Recipe:
        lines = [json.dumps(record, ensure_ascii=False) if isinstance(record, dict) else record for record in records]
        (tmp_path / "a.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
        return Recipe(
            name="r",
            storage=str(tmp_path / "storage"),
            model=ModelSection(source="random", tokenizer=tokenizer_folder),
            data=DataSection.model_validate({"train": [str(tmp_path / "a.jsonl")], **data}),
        )

    return recipe


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


def test_comparing_rules_take_the_recipes_parameters_of_its_own(make) -> None:
    rules = [{"rule": "near_duplicates", "threshold": 0.5, "action": "drop"}, {"rule": "leakage"}]
    found = survey_module._comparing(make(RECORDS, rules=rules).data.rules)
    assert [rule.rule for rule in found] == ["exact_duplicates", "near_duplicates", "conflicts"]
    assert found[1].threshold == 0.5
    assert [rule.action for rule in found] == ["drop", "report", "report"], "exact ones are not counted as near ones"


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The survey's pieces in this process."""
    for module in (survey_module, near_duplicates):
        monkeypatch.setattr(module, "on_ray", lambda function, items: (function(item) for item in items))
    monkeypatch.setattr(
        near_duplicates, "tables_on_ray", lambda function, items, **how: chain.from_iterable(map(function, items))
    )


def test_a_survey_from_end_to_end(make, no_cluster, tmp_path) -> None:
    labelled = [
        {"text": f"{ENGLISH} {i}", "label": "yes" if i % 10 < (8 if i < 50 else 2) else "no", "race": "ab"[i < 50]}
        for i in range(100)
    ]
    repeated = [labelled[0]] * 3
    said: list[tuple[str, int, int]] = []
    found = survey(make([*labelled, *repeated]), progress=lambda *done: said.append(done))
    assert json.loads(json.dumps(found)), "JSON values only"
    assert found["duplicates"]["exact_duplicates"] == 3
    assert found["clusters"][0]["size"] >= 4
    assert found["clusters"][0]["first"].endswith("a.jsonl:1")
    (entry,) = found["bias"]
    assert entry["attribute"] == "race"
    assert all(d["marked"] for d in entry["disparity"])
    assert any("exact_duplicates" in line for line in found["advice"])
    assert said == [("survey", 1, 1)]
    assert list((tmp_path / "storage" / "datasets" / "r").iterdir()) == [], "nothing is left behind"


def test_refused_records_are_told_by_their_places(make, no_cluster) -> None:
    found = survey(make(RECORDS))
    places = {line["reason"]: line["first"] for line in found["refused"]}
    assert [place.rpartition(":")[2] for place in places["empty_answer"]] == ["11"]
    assert any("personal data" in line for line in found["advice"])
    assert "anna@" not in json.dumps(found)


def test_an_attribute_that_no_record_has(make, no_cluster) -> None:
    with pytest.raises(UserError, match="no record has the column 'genre'") as raised:
        survey(make(RECORDS), attributes=("genre",))
    assert "gender" in raised.value.got
    assert survey(make(RECORDS), attributes=("GENDER",))["bias"][0]["attribute"] == "gender"


def test_data_without_a_record(make, no_cluster) -> None:
    with pytest.raises(DataError, match="no record"):
        survey(make(["", "  "]))


def test_data_of_which_nothing_is_left(make, no_cluster) -> None:
    found = survey(make([{"no": "format"}, "broken"]))
    assert (found["records"], found["kept"]) == (2, 0)
