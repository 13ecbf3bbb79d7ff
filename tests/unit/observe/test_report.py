"""The report page: everything told, everything escaped, nothing fetched; scales and ticks of its charts."""

from __future__ import annotations

import math
import re
from typing import Any

from html_page import Page

from raysft.observe.findings import Finding
from raysft.observe.goodput import SIGNS, IncidentRow, TimeFacts
from raysft.observe.report import AttemptFacts, ReportFacts, render_report
from raysft.recipe.forgetting import forgotten

EVIL = "<script>alert('x')</script>&\""


def step_line(step: int, **fields: Any) -> dict[str, Any]:
    line = {"kind": "step", "step": step, "loss": 3.0 / step, "grad_norm": 1.0 / step, "learning_rate": 1e-3}
    line |= {"tokens_per_s": 1000.0 + step, "step_s": 0.1, "data_wait_s": 0.0, "skipped": False}
    return line | {"total_tokens": 100 * step} | fields


def evaluation(num_prompts: int, **values: float) -> dict[str, Any]:
    metrics = {name: {"value": value, "count": 9, "low": None, "high": None} for name, value in values.items()}
    return {"metrics": metrics, "num_prompts": num_prompts, "of_pairs": False, "samples": []}


def make_facts(**fields: Any) -> ReportFacts:
    metrics = [{"kind": "eval", "step": 0, "loss": 5.0, "perplexity": 148.4}]
    metrics += [step_line(step) for step in range(1, 41)]
    metrics += [{"kind": "eval", "step": 40, "loss": 0.5, "perplexity": 1.65}]
    sample = {"prompt": "Reverse: abc", "reference": "cba"}
    before = evaluation(loss=5.0, perplexity=148.4, exact_match=0.0, num_prompts=7)
    after = evaluation(loss=0.5, perplexity=1.6487, exact_match=0.9125, num_prompts=7)
    values: dict[str, Any] = {
        "run": "my-run",
        "status": "finished",
        "ended_at": "2026-01-02 03:04 UTC",
        "wall_s": 187.3,
        "arithmetic": ["global step  8 rows x 64 tokens"],
        "metrics": metrics,
        "before": {"held_out": {**before, "samples": [{**sample, "answer": "zzz"}]}},
        "after": {"held_out": {**after, "samples": [{**sample, "answer": "cba"}]}},
        "certificate": ["refused 3 (malformed_json 2)"],
        "attempts": [AttemptFacts(1, 0, 17, "SIGKILL"), AttemptFacts(2, 10, 40, "finished")],
        "recipe_yaml": "name: my-run\n",
        "fingerprints": {"data": "d1", "mathematics": "m2", "execution": "e3"},
        "versions": {"raysft": "9.8.7"},
    }
    return ReportFacts(**(values | fields))


def test_the_page_tells_everything() -> None:
    page = Page(render_report(make_facts()))
    assert page.open == []
    for text in (
        "my-run",
        "finished",
        "3 min 07 s",
        "global step 8 rows x 64 tokens",
        "5.0000",
        "0.5000",
        "1.6487",
        "91.2%",
        "Reverse: abc",
        "zzz",
        "refused 3 (malformed_json 2)",
        "SIGKILL",
        "name: my-run",
        "d1",
        "m2",
        "e3",
        "9.8.7",
        "4,000 tokens",
        "1 of 7 held-out prompts",
    ):
        assert text in page.text, text


def test_the_page_tells_what_the_hardware_did() -> None:
    costs = {
        "data_wait_s": 0.001,
        "forward_backward_s": 0.08,
        "update_s": 0.019,
        "mfu": 0.417,
        "peak_bytes": 3 * 2**30,
        "reserved_bytes": 4 * 2**30,
        "device_bytes": 5 * 2**30,
    }
    start = {"kind": "start", "step": 0, "micro_batch_rows": 2, "probe_s": 1.0, "peak_basis": "data sheet of H100"}
    page = Page(render_report(make_facts(metrics=[start, *(step_line(step, **costs) for step in range(1, 9))])))
    for text in (
        "41.7%",
        "of the data sheet of H100",
        "3.00 GiB",
        "4.00 GiB",
        "5.00 GiB",
        "80% passes, 19% update, 1.0% waiting for data",
    ):
        assert text in page.text, text
    assert "utilisation" not in Page(render_report(make_facts())).text
    of_cpu = [
        step_line(step, **{name: costs[name] for name in costs if "_bytes" not in name}) for step in range(1, 9)
    ]
    assert "fullest GPU" not in Page(render_report(make_facts(metrics=of_cpu))).text


def test_nothing_is_fetched_and_no_script_runs() -> None:
    html = render_report(make_facts())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {"src", "href", "xlink:href"} & {name for name, _ in page.attributes}
    assert not re.search(r"https?://|@import|url\(", html)


def test_everything_is_escaped() -> None:
    sample = {"prompt": EVIL, "reference": EVIL, "answer": EVIL}
    evaluated = {EVIL: {**evaluation(1, loss=1.0, perplexity=2.7, exact_match=0.5), "samples": [sample]}}
    html = render_report(
        make_facts(
            run=EVIL,
            status=EVIL,
            ended_at=EVIL,
            arithmetic=[EVIL],
            before=evaluated,
            after=evaluated,
            certificate=[EVIL],
            attempts=[AttemptFacts(1, 0, 1, EVIL)],
            recipe_yaml=EVIL,
            fingerprints={EVIL: EVIL},
            versions={EVIL: EVIL},
        )
    )
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count("<script>alert('x')</script>&\"") >= 14


def test_a_run_that_measured_nothing_has_a_page_too() -> None:
    page = Page(render_report(make_facts(metrics=[], before=None, after=None, attempts=[], status="failed")))
    assert "Nothing was held out." in page.text
    assert page.text.count("no data") == 4


def test_losses_that_are_not_finite_do_not_break_the_page() -> None:
    lines = [step_line(1), step_line(2, loss=math.nan, grad_norm=math.inf), step_line(3)]
    html = render_report(make_facts(metrics=lines))
    assert "nan" not in html.split("<section>", 1)[1].lower().replace("tenant", "")
    assert not re.search(r"\binf\b", html)


def test_only_after_was_measured() -> None:
    page = Page(render_report(make_facts(before=None)))
    assert "0.5000" in page.text
    assert "before 5.0" not in page.text


def test_every_set_has_its_rows_and_curves() -> None:
    sets = {"dev": {"loss": 0.75, "terms": {"dpo": 0.75}, "metrics": {"accuracy": 0.5}, "perplexity": None}}
    lines = [{"kind": "eval", "step": at, "loss": None, "perplexity": None, "sets": sets} for at in (0, 8)]
    low_high = {"exact_match": {"value": 0.96, "count": 200, "low": 0.92309, "high": 0.97961}}
    after = {"held_out": evaluation(0, loss=0.5), "gsm8k": {**evaluation(200), "metrics": low_high}}
    page = Page(render_report(make_facts(metrics=lines, before=None, after=after)))
    for text in ("held-out loss, nats per target token", "gsm8k: exact match of greedy answers"):
        assert text in page.text, text
    for text in ("96.0% (92.3% to 98.0%)", "dev/loss", "dev/accuracy"):
        assert text in page.text, text
    assert "dev/dpo" not in page.text, "the only term is the loss"


def test_right_and_wrong_answers_are_marked() -> None:
    after = evaluation(2, exact_match=0.5)
    answers = [{"prompt": p, "reference": "r", "answer": a} for p, a in (("p1", " r\n"), ("p2", "x"))]
    html = render_report(make_facts(before=None, after={"dev": {**after, "samples": answers}}))
    assert html.count('class="text right"') == html.count('class="text wrong"') == 1


def time_facts(*incidents: IncidentRow, **seconds: float) -> TimeFacts:
    return TimeFacts(dict.fromkeys(SIGNS, 0.0) | seconds, {name: f"{name}, in words" for name in SIGNS}, incidents)


def test_the_page_shows_the_time_and_escapes_what_happened() -> None:
    row = IncidentRow(0.0, "worker", "<b>rank 1</b> died", 17, 1.26, 3, 2.5, None)
    html = render_report(make_facts(time=time_facts(row, compute=75.0, recovery=25.0)))
    page = Page(html)
    assert page.open == []
    for text in ("Where the time went", "75.0%", "25.0 s", "recovery, in words", "<b>rank 1</b> died", "1.3 s"):
        assert text in page.text, text
    assert html.count('<rect class="time ') == 2
    assert "None." in Page(render_report(make_facts(time=time_facts(compute=1.0)))).text
    for without in (None, time_facts()):
        assert "Where the time went" not in Page(render_report(make_facts(time=without))).text


def test_the_diagnosis_is_told_with_evidence_and_remedy() -> None:
    found = Finding("bad_batch", EVIL, "9 after 2", "three times", "look", ("train.spike_factor=3",), (7,))
    page = Page(render_report(make_facts(findings=[found], places={7: [EVIL]})))
    for text in ("bad batch", "9 after 2", "three times", "--set train.spike_factor=3", "step 7"):
        assert text in page.text, text
    assert "script" not in page.tags
    assert "found nothing to say" in Page(render_report(make_facts())).text


def test_changes_and_how_they_were_measured_are_told() -> None:
    before, after = (evaluation(9, exact_match=value, bleu=30.0) for value in (0.25, 0.5))
    after["metrics"]["bleu"]["how"] = "nrefs:1|tok:zh"
    change = {"difference": 0.25, "low": 0.1, "high": 0.4, "p": 0.0005, "count": 9}
    html = render_report(
        make_facts(before={"dev": before}, after={"dev": {**after, "changes": {"exact_match": change}}})
    )
    page = Page(html)
    for text in ("+25.0% (+10.0% to +40.0%), p < 0.001", "dev: BLEU: nrefs:1|tok:zh", "paired randomisation"):
        assert text in page.text, text
    assert "paired randomisation" not in Page(render_report(make_facts())).text


def test_what_is_forgotten_is_told_of_guarded_sets() -> None:
    before, after = (evaluation(9, loss=value) for value in (2.0, 2.5))
    rows = forgotten(["general"], {"general": before}, {"general": after})
    page = Page(render_report(make_facts(forgotten=rows)))
    assert "general: loss 2.0000 2.5000 +0.5000 -" in page.text
    assert "Forgetting" not in Page(render_report(make_facts())).text


def test_benchmarks_of_the_harness_are_told_with_their_errors_and_limits() -> None:
    task = {"metrics": {"exact_match,strict": {"value": 0.4312, "stderr": 0.0101}}, "samples": 50, "limit": 50}
    task |= {"version": 3.0, "num_fewshot": 5, "hash": "h"}
    record = {"harness": "0.4.13", "model": "m", "name": "the model", "tasks": {"gsm8k": task}}
    page = Page(render_report(make_facts(benchmarks=record)))
    for text in ("gsm8k", "exact_match by strict", "0.4312 ± 0.0101", "50 (the first 50)", "0.4.13, of the model"):
        assert text in page.text, text
    assert "lm-evaluation-harness" not in Page(render_report(make_facts())).text
