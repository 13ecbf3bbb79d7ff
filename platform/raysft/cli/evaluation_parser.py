"""The options of `raysft evaluate human`, `judge`, `fairness` and `harness`. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import Any

from raysft.cli import evaluation_verbs
from raysft.cli.examples import texts

TWO_WORDS = ("evaluate human", "evaluate judge", "evaluate fairness", "evaluate harness")
"""Verbs of two words whose first is a verb, too."""


def joined(arguments: list[str]) -> list[str]:
    """`evaluate human ...` with its two words as one, as the parser knows it."""
    both = " ".join(arguments[:2])
    return [both, *arguments[2:]] if both in TWO_WORDS else arguments


def add_verbs(commands: Any) -> None:
    """All of them."""
    for add in (human, judge, fairness, harness):
        add(commands)


def human(commands: Any) -> None:
    """`raysft evaluate human`."""
    parser = commands.add_parser(
        "evaluate human",
        help="people rate answers, blind, on a page of their own; results, agreement, exports",
        description="People rate answers on a page. Each rater has a link; what is rated is kept in STUDY.",
        **texts("evaluate human"),
    )
    parser.set_defaults(run=evaluation_verbs.human)
    parser.add_argument("--debug", action="store_true", help="tracebacks")
    parser.add_argument("study", help="a file (SQLite), or postgresql://USER@HOST/DATABASE")
    _items(parser)
    parser.add_argument("--raters", default="", metavar="NAME,NAME", help="who rates; later ones are added")
    parser.add_argument("--language", choices=["en", "zh"], default="en", help="the page begins in it (default en)")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1: this machine alone"
    )
    parser.add_argument("--port", type=_whole, default=8500, metavar="N", help="default 8500; 0: any that is free")
    parser.add_argument("--results", action="store_true", help="print the results, serve nothing")
    parser.add_argument("--csv", metavar="FILE", help="write all ratings as a table, serve nothing")
    parser.add_argument("--preferences", metavar="FILE", help="write pairs for `dpo`, serve nothing")


def judge(commands: Any) -> None:
    """`raysft evaluate judge`."""
    parser = commands.add_parser(
        "evaluate judge",
        help="a language model rates answers: pairs in both orders, or 1 to 5; cached, its cost counted",
        description="A model behind an OpenAI-compatible address rates answers. Its key: RAYSFT_JUDGE_KEY.",
        **texts("evaluate judge"),
    )
    parser.set_defaults(run=evaluation_verbs.judge)
    parser.add_argument("--debug", action="store_true", help="tracebacks")
    parser.add_argument("out", metavar="FILE", help="its replies, a JSON line each; the same command goes on")
    parser.add_argument("--url", required=True, help="the server's address, up to /v1")
    parser.add_argument("--model", required=True, metavar="NAME", help="the judge, as the server calls it")
    _items(parser)
    parser.add_argument(
        "--insecure-http", action="store_true", help="send the key over plain http to another machine"
    )
    parser.add_argument("--parallel", type=_whole, default=4, metavar="N", help="requests at a time (default 4)")
    parser.add_argument("--per-minute", type=_whole, default=0, metavar="N", help="most requests (default: no limit)")
    parser.add_argument(
        "--price", type=_price, nargs=2, default=(0.0, 0.0), metavar=("IN", "OUT"), help="of a million tokens"
    )


def fairness(commands: Any) -> None:
    """`raysft evaluate fairness`."""
    parser = commands.add_parser(
        "evaluate fairness",
        help="gaps of metrics and labels between groups; answers when terms are exchanged",
        description="Compares answers by the groups of a column, and by questions with terms exchanged.",
        **texts("evaluate fairness"),
    )
    parser.set_defaults(run=evaluation_verbs.fairness)
    parser.add_argument("--debug", action="store_true", help="tracebacks")
    parser.add_argument("file", help="answers, as `raysft generate` writes them; with --swap: questions")
    parser.add_argument("--by", action="append", default=[], metavar="COLUMN", help="groups; may be repeated")
    parser.add_argument(
        "--metrics", default="exact_match,refusals", metavar="NAME,NAME", help="default: exact_match,refusals"
    )
    parser.add_argument("--reference", default="", metavar="COLUMN", help="what was to be said (default: found)")
    parser.add_argument(
        "--terms", action="append", default=[], metavar="FILE", help="words of the metric `toxicity`; may be repeated"
    )
    parser.add_argument("--encoder", default="", metavar="DIRECTORY", help="of the metric `bertscore`")
    parser.add_argument("--swapped", metavar="FILE", help="answers to the same questions with terms exchanged")
    parser.add_argument("--swap", metavar="TERMS", help="write the questions with these pairs of terms exchanged")
    parser.add_argument("--out", metavar="FILE", help="with --swap: where to")


def harness(commands: Any) -> None:
    """`raysft evaluate harness`."""
    parser = commands.add_parser(
        "evaluate harness",
        help="tasks of lm-evaluation-harness on a run's model or an export; kept in the run",
        description="Runs tasks of EleutherAI's lm-evaluation-harness (extra `harness`) in this process.",
        **texts("evaluate harness"),
    )
    parser.set_defaults(run=evaluation_verbs.harness)
    parser.add_argument("--debug", action="store_true", help="tracebacks")
    parser.add_argument("model", help="a run's directory, an export, or any transformers directory")
    parser.add_argument("--tasks", required=True, metavar="NAME,NAME", help="tasks, groups or tags of the harness")
    parser.add_argument("--include", metavar="DIR", help="task files of your own; their data may be local")
    parser.add_argument("--limit", type=_from_one, metavar="N", help="documents of each task (default: all)")
    parser.add_argument("--batch-size", type=_from_one, default=8, metavar="N", help="requests at once (default 8)")
    parser.add_argument("--out", metavar="FILE", help="write the results as JSON, too")


def _items(parser: argparse.ArgumentParser) -> None:
    """What is rated, by people or a model."""
    parser.add_argument(
        "--answers",
        action="append",
        default=[],
        type=_named,
        metavar="NAME=FILE",
        help="a system's answers, as `raysft generate` writes them; once for each system",
    )
    parser.add_argument(
        "--mode", choices=["pairwise", "scale"], default="pairwise", help="which is better (default), or 1 to 5"
    )
    parser.add_argument(
        "--criteria", default="", metavar="NAME,NAME", help="with --mode scale: what is rated (default: all five)"
    )
    parser.add_argument("--gold", metavar="FILE", help="items whose rating is known: see the guide")
    parser.add_argument("--items", type=_whole, default=0, metavar="N", help="draw so many at random (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of sides, order and draws (default 0)")


def _named(text: str) -> tuple[str, str]:
    name, _, file = text.partition("=")
    if not name or not file:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=FILE")
    return name, file


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 1 on")
    return int(text)


def _price(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e9:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 0 on")
    return found


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 0 on")
    return int(text)
