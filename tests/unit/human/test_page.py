"""The page in a real browser: two raters at once, by keyboard, interrupted and taken up again; agreement by hand.

RAYSFT_PICTURES: a directory for screenshots at 1280 and 390 pixels.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rated import answers_file, pair_study, write_lines

pytest.importorskip("uvicorn")
pytest.importorskip("websocket")
from browser import CHROMIUM, Tab, chromium

from raysft.human.command import Asked, open_study
from raysft.human.results import Agreement, results_of
from raysft.human.store import Store

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


@contextmanager
def served(location: Path, *options: str) -> Iterator[dict[str, str]]:
    """{rater: link} of the command while it runs."""
    command = [sys.executable, "-m", "raysft.cli", "evaluate", "human", str(location), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        links = [process.stdout.readline().split() for _ in range(2)]
        yield dict(links)  # type: ignore[arg-type]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def picture(tab: Tab, name: str) -> None:
    if folder := os.environ.get("RAYSFT_PICTURES"):
        for width, height in ((1280, 800), (390, 844)):
            tab.size(width, height)
            tab.look("document.body.offsetWidth")
            assert tab.look("document.documentElement.scrollWidth <= innerWidth"), (name, width)
            tab.picture(Path(folder) / f"{name}-{width}.png")
        tab.size(1280, 800)


def answer_next(tab: Tab, choose: Any, done: int) -> None:
    """Rates what is shown by a key, and waits until the next one is there. choose: (texts, prompt) -> key."""
    tab.wait(
        f"document.querySelector('#count').textContent.startsWith('{done} ') && !document.querySelector('.note')"
    )
    texts = tab.look("[...document.querySelectorAll('main .text')].map(e => e.textContent)")
    tab.press(choose(texts))
    if tab.look("document.querySelector('#phase').textContent") == "Training":
        tab.wait("document.querySelector('.note')")
        if done == 0:
            picture(tab, "training")
        tab.press("Enter")
    tab.wait(f"document.querySelector('#count').textContent.startsWith('{done + 1} ')")


def alice(texts: list[str]) -> str:
    """Always right of gold; else for what `after` says, wherever it stands."""
    wanted = "good" if "Gold" in texts[0] else "after"
    return "1" if texts[1].startswith(wanted) else "3"


def bob(texts: list[str]) -> str:
    """As alice, but questions 0 and 1 are ties to him, and 2 is both bad."""
    number = texts[0].split()[3] if "Gold" not in texts[0] else ""
    return {"0": "2", "1": "2", "2": "4"}.get(number) or alice(texts)


def test_two_raters_at_once(tmp_path: Path) -> None:
    pair_study(tmp_path)
    store = Store(str(tmp_path / "study.db"))
    with chromium(tmp_path / "profile") as browser:
        with served(tmp_path / "study.db") as links:
            tabs = {name: browser.tab() for name in links}
            for name, tab in tabs.items():
                tab.open(links[name])
                answer_next(tab, alice if name == "alice" else bob, 0)
            for done in range(1, 5):  # in turns; then the server ends in mid-way
                for name, tab in tabs.items():
                    answer_next(tab, alice if name == "alice" else bob, done)
            picture(tabs["alice"], "pair")
        tabs["alice"].press("1")
        tabs["alice"].wait("document.body.innerText.includes('could not be saved')")
        with served(tmp_path / "study.db") as links:
            for name, tab in tabs.items():
                tab.open(links[name])
                for done in range(5, 10):
                    answer_next(tab, alice if name == "alice" else bob, done)
                tab.wait("document.body.innerText.includes('All done')")
            picture(tabs["bob"], "done")
            second = browser.window(tabs["alice"].context)  # type: ignore[attr-defined]
            second.open(links["alice"])
            second.wait("document.body.innerText.includes('All done')")
            tabs["alice"].press("ArrowLeft")
            tabs["alice"].wait("document.querySelector('.chosen')")
            tabs["alice"].press("2")
            tabs["alice"].wait("document.body.innerText.includes('another window')")
            picture(tabs["alice"], "seat")
            second.look("document.querySelector('#language').click()")
            second.wait("document.body.innerText.includes('全部完成')")
            messages = [line for tab in (*tabs.values(), second) for line in tab.console]
    assert [line for line in messages if "Failed to load" not in line and "ERR_" not in line] == []
    found = results_of(store.study(), store.tokens(), store.ratings(store.study()))
    assert [(r.rated, r.gold_right, r.training_right) for r in found.raters] == [(10, 2, 2), (10, 2, 2)]
    # alice: after, six times. bob: two ties, one both bad, three times after. Verdict `after` is `second`.
    assert found.verdicts["before", "after"] == {"first": 0, "second": 9, "tie": 2, "both_bad": 1}
    assert found.wins["before", "after"].value == pytest.approx(1.5 / 12)
    # 3 of 6 alike; alice says only `second`, so chance agrees as often as bob says it: 3 of 6. kappa 0.
    assert found.kappas["alice", "bob", "verdict"] == Agreement(pytest.approx(0.0), 3, 6)
    # n = 12, n_c = 9, 2, 1: disagreeing pairs 6; sum of n_c n_k = 144 - (81 + 4 + 1) = 58
    assert found.alphas["verdict"] == pytest.approx(1 - 11 * 6 / 58)


@pytest.mark.full
def test_scores_in_chinese(tmp_path: Path) -> None:
    question = "请用一句话说明第 {} 条：为什么天空是蓝色的？"
    answers = {"a": answers_file(tmp_path / "a.jsonl", ["因为瑞利散射。"] * 2, question=question)}
    gold = {"prompt": "一加一等于几？", "answer": "三", "scores": {"accuracy": 1}, "why": "一加一等于二。"}
    asked = Asked(answers, ("甲", "乙"), mode="scale", gold=write_lines(tmp_path / "g.jsonl", [gold]))
    store = open_study(str(tmp_path / "study.db"), asked)
    with chromium(tmp_path / "profile") as browser, served(tmp_path / "study.db", "--language", "zh") as links:
        tab = browser.tab()
        tab.open(links["甲"])
        for done in range(3):
            tab.wait(f"document.querySelector('#count').textContent.startsWith('{done} ')")
            tab.press("Enter")  # not whole yet: nothing is saved
            for score in "31454" if done == 0 else "55443":
                tab.press(score)
            if done == 1:
                picture(tab, "scale")
            tab.press("Enter")
            if done == 0:
                tab.wait("document.querySelector('.note.right')")
                tab.press("Enter")
        tab.wait("document.body.innerText.includes('全部完成')")
        assert tab.console == []
    scores = [list(one.value.values()) for one in store.ratings(store.study(), "甲")]
    assert scores == [[3, 1, 4, 5, 4], [5, 5, 4, 4, 3], [5, 5, 4, 4, 3]]
