"""What `raysft evaluate human` and `raysft evaluate judge` do: one function of their rooms, and lines."""

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
    of = call("judge.command:endpoint")(options.url, options.model, options.per_minute)
    judged = call("judge.command:judge")
    say(judged(asked, of, options.out, parallel=max(1, options.parallel), prices=tuple(options.price)))


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
        tuple(filter(None, raters.split(","))),
        mode=options.mode,
        gold=options.gold,
        criteria=tuple(filter(None, options.criteria.split(","))),
        seed=options.seed,
        most=options.items,
    )
