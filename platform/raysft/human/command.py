"""`raysft evaluate human`: makes a study, serves it, tells and writes what it has come to."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

from raysft.errors import UserError
from raysft.human.export import to_csv, to_preferences
from raysft.human.results import result_lines, results_of
from raysft.human.store import Store
from raysft.human.study import CRITERIA, Mode, make_study
from raysft.outputs import check_apart, write_text

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[\w.-]{1,64}")


@dataclass(frozen=True)
class Asked:
    """What a study is made of."""

    answers: Mapping[str, str]
    """{system: file}."""
    raters: Sequence[str]
    mode: Mode = "pairwise"
    gold: str | None = None
    criteria: Sequence[str] = CRITERIA
    seed: int = 0
    most: int = 0


def asked(
    answers: Mapping[str, str],
    raters: Sequence[str],
    *,
    mode: Mode,
    gold: str | None,
    criteria: Sequence[str],
    seed: int,
    most: int,
) -> Asked:
    """What options ask for. criteria: empty for all of them. Raises UserError."""
    unknown = [name for name in criteria if name not in CRITERIA]
    if unknown or (criteria and mode == "pairwise"):
        raise UserError(
            "answers cannot be rated by this" if unknown else "pairs are not rated by criteria",
            got=", ".join(unknown or criteria),
            expected=f"some of {', '.join(CRITERIA)}, with --mode scale",
            fix="correct --criteria, or leave it out",
        )
    return Asked(answers, raters, mode, gold, tuple(dict.fromkeys(criteria)) or CRITERIA, seed, most)


def open_study(location: str, asked: Asked) -> Store:
    """The study at a place: made, where answers are named, or found. Raises UserError, DataError, ConflictError."""
    store = Store(location)
    if not asked.answers:
        found = store.study()
        _check_nothing_more(asked)
        store.create(found, _checked(asked.raters))
        return store
    check_systems(asked)
    study = make_study(
        asked.mode, asked.answers, gold=asked.gold, criteria=asked.criteria, seed=asked.seed, most=asked.most
    )
    store.create(study, _checked(asked.raters))
    return store


def _check_nothing_more(asked: Asked) -> None:
    """What is rated was decided when the study was made. Raises UserError."""
    usual = Asked({}, ())
    fields = {"mode": "--mode", "gold": "--gold", "criteria": "--criteria", "seed": "--seed", "most": "--items"}
    if said := [option for name, option in fields.items() if getattr(asked, name) != getattr(usual, name)]:
        raise UserError(
            "what is rated is decided when a study is made",
            got=f"{', '.join(said)} without --answers",
            expected="the study as it is; --raters may add people",
            fix="leave it out, or make a new study in another file: --answers NAME=FILE ...",
        )


def check_systems(asked: Asked) -> None:
    """Raises UserError where there are too few systems to rate."""
    least = 2 if asked.mode == "pairwise" else 1
    if len(asked.answers) < least:
        raise UserError(
            "pairs are of two systems" if asked.answers else "nobody's answers are named",
            got=f"answers of {', '.join(asked.answers) or 'nobody'}",
            expected="--answers twice or more" if least == 2 else "--answers once or more",
            fix="name another system's answers, or rate by --mode scale",
        )


def _checked(raters: Sequence[str]) -> Sequence[str]:
    wrong = [name for name in raters if not _NAME.fullmatch(name)]
    if wrong or len({*raters}) < len(raters):
        raise UserError(
            "raters need names of their own",
            got=repr(wrong[0]) if wrong else f"{', '.join(raters)}: one twice",
            expected="letters, digits, '.', '_' and '-', each name once",
            fix="--raters alice,bob",
        )
    return raters


def tell(store: Store, csv_to: str | None, preferences_to: str | None) -> list[str]:
    """What a study has come to, as lines; written to files where they are named. Raises StorageError."""
    study = store.study()
    ratings = store.ratings(study)
    lines = result_lines(study, results_of(study, store.tokens(), ratings))
    check_apart({"--csv": csv_to, "--preferences": preferences_to}, {"the study": store.name})
    if csv_to:
        write_text(csv_to, to_csv(study, ratings))
        lines.append(f"table        {len(ratings)} ratings in {csv_to}")
    if preferences_to:
        text = to_preferences(study, ratings)
        write_text(preferences_to, text)
        lines.append(f"preferences  {text.count(chr(10))} pairs in {preferences_to}")
    return lines


def serve(store: Store, host: str, port: int, language: str) -> None:
    """Serve the page until Ctrl-C. Raises UserError."""
    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise UserError(
                "the raters' page is served by packages that are not installed",
                got=f"no module {package}",
                expected="the extra `human`",
                fix="pip install 'raysft[human]'",
            )
    tokens = store.tokens()
    if not tokens:
        raise UserError("nobody may rate", got="no rater", expected="one at least", fix="--raters alice,bob")
    uvicorn = importlib.import_module("uvicorn")
    app = importlib.import_module("raysft.human.server").make_app(store, language)
    with _listening(host, port) as listener:
        at = listener.getsockname()[1]
        shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{at}/"
        for name, token in tokens.items():
            sys.stdout.write(f"{name:12} {address}?token={token}\n")
        sys.stdout.flush()
        logger.info("each rater's link is above; Ctrl-C ends the server, and the same command goes on")
        if not host.startswith("127.") and host not in ("localhost", "::1"):
            logger.info("plain http beyond this machine is for trusted networks; or put a proxy with TLS before it")
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=30)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
        logger.info("ended; the same command goes on")


def _listening(host: str, port: int) -> socket.socket:
    bare = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((bare, port))
    except OSError as error:
        listener.close()
        raise UserError(
            f"the raters' page cannot listen on {host}:{port}",
            got=str(error),
            expected="an address of this machine, and a port that is free",
            fix="choose another --port, or --port 0 for any",
        ) from error
    return listener
