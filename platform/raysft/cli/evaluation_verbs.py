"""What `raysft evaluate human`, `judge`, `fairness` and `harness` do: one function of their rooms, and lines."""

from __future__ import annotations

import argparse
from typing import Any

from raysft.cli.verbs import call, say
from raysft.errors import UserError


def human(options: argparse.Namespace) -> None:
    """Make or find a study; then tell, write or serve it."""
    store = call("human.command:open_study")(options.study, _asked(options, options.raters))
    if options.results or options.csv or options.preferences:
        say(call("human.command:tell")(store, options.csv, options.preferences))
    else:
        call("human.command:serve")(store, options.host, options.port, options.language)


def judge(options: argparse.Namespace) -> None:
    """Have answers judged; tell what that says and costs."""
    asked = _asked(options, "")
    call("human.command:check_systems")(asked)
    of = call("judge.command:endpoint")(
        options.url, options.model, options.per_minute, insecure_http=options.insecure_http
    )
    read = {"--gold": options.gold, **{f"--answers {name}": file for name, file in options.answers}}
    call("outputs:check_apart")({"FILE": options.out}, read)
    judged = call("judge.command:judge")
    say(judged(asked, of, options.out, parallel=max(1, options.parallel), prices=tuple(options.price)))


def fairness(options: argparse.Namespace) -> None:
    """Write exchanged questions, or compare answers."""
    room = "evaluate.fairness"
    if options.swap and (options.by or options.swapped or options.reference or options.encoder or options.terms):
        raise UserError(
            "exchanging terms makes questions, and compares nothing yet",
            got="--swap with --by, --swapped, --reference, --encoder or --terms",
            expected="--swap TERMS --out FILE alone",
            fix="write the questions, answer them (raysft generate), then compare both files of answers",
        )
    if bool(options.swap) != bool(options.out) or not (options.swap or options.by or options.swapped):
        raise UserError(
            "what is to be compared?",
            got="--swap without --out, or the reverse"
            if options.swap or options.out
            else "neither --by nor --swapped",
            expected="--by COLUMN, --swapped FILE, or --swap TERMS with --out FILE",
            fix="raysft evaluate fairness --help",
        )
    if options.swap:
        call("outputs:check_apart")({"--out": options.out}, {"FILE": options.file, "--swap": options.swap})
        terms = call("evaluate.exchange:read_terms")(options.swap)
        count, changed = call("evaluate.exchange:write_swapped")(options.file, terms, options.out)
        say([f"questions    {count} in {options.out}, {changed} of them with terms exchanged"])
        return
    names = _names(options.metrics)
    metrics = call(f"{room}:metrics_named")(names)
    scorers = call(f"{room}:scorers_named")(names, options.encoder, options.terms)
    answers = call(f"{room}:grouped_scored")(call(f"{room}:read_grouped")(options.file, options.reference), scorers)
    for column in dict.fromkeys(options.by):
        say(call(f"{room}:group_lines")(answers, column, metrics))
    if options.swapped:
        swapped = call(f"{room}:read_grouped")(options.swapped, options.reference)
        say(call("evaluate.exchange:swap_lines")(answers, swapped, metrics, scorers))


def harness(options: argparse.Namespace) -> None:
    """Tasks of lm-evaluation-harness on a model."""
    names = _names(options.tasks)
    if not names:
        raise UserError(
            "no task is named", got=repr(options.tasks), expected="NAME,NAME", fix="--tasks arc_easy,piqa"
        )
    asked = call("evaluate.harness:Asked")(names, options.include, options.limit, options.batch_size)
    say(call("run.harness:harness")(options.model, asked, options.out))


def _names(text: str) -> tuple[str, ...]:
    """`a, b,a` -> (a, b)."""
    return tuple(dict.fromkeys(filter(None, (name.strip() for name in text.split(",")))))


def _asked(options: argparse.Namespace, raters: str) -> Any:
    answers = dict(options.answers)
    if len(answers) < len(options.answers):
        raise UserError(
            "a system is named twice",
            got=", ".join(name for name, _ in options.answers),
            expected="each system once",
            fix="--answers before=a.jsonl --answers after=b.jsonl",
        )
    return call("human.command:asked")(
        answers,
        tuple(filter(None, (name.strip() for name in raters.split(",")))),
        mode=options.mode,
        gold=options.gold,
        criteria=_names(options.criteria),
        seed=options.seed,
        most=options.items,
    )
