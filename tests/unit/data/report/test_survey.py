"""What the survey counts of a file, against counts made by hand; what it compares with; what it refuses."""

from __future__ import annotations

import json
from itertools import chain

import pytest
from surveyed import ENGLISH, RECORDS

from raysft.data.report import survey as survey_module
from raysft.data.report.survey import survey
from raysft.data.rules import near_duplicates
from raysft.errors import DataError, UserError


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
