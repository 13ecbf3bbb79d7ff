"""A study and its ratings in a database: a file of SQLite, or PostgreSQL by its URL. Owns who may write what.

    study      what is rated, and the secret that tokens are made from; written once
    raters     who rates, and the seat: the window that a rater writes from, the newest one that was opened
    ratings    one row for each rater and item; rating again replaces it

Every save is one transaction: raters that save at once cannot lose each other's ratings, and a kill loses only what
was not answered yet.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from raysft.errors import ConflictError, StorageError, UserError, redacted
from raysft.human.study import Study

psycopg: Any = import_module("psycopg") if find_spec("psycopg") else None
"""PostgreSQL's client, of the extra `human`; None: not installed, and SQLite needs nothing."""

WAIT_S = 20.0
"""Longest wait for another writer, or for a server that does not answer."""

_TABLES = (
    "CREATE TABLE IF NOT EXISTS study "
    "(one INTEGER PRIMARY KEY CHECK (one = 1), content TEXT NOT NULL, secret TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS raters (name TEXT PRIMARY KEY, seat TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ratings (rater TEXT NOT NULL, item INTEGER NOT NULL, value TEXT NOT NULL, "
    "seconds DOUBLE PRECISION NOT NULL, at DOUBLE PRECISION NOT NULL, PRIMARY KEY (rater, item))",
)


_OWN = {"study", "raters", "ratings"}


class SeatTakenError(Exception):
    """The rater's page was opened in another window since."""


@dataclass(frozen=True)
class Rating:
    """What one rater said of one item."""

    rater: str
    item: int
    value: Any
    """A verdict, or {criterion: score} (study.py)."""
    seconds: float
    """From when the item was shown."""
    at: float
    """Unix time."""


class Store:
    """The database of one study. Safe to use from several threads and processes."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._is_server = location.startswith(("postgresql://", "postgres://"))
        if "://" in location and not self._is_server:
            raise UserError(
                "a study lies in a file of this machine, or in PostgreSQL",
                got=redacted(location),
                expected="a path, or postgresql://USER@HOST/DATABASE",
                fix="name one of these; `--csv` and `--preferences` write what can be copied elsewhere",
            )
        if self._is_server and psycopg is None:
            raise UserError(
                "a study in PostgreSQL is reached with a package that is not installed",
                got="no module psycopg",
                expected="the extra `human`",
                fix="pip install 'raysft[human]', or name a file for SQLite",
            )

    def create(self, study: Study, raters: Sequence[str]) -> None:
        """Write a study, or find it; raters who are new are added. Raises ConflictError: another study is there."""
        if not self._is_server:
            self._make_file()
        content = json.dumps(study.to_json(), ensure_ascii=False, sort_keys=True)
        with self._transaction() as run:
            if not self._is_server:
                self._check_own(run)
            for table in _TABLES:
                run(table)
            run(
                "INSERT INTO study VALUES (1, ?, ?) ON CONFLICT (one) DO NOTHING",
                (content, secrets.token_hex(32)),
            )
            ((there,),) = run("SELECT content FROM study")
            if there != content:
                raise ConflictError(
                    f"{self.name} holds another study",
                    got="other answers, gold items, mode, criteria, number of items or seed",
                    expected="the same, to go on with it; or a new place",
                    fix="name another file, or leave --answers out to go on with the study that is there",
                )
            for name in raters:
                run("INSERT INTO raters VALUES (?, '') ON CONFLICT (name) DO NOTHING", (name,))

    def _check_own(self, run: Run) -> None:
        """Nothing is made in another program's file. Raises ConflictError."""
        tables = {name for (name,) in run("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and not tables >= _OWN:
            raise ConflictError(
                f"{self.name} is another program's database",
                got=f"tables {', '.join(sorted(tables)[:6])}",
                expected="a study, or a new file",
                fix="name another file",
            )

    def _make_file(self) -> None:
        """An empty one, which others may not read: whoever does can rate in any rater's name."""
        try:
            Path(self._location).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.close(os.open(self._location, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise StorageError(
                f"cannot make the study {self.name}",
                got=str(error),
                expected="a file that can be written",
                fix="name another",
            ) from error

    @property
    def name(self) -> str:
        """Where it is, without a password."""
        return "the database" if self._is_server else self._location

    def study(self) -> Study:
        """Raises UserError where there is none."""
        text = self._row("content")
        try:
            return Study.from_json(json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise self._damaged(f"what is rated cannot be read: {type(error).__name__}: {error}") from error

    def tokens(self) -> dict[str, str]:
        """{rater: what lets one in as that rater}."""
        key = bytes.fromhex(self._row("secret"))
        with self._transaction() as run:
            names = [str(name) for (name,) in run("SELECT name FROM raters ORDER BY name")]
        return {name: hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:32] for name in names}

    def sit(self, rater: str) -> str:
        """A new seat for a rater; what is saved from an older one is refused from now on."""
        seat = secrets.token_hex(8)
        with self._transaction() as run:
            run("UPDATE raters SET seat = ? WHERE name = ?", (seat, rater))
        return seat

    def save(self, rating: Rating, seat: str, *, may_replace: bool = True) -> Rating:
        """Write a rating, and say what stands there now: the older one, where it may not be replaced.

        Raises SeatTakenError where another window has been opened since.
        """
        then = "UPDATE SET value = excluded.value, seconds = excluded.seconds, at = excluded.at"
        with self._transaction() as run:
            if not seat or run("SELECT 1 FROM raters WHERE name = ? AND seat = ?", (rating.rater, seat)) == []:
                raise SeatTakenError
            run(
                "INSERT INTO ratings VALUES (?, ?, ?, ?, ?) ON CONFLICT (rater, item) DO "
                + (then if may_replace else "NOTHING"),
                (rating.rater, rating.item, json.dumps(rating.value), rating.seconds, rating.at),
            )
            rows = run("SELECT * FROM ratings WHERE rater = ? AND item = ?", (rating.rater, rating.item))
        return _rating(rows[0])

    def ratings(self, study: Study, rater: str = "") -> list[Rating]:
        """All of them, or one rater's, in order of items and raters. study: what is in here."""
        chosen = "WHERE rater = ? " if rater else ""
        with self._transaction() as run:
            rows = run(f"SELECT * FROM ratings {chosen}ORDER BY item, rater", (rater,) if rater else ())
        found = []
        for row in rows:
            try:
                found.append(_rating(row))
            except ValueError as error:
                raise self._damaged(f"the rating of item {row[1]} by {row[0]}: {error}") from error
            if not 0 <= found[-1].item < len(study.items) or not study.is_value(found[-1].value):
                raise self._damaged(f"{found[-1].value!r} of item {row[1]} by {row[0]}")
        return found

    def _damaged(self, got: str) -> StorageError:
        return StorageError(
            f"the study in {self.name} is damaged",
            got=got,
            expected="what its raters' page has written",
            fix="restore a copy of it, or remove that row with the database's own tools",
        )

    def _row(self, column: str) -> str:
        is_file = self._is_server or Path(self._location).is_file()
        rows: list[Any] = []
        try:
            if is_file:  # connecting would make one
                with self._transaction() as run:
                    rows = run(f"SELECT {column} FROM study")
        except StorageError as error:
            if "no such table" not in error.got and "does not exist" not in error.got:
                raise
        if not rows:
            raise UserError(
                f"there is no study in {self.name}",
                got="no table of a study" if is_file else "no such file",
                expected="a study that was made with --answers",
                fix="check the place, or begin one: --answers NAME=FILE --answers NAME=FILE --raters NAME,NAME",
            )
        return str(rows[0][0])

    @contextmanager
    def _transaction(self) -> Iterator[Run]:
        """Inside, statements run in one transaction, committed at the end. Raises StorageError."""
        broken = (sqlite3.Error,) if psycopg is None else (sqlite3.Error, psycopg.Error)
        try:
            if self._is_server:
                with psycopg.connect(self._location, connect_timeout=int(WAIT_S)) as connection:
                    yield lambda text, values=(): _all(connection.execute(text.replace("?", "%s"), values))
                return
            with closing(sqlite3.connect(self._location, timeout=WAIT_S, isolation_level=None)) as local:
                local.execute("BEGIN IMMEDIATE")
                try:
                    yield lambda text, values=(): local.execute(text, values).fetchall()
                except BaseException:
                    local.execute("ROLLBACK")
                    raise
                local.execute("COMMIT")
        except broken as error:
            raise StorageError(
                f"{self.name} cannot be read or written",
                got=str(error).strip(),
                expected="a database of a study",
                fix="check that it is there, may be written, and has room",
            ) from error


class Run(Protocol):
    """Runs a statement; `?` stands for a value. Returns its rows."""

    def __call__(self, text: str, values: Sequence[Any] = ()) -> list[Any]: ...


def _all(cursor: Any) -> list[Any]:
    return list(cursor.fetchall()) if cursor.description else []


def _rating(row: Sequence[Any]) -> Rating:
    rater, item, value, seconds, at = row
    return Rating(str(rater), int(item), json.loads(value), float(seconds), float(at))
