"""What a task leaves on storage: samples, refused records, a summary."""

from __future__ import annotations

import json
from pathlib import Path

from raysft.data.prepare.write_shards import write_shard
from raysft.data.read.sources import expand, plan_reads
from raysft.data.store.shards import (
    merge_summaries,
    read_shard,
    read_summaries,
    rejects_path,
    shard_path,
)


def test_a_shard_holds_all_of_it_and_its_summary_counts(make_stage, tmp_path):
    path = tmp_path / "a.jsonl"
    good = [json.dumps({"instruction": f"q{i}", "output": f"a{i}"}) for i in range(600)]
    path.write_text("\n".join([*good[:300], "broken", *good[300:], '{"x": 1}']))
    stage = make_stage(path, held_out=0.2)
    (task,) = plan_reads(expand([str(path)]))
    work = str(tmp_path / "work")
    assert read_summaries(work) == {}
    summary = write_shard(work, 3, task, stage)
    assert list(read_summaries(work)) == [3]
    total = merge_summaries([summary, read_summaries(work)[3]])
    assert total["samples"] == 2 * summary["samples"] == 1200
    assert total["sides"]["train"]["refused"] == {"malformed_json": 2, "unknown_format": 2}
    assert total["sides"]["train"]["records"] + total["sides"]["eval"]["records"] == 2 * 602
    assert total["sources"]["a"]["train"]["refused"] == 4
    lines = [json.loads(line) for line in Path(rejects_path(shard_path(work, 3))).read_text().splitlines()]
    assert [(line["reason"], line["record"]) for line in lines] == [
        ("malformed_json", None),
        ("unknown_format", {"x": 1}),
    ]
    table = read_shard(shard_path(work, 3), ["sample_id", "num_tokens", "held_out"])
    assert len(table) == 600
    assert 60 < sum(table.column("held_out").to_pylist()) < 180
