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
from collections.abc import Callable, Sequence
from typing import Any

from raysft import __version__
from raysft.errors import RaysftError

logger = logging.getLogger(__name__)

EXAMPLES = {
    "train": "  raysft train jobs/recipes/gsm8k.yaml --set data.train=gsm8k_train.jsonl\n"
    "  RAY_ADDRESS=10.0.0.5:6379 raysft train recipe.yaml --set cluster.workers=8",
    "prepare": "  raysft prepare recipe.yaml --set data.max_tokens=2048",
    "preview": "  raysft preview recipe.yaml --num 3",
    "evaluate": "  raysft evaluate recipe.yaml\n  raysft evaluate recipe.yaml --model storage/runs/my-run/export",
    "export": "  raysft export recipe.yaml",
    "schema": "  raysft schema > recipe.schema.json",
    "tokenizer": "  raysft tokenizer train gsm8k_train.jsonl --out tokenizer --vocab-size 16000 \\\n"
    "      --column instruction=question --column output=answer",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; never a traceback unless --debug."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True
    )  # other libraries: warnings only
    logging.getLogger("raysft").setLevel(logging.DEBUG if options.debug else logging.INFO)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        options.run(options)
    except RaysftError as error:
        if options.debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
        return 130
    except Exception as error:  # process boundary: a bug or the stack below, told in one line
        if options.debug:
            raise
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n  fix: run again with --debug and report it\n")
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raysft", description="Fine-tune language models on Ray clusters.")
    parser.add_argument("--version", action="version", version=f"raysft {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _recipe_verb(verbs, "train", "train, evaluate, export; resumes a run of the same name", _train)
    _recipe_verb(verbs, "prepare", "make the token store only", _prepare)
    preview = _recipe_verb(verbs, "preview", "show which tokens are trained, in colour", _preview)
    preview.add_argument("--num", type=int, default=3, metavar="N", help="samples to show (default 3)")
    evaluate = _recipe_verb(verbs, "evaluate", "held-out loss, perplexity and greedy answers", _evaluate)
    evaluate.add_argument("--model", metavar="DIR", help="an exported model; default: the run's own export")
    _recipe_verb(verbs, "export", "write the newest checkpoint of a run as a model", _export)
    schema = _verb(verbs, "schema", "print the JSON schema of a recipe", _schema)
    schema.set_defaults(debug=False)
    tokenizer = verbs.add_parser("tokenizer", help="make a tokenizer", **_texts("tokenizer"))
    actions = tokenizer.add_subparsers(dest="action", required=True, metavar="ACTION")
    _tokenizer_train(actions)
    return parser


def _verb(verbs: Any, name: str, text: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, **_texts(name))
    parser.add_argument("--debug", action="store_true", help="tracebacks and the workers' logs")
    parser.set_defaults(run=run)
    return parser


def _recipe_verb(
    verbs: Any, name: str, text: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    parser = _verb(verbs, name, text, run)
    parser.add_argument("recipe", help="a recipe file (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=v", help="override a field; may be repeated"
    )
    return parser


def _tokenizer_train(actions: Any) -> None:
    parser = _verb(actions, "train", "train a byte-level BPE on the texts of records", _train_tokenizer)
    parser.epilog = "example:\n" + EXAMPLES["tokenizer"]
    parser.add_argument("files", nargs="+", help="jsonl, json or parquet files")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the tokenizer")
    parser.add_argument("--vocab-size", type=int, default=16_000, metavar="N", help="tokens (default 16000)")
    parser.add_argument("--template", default="chatml", help="chat template to keep in it (default chatml)")
    parser.add_argument("--format", default="auto", help="record format (default: detected)")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=FILE_NAME", help="column mapping")


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
    result = _call("orchestrate.run:run_training")(recipe)
    if result.was_finished:
        logger.info("the run %s is finished already (%d steps); nothing was changed", recipe.name, result.steps)
    logger.info("run          %s", result.run)
    for export in result.exports:
        logger.info("export       %s", export)
    logger.info("report       %s", result.report)


def _prepare(options: argparse.Namespace) -> None:
    _call("orchestrate.verbs:prepare_data")(_load(options))


def _preview(options: argparse.Namespace) -> None:
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    recipe = _call("recipe.load:with_absolute_paths")(_load(options))
    text = _call("data.inspect:preview")(recipe, options.num, color=color)
    importlib.import_module("rich.console").Console(soft_wrap=True, highlight=False).print(text)


def _evaluate(options: argparse.Namespace) -> None:
    evaluation = _call("orchestrate.verbs:evaluate")(_load(options), options.model)
    sys.stdout.write(json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n")


def _export(options: argparse.Namespace) -> None:
    for location in _call("orchestrate.verbs:export")(_load(options)):
        sys.stdout.write(location + "\n")


def _schema(options: argparse.Namespace) -> None:
    schema = _call("recipe.schema:Recipe").model_json_schema()
    sys.stdout.write(json.dumps(schema, indent=1) + "\n")


def _train_tokenizer(options: argparse.Namespace) -> None:
    columns = dict(column.partition("=")[::2] for column in options.column)
    tokenizer = _call("data.tokenizer:train_tokenizer")(
        options.files,
        columns=columns,
        format=options.format,
        vocab_size=options.vocab_size,
        template=options.template,
        out=options.out,
    )
    logger.info("tokenizer    %s (%s tokens)", options.out, f"{len(tokenizer):,}")


if __name__ == "__main__":
    sys.exit(main())
