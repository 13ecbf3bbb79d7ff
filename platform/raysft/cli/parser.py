"""What `raysft` takes: verbs, their options, help and examples. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from raysft import __version__
from raysft.cli import evaluation_parser, job_verbs, verbs
from raysft.cli.examples import EXAMPLES, texts

Run = Callable[[argparse.Namespace], int | None]
"""What a verb does. Returns the exit code where it is another's; None: 0."""

FORMATS = (
    *("auto", "alpaca", "sharegpt", "messages", "unified"),
    *("preference", "critique", "labelled", "matched", "ranking", "text", "completion", "tested"),
)
"""As data.format in a recipe."""


def parser() -> argparse.ArgumentParser:
    """All verbs; `run` of what it parses is the function of the verb."""
    whole = argparse.ArgumentParser(prog="raysft", description="Fine-tune language models on Ray clusters.")
    whole.add_argument("--version", action="version", version=f"raysft {__version__}")
    commands = whole.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = _recipe_verb(commands, "train", "train, evaluate, export; resumes a run of the same name", verbs.train)
    train.add_argument(
        "--profile", type=_positive, default=0, metavar="N", help="trace N steps with torch's profiler (rank 0)"
    )
    _recipe_verb(commands, "check", "what is known of a run before its data are read, in seconds", verbs.check)
    _recipe_verb(commands, "prepare", "make the token store only", verbs.prepare)
    plan = _recipe_verb(
        commands, "plan", "which layouts fit a cluster, and how fast they would be", verbs.plan, nargs="?"
    )
    plan.add_argument("--cluster", metavar="8xH100-80G,...", help="nodes (default: CPU workers on this machine)")
    plan.add_argument("--matrix", action="store_true", help="which methods, precisions and layouts go together")
    plan.add_argument("--json", action="store_true", help="print all numbers, in bytes and seconds")
    manifest = _recipe_verb(commands, "manifest", "print a run's RayJobs for Kubernetes", verbs.manifest)
    manifest.add_argument(
        "--on", required=True, metavar="FILE", help="what the cluster has: see docs/guide/kubernetes.md"
    )
    manifest.add_argument(
        "--job", choices=["prepare", "train", "tune", "doctor"], help="one job; default: the first two"
    )
    manifest.add_argument(
        "--model", metavar="DIR", help="config.json of a model that only the cluster sees, for sizes"
    )
    _submit(commands)
    jobs = commands.add_parser("jobs", help="the jobs of a Ray cluster", **texts("jobs"))
    _job_actions(jobs.add_subparsers(dest="action", required=True, metavar="ACTION"))
    doctor = _recipe_verb(
        commands, "doctor", "what is wrong with the cluster; ends with 1 if anything is", verbs.doctor, nargs="?"
    )
    doctor.add_argument(
        "--storage", metavar="LOCATION", help="where nodes must be able to write (default: the recipe's)"
    )
    doctor.add_argument("--json", action="store_true", help="print verdicts, evidence and fixes as JSON")
    preview = _recipe_verb(commands, "preview", "show which tokens are trained, in colour", verbs.preview)
    preview.add_argument("--num", type=_positive, default=3, metavar="N", help="records to show (default 3)")
    preview.add_argument("--packed", action="store_true", help="show the rows that they are packed into")
    preview.add_argument("--raw", action="store_true", help="show a line for each token, with its id")
    evaluate = _recipe_verb(commands, "evaluate", "held-out loss, perplexity and greedy answers", verbs.evaluate)
    evaluate.add_argument("--model", metavar="DIR", help="an exported model; default: the run's own export")
    evaluation_parser.add_verbs(commands)
    _of_models(commands)
    _recipe_verb(commands, "export", "write the newest checkpoint of a run as a model", verbs.export)
    _of_runs(commands)
    _recipe_verb(
        commands, "tune", "search the fields in `tune:`; `tune report RECIPE` shows it", verbs.tune, nargs="+"
    )
    schema = _verb(commands, "schema", "print the JSON schema of a recipe", verbs.schema)
    schema.set_defaults(debug=False)
    tokenizer = commands.add_parser("tokenizer", help="make a tokenizer", **texts("tokenizer"))
    actions = tokenizer.add_subparsers(dest="action", required=True, metavar="ACTION")
    _tokenizer_train(actions)
    data = commands.add_parser("data", help="report on the data, and its versions", **texts("data"))
    _data_actions(data.add_subparsers(dest="action", required=True, metavar="ACTION"))
    return whole


def _verb(commands: Any, name: str, text: str, run: Run, of: str = "") -> argparse.ArgumentParser:
    """of: the verb before this one, as in `data report`."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, **texts(of + name))
    parser.add_argument("--debug", action="store_true", help="tracebacks and the workers' logs")
    parser.set_defaults(run=run)
    return parser


def _recipe_verb(
    commands: Any, name: str, text: str, run: Run, *, of: str = "", nargs: str | None = None
) -> argparse.ArgumentParser:
    parser = _verb(commands, name, text, run, of)
    parser.add_argument("recipe", nargs=nargs, help="a recipe file (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=v", help="override a field; may be repeated"
    )
    return parser


def _submit(commands: Any) -> None:
    submit = _recipe_verb(commands, "submit", "send a run to a cluster and follow it; resumes it", job_verbs.submit)
    _server(submit, on="a Kubernetes cluster, as `raysft manifest` takes it")
    verbs_there = ["train", "prepare", "tune", "doctor"]
    submit.add_argument("--verb", choices=verbs_there, default="train", help="what the job does; default: train")
    submit.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="pass this variable on; may be repeated"
    )
    submit.add_argument("--detach", action="store_true", help="do not follow the job")
    submit.add_argument("--dry-run", action="store_true", help="check, print what would be sent, send nothing")
    submit.add_argument("--model", metavar="DIR", help="with --on: as `raysft manifest` takes it")


def _job_actions(actions: Any) -> None:
    listed = _verb(actions, "list", "jobs with their status, and why one does not run", job_verbs.list_jobs, "jobs ")
    _server(listed, on="the RayJobs of a Kubernetes cluster, as `raysft manifest` takes it")
    for name, text, run in (
        ("logs", "what a job has printed", job_verbs.logs),
        ("stop", "let a job commit and end, and wait for it", job_verbs.stop),
        ("attach", "follow a job to its end; ends with its exit code", job_verbs.attach),
    ):
        parser = _verb(actions, name, text, run, "jobs ")
        parser.add_argument("job", metavar="ID", help="as `raysft jobs list` shows it")
        _server(parser, on="" if name == "logs" else "a RayJob of a Kubernetes cluster")


def _server(parser: argparse.ArgumentParser, on: str) -> None:
    """The options that name a cluster. on: what --on means; empty: there is none."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--address", metavar="URL", help="http://HOST:8265 of the Ray head (default: RAY_API_SERVER_ADDRESS)"
    )
    if on:
        where.add_argument("--on", metavar="FILE", help=on)
    parser.add_argument(
        "--insecure-http", action="store_true", help="send the token over plain http to another machine"
    )


def _of_models(commands: Any) -> None:
    generate = _model_verb(
        commands, "generate", "answer each question of a file into a file; resumes", verbs.generate
    )
    generate.add_argument("--in", required=True, dest="questions", metavar="FILE", help="questions: see the guide")
    generate.add_argument("--out", required=True, metavar="FILE", help="answers, a JSON line each")
    generate.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="answered at once (default 8)")
    generate.add_argument("--raw", action="store_true", help="`prompt` or `text` as it is, without a template")
    chat = _model_verb(commands, "chat", "talk with a model in the terminal", verbs.chat)
    chat.add_argument("--compare", metavar="MODEL", help="a second model; `base`: the run's untrained one")


def _of_runs(commands: Any) -> None:
    _recipe_verb(
        commands,
        "report",
        "where a run's time went, and what its incidents cost; takes its directory too",
        verbs.report,
    )
    compare = _verb(commands, "compare", "runs beside each other: recipes, curves, measures", verbs.compare)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory, or its recipe")
    compare.add_argument("--out", metavar="FILE.html", help="write a page, too")
    ui = _verb(commands, "ui", "a live page of the runs and sweeps in a storage path; read only", verbs.ui)
    ui.add_argument("storage", help="`storage` of the recipes")
    ui.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="beyond this machine: needs RAYSFT_UI_TOKEN"
    )
    ui.add_argument("--port", type=_whole, default=8400, metavar="N", help="default 8400; 0: any that is free")


def _model_verb(commands: Any, name: str, text: str, run: Run) -> argparse.ArgumentParser:
    """A verb of a model that answers."""
    parser = _verb(commands, name, text, run)
    parser.add_argument("model", help="a run's directory, its export, or any transformers directory")
    parser.add_argument("--system", default="", metavar="TEXT", help="system prompt")
    parser.add_argument(
        "--max-new-tokens", type=_positive, default=256, metavar="N", help="longest answer, in tokens (default 256)"
    )
    parser.add_argument(
        "--temperature",
        type=_number(0, 100),
        default=0.0,
        metavar="T",
        help="0: greedily (default); else tokens are drawn",
    )
    parser.add_argument(
        "--top-p", type=_number(1e-6, 1), default=1.0, metavar="P", help="draw among the likeliest with this share"
    )
    parser.add_argument(
        "--top-k", type=_whole, default=0, metavar="K", help="draw among the K likeliest (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default 0)")
    return parser


def _data_actions(actions: Any) -> None:
    report = _recipe_verb(
        actions, "report", "lengths, languages, duplicates, personal data, groups", verbs.data_report, of="data "
    )
    report.add_argument("--out", metavar="FILE.html", help="the page (default: in the recipe's storage)")
    report.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="NAME",
        help="protected column to compare; may be repeated",
    )
    report.add_argument("--json", action="store_true", help="print the numbers as JSON instead of the summary")
    _recipe_verb(actions, "log", "the versions that were prepared", verbs.data_log, of="data ")
    diff = _recipe_verb(actions, "diff", "what differs between two versions", verbs.data_diff, of="data ")
    diff.add_argument("first", type=_positive, metavar="A", help="number of a version")
    diff.add_argument("second", type=_positive, metavar="B", help="number of another")
    rollback = _recipe_verb(
        actions, "rollback", "use an older version until the data changes", verbs.data_rollback, of="data "
    )
    rollback.add_argument("number", type=_positive, metavar="N", help="number of the version")


def _tokenizer_train(actions: Any) -> None:
    parser = _verb(actions, "train", "train a byte-level BPE on the texts of records", verbs.train_tokenizer)
    parser.epilog = "example:\n" + EXAMPLES["tokenizer"]
    parser.add_argument("files", nargs="+", help="jsonl, json or parquet files")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the tokenizer")
    parser.add_argument("--overwrite", action="store_true", help="replace a tokenizer that is there")
    parser.add_argument("--vocab-size", type=_positive, default=16_000, metavar="N", help="tokens (default 16000)")
    parser.add_argument("--template", default="chatml", help="chat template to keep in it (default chatml)")
    parser.add_argument("--format", default="auto", choices=FORMATS, help="record format (default: detected)")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=FILE_NAME", help="column mapping")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 1 on")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 0 on")
    return int(text)


def _number(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from {least:g} to {most:g}")
        return number

    return read
