"""`raysft <verb>`: parse, call one function, exit code. Imports nothing heavy before a verb needs it.

Exit codes: 0 done, 2 the user can mend it, 3 the platform failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from raysft import __version__
from raysft.errors import RaysftError, RecipeError
from raysft.observe.console import StderrHandler

logger = logging.getLogger(__name__)

EXAMPLES = {
    "train": "  raysft train jobs/recipes/gsm8k.yaml --set data.train=gsm8k_train.jsonl\n"
    "  RAY_ADDRESS=10.0.0.5:6379 raysft train recipe.yaml --set cluster.workers=8",
    "prepare": "  raysft prepare recipe.yaml --set data.max_tokens=2048",
    "plan": "  raysft plan recipe.yaml --cluster 8xH100-80G\n"
    "  raysft plan recipe.yaml --cluster 2x8xA100-80G --json\n"
    "  raysft plan --matrix",
    "preview": "  raysft preview recipe.yaml --num 3\n  raysft preview recipe.yaml --num 20 --packed",
    "data": "  raysft data report recipe.yaml\n  raysft data log recipe.yaml",
    "report": "  raysft report recipe.yaml\n  raysft data report recipe.yaml --out report.html\n"
    "  raysft data report recipe.yaml --attribute gender --attribute region",
    "log": "  raysft data log recipe.yaml",
    "diff": "  raysft data diff recipe.yaml 1 2",
    "rollback": "  raysft data rollback recipe.yaml 1",
    "evaluate": "  raysft evaluate recipe.yaml\n  raysft evaluate recipe.yaml --model storage/runs/my-run/export",
    "export": "  raysft export recipe.yaml",
    "tune": "  raysft tune recipe.yaml --set tune.budget.trials=32\n  raysft tune report recipe.yaml",
    "schema": "  raysft schema > recipe.schema.json",
    "tokenizer": "  raysft tokenizer train gsm8k_train.jsonl --out tokenizer --vocab-size 16000 \\\n"
    "      --column instruction=question --column output=answer",
}


FORMATS = (
    *("auto", "alpaca", "sharegpt", "messages", "unified"),
    *("preference", "critique", "labelled", "ranking", "text", "completion"),
)
"""As data.format in a recipe."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; never a traceback unless --debug."""
    options = _parser().parse_args(arguments)
    _quiet(options.debug)
    try:
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
        return 130
    except BrokenPipeError:  # `raysft schema | head`: whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # process boundary: everything becomes a message and an exit code
        if options.debug:
            traceback.print_exc()
        if isinstance(error, RaysftError):
            sys.stderr.write(f"error: {error}\n")
            return error.exit_code
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n  fix: run again with --debug and report it\n")
        return 3
    return 0


def _quiet(debug: bool) -> None:
    """Our own lines, and other libraries' warnings; with --debug all of it. Ray's loggers: orchestrate/cluster.py."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[StderrHandler()], force=True)
    logging.getLogger("raysft").setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:  # read by these libraries when they are imported, which is later
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # also transformers' "Loading weights"
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # the driver's own; workers are told theirs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raysft", description="Fine-tune language models on Ray clusters.")
    parser.add_argument("--version", action="version", version=f"raysft {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = _recipe_verb(verbs, "train", "train, evaluate, export; resumes a run of the same name", _train)
    train.add_argument(
        "--profile", type=_positive, default=0, metavar="N", help="trace N steps with torch's profiler (rank 0)"
    )
    _recipe_verb(verbs, "prepare", "make the token store only", _prepare)
    plan = _recipe_verb(verbs, "plan", "which layouts fit a cluster, and how fast they would be", _plan, nargs="?")
    plan.add_argument("--cluster", metavar="8xH100-80G,...", help="nodes (default: CPU workers on this machine)")
    plan.add_argument("--matrix", action="store_true", help="which methods, precisions and layouts go together")
    plan.add_argument("--json", action="store_true", help="print all numbers, in bytes and seconds")
    preview = _recipe_verb(verbs, "preview", "show which tokens are trained, in colour", _preview)
    preview.add_argument("--num", type=_positive, default=3, metavar="N", help="records to show (default 3)")
    preview.add_argument("--packed", action="store_true", help="show the rows that they are packed into")
    evaluate = _recipe_verb(verbs, "evaluate", "held-out loss, perplexity and greedy answers", _evaluate)
    evaluate.add_argument("--model", metavar="DIR", help="an exported model; default: the run's own export")
    _recipe_verb(verbs, "export", "write the newest checkpoint of a run as a model", _export)
    _recipe_verb(verbs, "report", "where a run's time went (or: its directory), and what incidents cost", _report)
    _recipe_verb(verbs, "tune", "search the fields in `tune:`; `tune report RECIPE` shows it", _tune, nargs="+")
    schema = _verb(verbs, "schema", "print the JSON schema of a recipe", _schema)
    schema.set_defaults(debug=False)
    tokenizer = verbs.add_parser("tokenizer", help="make a tokenizer", **_texts("tokenizer"))
    actions = tokenizer.add_subparsers(dest="action", required=True, metavar="ACTION")
    _tokenizer_train(actions)
    data = verbs.add_parser("data", help="report on the data, and its versions", **_texts("data"))
    _data_actions(data.add_subparsers(dest="action", required=True, metavar="ACTION"))
    return parser


def _verb(verbs: Any, name: str, text: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, **_texts(name))
    parser.add_argument("--debug", action="store_true", help="tracebacks and the workers' logs")
    parser.set_defaults(run=run)
    return parser


def _recipe_verb(
    verbs: Any, name: str, text: str, run: Callable[[argparse.Namespace], None], *, nargs: str | None = None
) -> argparse.ArgumentParser:
    parser = _verb(verbs, name, text, run)
    parser.add_argument("recipe", nargs=nargs, help="a recipe file (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=v", help="override a field; may be repeated"
    )
    return parser


def _data_actions(actions: Any) -> None:
    report = _recipe_verb(actions, "report", "lengths, languages, duplicates, personal data, groups", _data_report)
    report.add_argument("--out", metavar="FILE.html", help="the page (default: in the recipe's storage)")
    report.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="NAME",
        help="protected column to compare; may be repeated",
    )
    report.add_argument("--json", action="store_true", help="print the numbers as JSON instead of the summary")
    _recipe_verb(actions, "log", "the versions that were prepared", _data_log)
    diff = _recipe_verb(actions, "diff", "what differs between two versions", _data_diff)
    diff.add_argument("first", type=_positive, metavar="A", help="number of a version")
    diff.add_argument("second", type=_positive, metavar="B", help="number of another")
    rollback = _recipe_verb(actions, "rollback", "use an older version until the data changes", _data_rollback)
    rollback.add_argument("number", type=_positive, metavar="N", help="number of the version")


def _tokenizer_train(actions: Any) -> None:
    parser = _verb(actions, "train", "train a byte-level BPE on the texts of records", _train_tokenizer)
    parser.epilog = "example:\n" + EXAMPLES["tokenizer"]
    parser.add_argument("files", nargs="+", help="jsonl, json or parquet files")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the tokenizer")
    parser.add_argument("--vocab-size", type=_positive, default=16_000, metavar="N", help="tokens (default 16000)")
    parser.add_argument("--template", default="chatml", help="chat template to keep in it (default chatml)")
    parser.add_argument("--format", default="auto", choices=FORMATS, help="record format (default: detected)")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=FILE_NAME", help="column mapping")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 1 on")
    return int(text)


def _texts(name: str) -> dict[str, Any]:
    if name not in EXAMPLES:
        return {}
    return {
        "epilog": "example:\n" + EXAMPLES[name],
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _call(target: str) -> Any:
    """`module:function`, imported now: `raysft --help` must not wait for torch."""
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(f"raysft.{module}"), function)


def _load(options: argparse.Namespace) -> Any:
    return _call("recipe.load:load_recipe")(options.recipe, options.set)


def _train(options: argparse.Namespace) -> None:
    recipe = _load(options)
    result = _call("orchestrate.run:run_training")(recipe, profile_steps=options.profile)
    if result.was_finished:
        logger.info("the run %s is finished already (%d steps); nothing was changed", recipe.name, result.steps)
    logger.info("run          %s", result.run)
    for export in result.exports:
        logger.info("export       %s", export)
    logger.info("report       %s", result.report)
    for trace in result.profiles:
        logger.info("profile      %s (open it in chrome://tracing or ui.perfetto.dev)", trace)


def _prepare(options: argparse.Namespace) -> None:
    _call("orchestrate.verbs:prepare_data")(_load(options))


def _plan(options: argparse.Namespace) -> None:
    if options.matrix:
        _say(_call("orchestrate.plan:matrix")())
        return
    if options.recipe is None:
        raise RecipeError(
            "what is to be planned?", got="no recipe", expected="a recipe, or --matrix", fix="raysft plan recipe.yaml"
        )
    told = _call("orchestrate.plan:plan")(_load(options), options.cluster, as_json=options.json)
    _say([json.dumps(told, indent=1)] if options.json else told)


def _preview(options: argparse.Namespace) -> None:
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    recipe = _call("recipe.load:with_absolute_paths")(_load(options))
    text = _call("data.inspect:preview")(recipe, options.num, color=color, packed=options.packed)
    importlib.import_module("rich.console").Console(soft_wrap=True, highlight=False).print(text)


def _data_report(options: argparse.Namespace) -> None:
    report = _call("orchestrate.data_verbs:report")(
        _load(options), attributes=tuple(options.attribute), out=options.out
    )
    if options.json:
        sys.stdout.write(json.dumps(report.survey, indent=1, ensure_ascii=False) + "\n")
    else:
        bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        sys.stdout.writelines(
            f"\033[1m{line}\033[0m\n" if bold and not line.startswith(" ") else f"{line}\n" for line in report.lines
        )
    logger.info("page         %s", report.page)
    logger.info("numbers      %s", report.numbers)


def _data_log(options: argparse.Namespace) -> None:
    _say(_call("orchestrate.data_verbs:log")(_load(options)))


def _data_diff(options: argparse.Namespace) -> None:
    _say(_call("orchestrate.data_verbs:diff")(_load(options), options.first, options.second))


def _data_rollback(options: argparse.Namespace) -> None:
    _say(_call("orchestrate.data_verbs:roll_back")(_load(options), options.number))


def _say(lines: Sequence[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _evaluate(options: argparse.Namespace) -> None:
    evaluation = _call("orchestrate.verbs:evaluate")(_load(options), options.model)
    sys.stdout.write(json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n")


def _report(options: argparse.Namespace) -> None:
    _say(_call("orchestrate.verbs:report")(options.recipe, options.set))


def _export(options: argparse.Namespace) -> None:
    for location in _call("orchestrate.verbs:export")(_load(options)):
        sys.stdout.write(location + "\n")


def _tune(options: argparse.Namespace) -> None:
    *words, options.recipe = options.recipe
    if words not in ([], ["report"]):
        raise RecipeError(
            "one recipe at a time", got=f"also {words[0]}", expected="tune [report] RECIPE", fix="see -h"
        )
    _say(_call(f"orchestrate.search:{'report' if words else 'search'}")(_load(options)))


def _schema(options: argparse.Namespace) -> None:
    schema = _call("recipe.schema:Recipe").model_json_schema()
    sys.stdout.write(json.dumps(schema, indent=1) + "\n")


def _train_tokenizer(options: argparse.Namespace) -> None:
    tokenizer = _call("data.tokenizer:train_tokenizer")(
        options.files,
        columns=_call("data.tokenizer:parse_columns")(options.column),
        format=options.format,
        vocab_size=options.vocab_size,
        template=options.template,
        out=options.out,
    )
    logger.info("tokenizer    %s (%s tokens)", options.out, f"{len(tokenizer):,}")


if __name__ == "__main__":
    sys.exit(main())
