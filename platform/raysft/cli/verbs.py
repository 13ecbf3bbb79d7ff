"""What each verb does: load the recipe, call one function of the API, print what it returns. Nothing heavy before."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from raysft.api import verbs as api
from raysft.errors import RecipeError
from raysft.evaluate.sampling import Sampling
from raysft.observe.console import printable

logger = logging.getLogger(__name__)


def call(target: str) -> Any:
    """`module:function` of what is no verb of the API, imported now: `--help` must not wait for torch."""
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(f"raysft.{module}"), function)


def _load(options: argparse.Namespace) -> Any:
    """The recipe of a verb; verbs that are no verb of the API need the hub settled."""
    recipe = api.load(options.recipe, options.set)
    call("model.hub:settle_hub")(recipe)
    return recipe


def _check_image() -> None:
    """In a pod of a run, before it begins. Raises ClusterError where the image is not as the sender's machine."""
    if told := os.environ.get("RAYSFT_SENT_BY"):
        call("api.kubernetes:refuse_other_image")(told)


def train(options: argparse.Namespace) -> None:
    _check_image()
    recipe = api.load(options.recipe, options.set)
    result = api.train(recipe, profile_steps=options.profile)
    if result.was_finished:
        logger.info("the run %s is finished already (%d steps); nothing was changed", recipe.name, result.steps)
        if result.ended:
            logger.info("ended early  %s", result.ended)
    logger.info("run          %s", result.location)
    for export in result.exports:
        logger.info("export       %s", export)
    logger.info("report       %s", result.report)
    for trace in result.profiles:
        logger.info("profile      %s (open it in chrome://tracing or ui.perfetto.dev)", trace)


def check(options: argparse.Namespace) -> None:
    say(api.check(api.load(options.recipe, options.set)).lines)


def prepare(options: argparse.Namespace) -> None:
    _check_image()
    prepared = api.prepare(api.load(options.recipe, options.set))
    for store in prepared.stores:
        logger.info("store        %s", store.location or "none: data.mode is `stream`; of the first records:")
        for line in store.certificate:
            logger.info("             %s", line)


def plan(options: argparse.Namespace) -> None:
    if options.matrix:
        say(call("run.layout_choice:matrix")())
        return
    if options.recipe is None:
        raise RecipeError(
            "what is to be planned?", got="no recipe", expected="a recipe, or --matrix", fix="raysft plan recipe.yaml"
        )
    found = api.plan(api.load(options.recipe, options.set), options.cluster)
    say([json.dumps(found.to_json(), indent=1)] if options.json else found.lines())


def manifest(options: argparse.Namespace) -> None:
    verb: Any = options.job if options.job in ("tune", "doctor") else "train"
    found = api.manifest(api.load(options.recipe, options.set), options.on, options.model, verb=verb)
    sys.stdout.write((found.only(options.job) if options.job else found).yaml)


def doctor(options: argparse.Namespace) -> int:
    recipe = api.load(options.recipe, options.set) if options.recipe else None
    found = call("doctor.examination:examine")(recipe, options.storage)
    say([json.dumps(found.to_json(), indent=1)] if options.json else found.lines())
    return 0 if found.is_well else 1


def preview(options: argparse.Namespace) -> None:
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    seen = api.preview(api.load(options.recipe, options.set), options.num, packed=options.packed, raw=options.raw)
    rich = importlib.import_module("rich.console").Console(soft_wrap=True, highlight=False)
    rich.print(seen.colored if color else importlib.import_module("rich.text").Text(seen.text))
    seen.check()


def data_report(options: argparse.Namespace) -> None:
    recipe = api.load(options.recipe, options.set)
    report = api.data_report(recipe, attributes=options.attribute, out=options.out)
    if options.json:
        sys.stdout.write(printable(json.dumps(report.survey, indent=1, ensure_ascii=False)) + "\n")
    else:
        bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        sys.stdout.writelines(
            f"\033[1m{line}\033[0m\n" if bold and not line.startswith(" ") else f"{line}\n"
            for line in map(printable, report.lines)
        )
    logger.info("page         %s", report.page)
    logger.info("numbers      %s", report.numbers)


def data_log(options: argparse.Namespace) -> None:
    recipe = _load(options)
    say(call("run.data_steps:log")(recipe))


def data_diff(options: argparse.Namespace) -> None:
    recipe = _load(options)
    say(call("run.data_steps:diff")(recipe, options.first, options.second))


def data_rollback(options: argparse.Namespace) -> None:
    recipe = _load(options)
    say(call("run.data_steps:roll_back")(recipe, options.number))


def say(lines: Sequence[str]) -> None:
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)


def evaluate(options: argparse.Namespace) -> None:
    evaluation = api.evaluate(api.load(options.recipe, options.set), options.model)
    sys.stdout.write(printable(json.dumps(evaluation.record, indent=1, ensure_ascii=False)) + "\n")


def _how(options: argparse.Namespace) -> Sampling:
    told = vars(options)
    return Sampling(**{n: told[n] for n in ("max_new_tokens", "temperature", "top_k", "top_p", "seed")})


def generate(options: argparse.Namespace) -> None:
    found = api.generate(
        options.model,
        options.questions,
        options.out,
        how=_how(options),
        system=options.system,
        raw=options.raw,
        batch_size=options.batch_size,
    )
    logger.info("answers      %s", found)


def chat(options: argparse.Namespace) -> None:
    opened = [("model", call("run.open_model:open_model")(options.model))]
    if options.compare == "base":
        opened.append(("base", call("run.open_model:open_base")(options.model)))
    elif options.compare:
        opened.append(("other", call("run.open_model:open_model")(options.compare)))
    how = _how(options)
    call("cli.chat:Chat")(opened, how, options.system).run()


def report(options: argparse.Namespace) -> None:
    say(call("run.steps:report")(options.recipe, options.set))


def compare(options: argparse.Namespace) -> None:
    found = api.compare(options.runs, options.out)
    say(found.lines())
    if found.page is not None:
        logger.info("page         %s", found.page)


def ui(options: argparse.Namespace) -> None:
    view = call("run.live:live_view")(options.storage)
    call("cli.ui:serve")(view, options.host, options.port)


def export(options: argparse.Namespace) -> None:
    recipe = _load(options)
    for location in call("run.steps:export")(recipe):
        sys.stdout.write(location + "\n")


def tune(options: argparse.Namespace) -> None:
    _check_image()
    *words, options.recipe = options.recipe
    if words not in ([], ["report"]):
        raise RecipeError(
            "one recipe at a time", got=f"also {words[0]}", expected="tune [report] RECIPE", fix="see -h"
        )
    recipe = api.load(options.recipe, options.set)
    say((api.study(recipe) if words else api.tune(recipe)).lines())


def schema(options: argparse.Namespace) -> None:
    schema = call("recipe.json_schema:recipe_schema")()
    sys.stdout.write(json.dumps(schema, indent=1) + "\n")


def train_tokenizer(options: argparse.Namespace) -> None:
    tokenizer = call("data.text.tokenizer:train_tokenizer")(
        options.files,
        columns=call("data.text.tokenizer:parse_columns")(options.column),
        format=options.format,
        vocab_size=options.vocab_size,
        template=options.template,
        out=options.out,
        overwrite=options.overwrite,
    )
    logger.info("tokenizer    %s (%s tokens)", options.out, f"{len(tokenizer):,}")
