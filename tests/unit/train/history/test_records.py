"""Metrics and ledger: a replayed step counts once, in the attempt whose update is in the model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from fakes import step_info

from raysft import storage
from raysft.objectives.reduce import Reduced
from raysft.train.commits.layout import CommitId, attempt_path
from raysft.train.commits.lineage import lineage_ranges
from raysft.train.history.paths import RunPaths
from raysft.train.history.records import MEMORY, Records, StartFacts, evaluated_sets, read_ledger, read_metrics
from raysft.train.state import TrainState


def begin(run: str, number: int, parent: CommitId | None) -> None:
    record = {"number": number, "parent": {"attempt": parent.attempt, "step": parent.step} if parent else None}
    storage.write_json(attempt_path(run, number), record)


def take(run: str, attempt: int, steps: range, *, ranks: int = 2) -> None:
    """Steps of an attempt; rank r of attempt a consumes sample 1000 a + 10 step + r."""
    for rank in range(ranks):
        records = Records(run, attempt, rank)
        for step in steps:
            records.step(
                step_info(
                    step,
                    state=TrainState(step=step, tokens=100 * step),
                    loss=float(attempt),
                    step_s=0.5,
                    tokens=100,
                    sample_ids=(1000 * attempt + 10 * step + rank,),
                )
            )
        records.flush()


TWO = Reduced(2.0, {"nll": 2.0}, {}, {"nll": 1.0}, 1.0)


def test_one_attempt_is_read_as_written(tmp_path: Path) -> None:
    run = str(tmp_path)
    begin(run, 1, None)
    Records(run, 1, 0).evaluation(0, {"held_out": TWO})
    take(run, 1, range(1, 4))
    lines = read_metrics(run)
    assert [(line["kind"], line["step"]) for line in lines] == [("eval", 0), ("step", 1), ("step", 2), ("step", 3)]
    assert lines[0]["perplexity"] == pytest.approx(7.389056)
    assert (lines[1]["tokens_per_s"], lines[1]["total_tokens"]) == (200.0, 100)
    assert read_ledger(run) == {step: [1000 + 10 * step, 1001 + 10 * step] for step in (1, 2, 3)}


def test_a_step_tells_its_speed_and_where_its_time_went(tmp_path: Path) -> None:
    run = str(tmp_path)
    begin(run, 1, None)
    begin(run, 2, CommitId(1, 1))
    take(run, 1, range(1, 3), ranks=1)
    records = Records(run, 2, 0)
    records.start(StartFacts(step=1, micro_batch_rows=2, probe_s=1.5, peak_flops=8e9, peak_basis="data sheet"))
    costs = {"step_s": 0.5, "data_wait_s": 0.1, "forward_backward_s": 0.3, "peak_bytes": 2**20, "flops": 1e9}
    records.step(step_info(2, **costs, tokens=100, target_tokens=40.0))
    first, start, line = read_metrics(run)
    assert (first["mfu"], first["tokens_per_s"]) == (None, 200.0)  # nobody said what the peak is
    assert (start["kind"], start["step"], start["micro_batch_rows"], start["probe_s"]) == ("start", 1, 2, 1.5)
    assert (line["tokens_per_s"], line["target_tokens_per_s"]) == (200.0, 80.0)
    assert line["mfu"] == 0.25  # 1e9 FLOP in 0.5 s, of 8e9 a second
    assert line["data_wait_share"] == pytest.approx(0.2)
    assert line["data_wait_s"] + line["forward_backward_s"] + line["update_s"] == pytest.approx(0.5)
    assert line["peak_bytes"] == 2**20
    assert not {"reserved_bytes", "device_bytes"} & set(line), "there is no GPU"
    records.step(step_info(3, **costs, reserved_bytes=2**21, device_bytes=2**22))
    assert {name: value for name, value in read_metrics(run)[-1].items() if name in MEMORY} == {
        "peak_bytes": 2**20,
        "reserved_bytes": 2**21,
        "device_bytes": 2**22,
    }


def test_replayed_steps_count_once(tmp_path: Path) -> None:
    run = str(tmp_path)
    begin(run, 1, None)
    take(run, 1, range(1, 8))  # committed at 5, killed after 7
    begin(run, 2, CommitId(1, 5))
    take(run, 2, range(6, 11), ranks=3)
    assert lineage_ranges(run) == [(1, 0, 5), (2, 5, None)]
    assert [(line["step"], line["loss"]) for line in read_metrics(run)] == [
        *((step, 1.0) for step in range(1, 6)),
        *((step, 2.0) for step in range(6, 11)),
    ]
    ledger = read_ledger(run)
    assert list(ledger) == list(range(1, 11))
    assert ledger[5] == [1050, 1051]
    assert ledger[6] == [2060, 2061, 2062]


def test_an_attempt_outside_the_lineage_does_not_count(tmp_path: Path) -> None:
    run = str(tmp_path)
    begin(run, 1, None)
    take(run, 1, range(1, 5))
    begin(run, 2, CommitId(1, 4))
    take(run, 2, range(5, 7))
    begin(run, 3, CommitId(1, 2))  # the later checkpoints were torn
    take(run, 3, range(3, 6))
    assert lineage_ranges(run) == [(1, 0, 2), (3, 2, None)]
    assert [line["loss"] for line in read_metrics(run)] == [1.0, 1.0, 3.0, 3.0, 3.0]


def test_a_line_that_the_writer_died_in_is_left_out(tmp_path: Path) -> None:
    run = str(tmp_path)
    begin(run, 1, None)
    take(run, 1, range(1, 3))
    for path in tmp_path.rglob("*.jsonl"):
        with path.open("a") as stream:
            stream.write('{"kind": "step", "st')
    assert [line["step"] for line in read_metrics(run)] == [1, 2]
    assert list(read_ledger(run)) == [1, 2]


def test_a_run_that_never_began_has_no_records(tmp_path: Path) -> None:
    assert read_metrics(str(tmp_path)) == []
    assert read_ledger(str(tmp_path)) == {}


def test_an_evaluation_is_one_line_and_older_ones_are_of_the_held_out_data(tmp_path: Path) -> None:
    run = str(tmp_path)
    begin(run, 1, None)
    records = Records(run, 1, 0)
    pairs = Reduced(0.5, {"dpo": 0.5}, {"accuracy": 0.75}, {"dpo": 4.0}, 0.0)
    records.evaluation(0, {"held_out": TWO})
    records.evaluation(0, {"held_out": TWO, "dev": pairs})
    records.evaluation(0, {"dev": pairs})
    records.flush()
    alone, both, named = (line for line in read_metrics(run) if line["kind"] == "eval")
    assert "sets" not in alone
    assert {name: one["loss"] for name, one in evaluated_sets(both).items()} == {"held_out": 2.0, "dev": 0.5}
    assert (evaluated_sets(both)["dev"]["metrics"], both["perplexity"]) == ({"accuracy": 0.75}, alone["perplexity"])
    assert evaluated_sets(named).keys() == {"dev"}
    old = {"kind": "eval", "step": 0, "loss": 3.0, "perplexity": 20.0}
    assert evaluated_sets(old) == {"held_out": old}


def test_lines_that_no_writer_leaves_are_passed_over(tmp_path: Path) -> None:
    run = str(tmp_path)
    begin(run, 1, None)
    take(run, 1, range(1, 4), ranks=1)
    place = RunPaths(run).metrics(1)
    whole = [json.loads(line) for line in storage.read_lines(place)]
    last = {name: value for name, value in whole[-1].items() if name != "crc32"}
    odd: list[dict[str, Any]] = [{"step": 2}, {"step_s": 0.0}, {"grad_norm": None}, {"terms": None}]
    odd += [{"metrics": {"x": "<b>"}}, {"step": 5, "grad_norm": math.nan}]
    with open(place, "a") as stream:
        stream.writelines(json.dumps({**last, "step": 4, **change}) + "\n" for change in odd)
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 5]
