"""The page over HTTP: who gets in, what a browser is told and what not, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rated import pair_study

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient

from raysft.human.server import COOKIE, make_app
from raysft.human.store import Store


def entered(store: Store, rater: str = "alice") -> TestClient:
    client = TestClient(make_app(store))
    client.cookies.set(COOKIE, store.tokens()[rater])
    return client


def rate(client: TestClient, seat: str, item: int, value: object, **more: object) -> Any:
    return client.post("/api/ratings", json={"item": item, "value": value, "seat": seat, "seconds": 1.0, **more})


def test_a_link_lets_its_rater_in_and_nobody_else(tmp_path: Path) -> None:
    store = pair_study(tmp_path)
    client = TestClient(make_app(store), follow_redirects=False)
    for path in ("/", "/?token=wrong", "/api/task"):
        assert client.get(path).status_code == 401
    moved = client.get("/", params={"token": store.tokens()["alice"]})
    assert (moved.status_code, moved.headers["location"]) == (303, "/")
    assert "HttpOnly" in moved.headers["set-cookie"]
    assert "SameSite=strict" in moved.headers["set-cookie"]
    page = client.get("/")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/page/rate.js").status_code == 200
    for other in ("/page/../store.py", "/page/x", "/docs", "/openapi.json"):
        assert client.get(other).status_code == 404


def test_a_study_is_rated_to_its_end_blind(tmp_path: Path) -> None:
    store = pair_study(tmp_path)
    client = entered(store)
    seat, told = client.post("/api/seat").json()["seat"], []
    for count in range(10):
        answer = client.get("/api/task")
        task = answer.json()
        assert (task["done"], task["total"]) == (count, 10)
        for hidden in ('before"', 'after"', "gold", "systems"):
            assert hidden not in answer.text
        saved = rate(client, seat, task["item"]["number"], "left").json()
        told.append((task["item"]["is_training"], saved["feedback"]))
    assert [is_training for is_training, _ in told] == [True] * 2 + [False] * 8
    for is_training, feedback in told:
        assert (feedback is not None) == is_training
    first = told[0][1]
    assert first["why"] == "because of 0"
    assert first["right"] == (first["wanted"] == "left")
    task = client.get("/api/task").json()
    assert task["item"] is None
    assert client.get(f"/api/task?item={task['previous']}").json()["item"]["value"] == "left"


def test_what_was_said_can_be_changed_but_not_in_the_training(tmp_path: Path) -> None:
    store = pair_study(tmp_path)
    client = entered(store)
    seat = client.post("/api/seat").json()["seat"]
    for item, kept in ((0, "left"), (5, "right")):
        rate(client, seat, item, "left")
        rate(client, seat, item, "right")
        (found,) = [one for one in store.ratings(store.study(), "alice") if one.item == item]
        assert store.study().said_of("alice", item, found.value) == kept


def test_a_window_that_was_opened_before_is_told(tmp_path: Path) -> None:
    store = pair_study(tmp_path)
    one, other = entered(store), entered(store)
    older, newer = (client.post("/api/seat").json()["seat"] for client in (one, other))
    assert rate(one, older, 4, "left").status_code == 409
    assert rate(other, newer, 4, "left").status_code == 200
    assert len(store.ratings(store.study())) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"item": 99}, 404),
        ({"item": -1}, 404),
        ({"item": "x"}, 422),
        ({"value": "first"}, 422),
        ({"value": {"left": 1}}, 422),
        ({"seconds": -1}, 422),
        ({"seconds": "nan"}, 422),
        ({"seat": ""}, 409),
        ({"rater": "bob"}, 422),
    ],
)
def test_what_is_no_rating_is_refused(change: dict[str, object], status: int, tmp_path: Path) -> None:
    store = pair_study(tmp_path)
    client = entered(store)
    seat = client.post("/api/seat").json()["seat"]
    body = {"item": 4, "value": "left", "seat": seat, "seconds": 1.0} | change
    assert client.post("/api/ratings", content=json.dumps(body)).status_code in (status, 422)
    assert client.post("/api/ratings", json=body).status_code == status
    assert store.ratings(store.study()) == []


def test_a_body_without_end_is_refused(tmp_path: Path) -> None:
    client = entered(pair_study(tmp_path))
    assert client.post("/api/ratings", content=b"x" * 70_000).status_code == 413


def test_a_database_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    client = entered(pair_study(tmp_path))
    (tmp_path / "study.db").write_bytes(b"not a database any more, whatever happened to it" * 100)
    answer = client.get("/api/task")
    assert answer.status_code == 503
    assert "Traceback" not in answer.text
