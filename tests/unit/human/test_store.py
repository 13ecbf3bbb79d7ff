"""What is kept: by SQLite, and by PostgreSQL where one can be started. Saves at once, seats, another study."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from rated import pair_study

from raysft.errors import ConflictError, StorageError, UserError
from raysft.human.store import Rating, SeatTakenError, Store

SERVER = shutil.which("postgres") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres")), "")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a server on a socket of its own."""
    pytest.importorskip("psycopg")
    if not SERVER:
        pytest.skip("no PostgreSQL on this machine")
    programs = Path(SERVER).resolve().parent
    folder = Path(tempfile.mkdtemp())
    as_user: dict[str, object] = {"cwd": "/"}
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        as_user["user"] = "nobody"
    made = subprocess.run(
        [str(programs / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "rater", "-N"],
        capture_output=True,
        text=True,
        **as_user,  # type: ignore[call-overload]
    )
    if made.returncode:
        pytest.skip(f"initdb: {made.stderr[-200:]}")
    options = ["-D", str(folder / "data"), "-k", str(folder), "-c", "listen_addresses="]
    server = subprocess.Popen([str(programs / "postgres"), *options], stderr=subprocess.DEVNULL, **as_user)  # type: ignore[call-overload]
    try:
        url = f"postgresql://rater@/postgres?host={folder}"
        for _ in range(100):
            ready = subprocess.run([str(programs / "pg_isready"), "-h", str(folder)], capture_output=True)
            if ready.returncode == 0:
                break
            threading.Event().wait(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    local = pair_study(tmp_path)
    if request.param == "sqlite":
        return local
    server = Store(request.getfixturevalue("postgres"))
    server.create(local.study(), ["alice", "bob"])
    return server


def test_a_study_comes_back_with_its_ratings(store: Store) -> None:
    assert len(store.study().items) == 10
    tokens = store.tokens()
    assert set(tokens) == {"alice", "bob"}
    assert tokens == store.tokens()
    assert len({*tokens.values()}) == 2
    seat = store.sit("alice")
    rating = Rating("alice", 3, "first", 1.5, 100.0)
    assert store.save(rating, seat) == rating
    changed = replace(rating, value="tie", at=200.0)
    assert store.save(changed, seat) == changed
    assert store.save(replace(rating, value="both_bad"), seat, may_replace=False) == changed
    assert store.ratings(store.study(), "alice") == [changed]
    assert store.ratings(store.study(), "bob") == []


def test_only_the_newest_window_saves(store: Store) -> None:
    older = store.sit("bob")
    newer = store.sit("bob")
    rating = Rating("bob", 0, "tie", 1.0, 1.0)
    with pytest.raises(SeatTakenError):
        store.save(rating, older)
    for nobody in ("", "alice"):
        with pytest.raises(SeatTakenError):
            store.save(replace(rating, rater="alice"), nobody)
    assert store.ratings(store.study(), "bob") == []
    store.save(rating, newer)
    assert store.ratings(store.study(), "bob") == [rating]


def test_raters_who_save_at_once_lose_nothing(store: Store) -> None:
    seats = {name: store.sit(name) for name in ("alice", "bob")}

    def rate(name: str) -> None:
        for item in range(10):
            store.save(Rating(name, item, "first", 1.0, float(item)), seats[name])

    threads = [threading.Thread(target=rate, args=(name,)) for name in seats]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {(one.rater, one.item) for one in store.ratings(store.study())} == {
        (n, i) for n in seats for i in range(10)
    }


def test_another_study_in_the_same_place_is_refused(store: Store, tmp_path: Path) -> None:
    study = store.study()
    store.create(study, ["carol"])
    assert set(store.tokens()) == {"alice", "bob", "carol"}
    with pytest.raises(ConflictError, match="another study"):
        store.create(replace(study, seed=8), [])


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    pair_study(tmp_path)
    assert stat.S_IMODE((tmp_path / "study.db").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("place", "kind", "words"),
    [
        ("s3://bucket/study", UserError, "a file of this machine"),
        ("mysql://me:secret@host/study", UserError, "a file of this machine"),
        ("/dev/null/study.db", StorageError, "cannot make the study"),
        ("/proc/none/study.db", StorageError, "cannot make the study"),
    ],
)
def test_a_place_where_none_can_lie_is_told(tmp_path: Path, place: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        Store(place).create(pair_study(tmp_path).study(), ["al"])
    assert "secret" not in str(caught.value)
    assert not Path("s3:").exists()


def test_what_is_no_study_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study"):
        Store(str(tmp_path / "nothing.db")).study()
    assert not (tmp_path / "nothing.db").exists()
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at as one" * 20)
    with pytest.raises(StorageError, match="cannot be read or written"):
        Store(str(tmp_path / "text.db")).study()


def test_a_server_that_is_not_there_is_told_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StorageError) as told:
        Store(f"postgresql://me:hunter2@/x?host={tmp_path}").study()
    assert "hunter2" not in str(told.value)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE studies (study_id INTEGER)")
    before = file.read_bytes()
    study = pair_study(tmp_path).study()
    with pytest.raises(ConflictError, match="another program's"):
        Store(str(file)).create(study, ["alice"])
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ratings SET value = '{half'",
        """UPDATE ratings SET value = '"banana"'""",
        "UPDATE ratings SET item = 999",
        "UPDATE study SET content = '{}'",
        """UPDATE study SET content = '{"a'""",
    ],
)
def test_a_damaged_study_is_told(tmp_path: Path, change: str) -> None:
    store = pair_study(tmp_path)
    store.save(Rating("alice", 5, "first", 1.0, 1e9), store.sit("alice"))
    with closing(sqlite3.connect(tmp_path / "study.db")) as direct:
        direct.execute(change)
        direct.commit()
    with pytest.raises(StorageError, match="is damaged"):
        store.ratings(store.study())
