"""Findings on a terminal."""

from __future__ import annotations

from raysft.observe.findings import Finding, finding_lines


def test_a_finding_is_told_with_its_evidence_and_remedy() -> None:
    found = Finding("bad_batch", "a step", "9 after 2", "three times", "look", ("train.spike_factor=3",), (7, 9))
    assert finding_lines([found], {7: ["a.jsonl:3", "2 more"]}) == [
        "diagnosis",
        "  bad batch: a step",
        "    seen by    9 after 2",
        "    threshold  three times",
        "    advice     look",
        "               --set train.spike_factor=3",
        "    step 7: samples of a.jsonl:3, 2 more",
    ]
    assert finding_lines([], {}) == ["diagnosis    nothing was found"]
