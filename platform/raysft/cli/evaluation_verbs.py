"""What `raysft evaluate human` does: one function of its room, and lines."""

from __future__ import annotations

import argparse

from raysft.cli.verbs import call, say
from raysft.errors import UserError


def human(options: argparse.Namespace) -> None:
    """Make or find a study; then tell, write or serve it."""
    command = "human.command"
    answers = dict(options.answers)
    if len(answers) < len(options.answers):
        raise UserError(
            "a system is named twice",
            got=", ".join(name for name, _ in options.answers),
            expected="each system once",
            fix="--answers before=a.jsonl --answers after=b.jsonl",
        )
    criteria = tuple(filter(None, options.criteria.split(",")))
    asked = call(f"{command}:asked")(
        answers,
        tuple(filter(None, options.raters.split(","))),
        mode=options.mode,
        gold=options.gold,
        criteria=criteria,
        seed=options.seed,
        most=options.items,
    )
    store = call(f"{command}:open_study")(options.study, asked)
    if options.results or options.csv or options.preferences:
        say(call(f"{command}:tell")(store, options.csv, options.preferences))
    else:
        call(f"{command}:serve")(store, options.host, options.port, options.language)
