"""`raysft submit` and `raysft jobs` as a user types them: lines, exit codes, messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import api_server
from commands import assert_refused, raysft
from job_server import FakeServer, job_server

from raysft.submit import follow, rayjobs

RECIPE = (
    "name: my-run\nstorage: s3://bucket/x\nmodel: {source: Qwen/Qwen3-0.6B}\ndata: {train: s3://bucket/a.jsonl}\n"
)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeServer]:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with job_server() as server:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", server.address)
        yield server


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_run_is_followed_to_its_end_and_its_code(
    fake: FakeServer, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> None:
        while "my-run-1" not in fake.jobs:
            time.sleep(0.02)
        fake.jobs["my-run-1"].log = "error: no GPU\n"
        fake.jobs["my-run-1"].end("FAILED", 2)

    thread = threading.Thread(target=run)
    thread.start()
    ran = raysft(capsys, "submit", recipe, "--set", "train.max_steps=3")
    thread.join()
    assert ran.code == 2
    assert ran.out == "error: no GPU\n"
    assert ran.err.splitlines() == [
        "job          my-run-1",
        "my-run-1 has ended: FAILED, exit code 2",
    ]


def test_detached_and_taken_up_again(fake: FakeServer, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = raysft(capsys, "submit", recipe, "--detach")
    assert ran.code == 0
    assert f"raysft jobs attach my-run-1 --address {fake.address}" in ran.err
    assert_refused(raysft(capsys, "submit", recipe), "my-run-1 (PENDING)", "raysft jobs attach my-run-1")
    fake.jobs["my-run-1"].log = "step 1\n"
    assert raysft(capsys, "jobs", "logs", "my-run-1").out == "step 1\n"
    assert "my-run-1 has ended: STOPPED" in raysft(capsys, "jobs", "stop", "my-run-1").err
    ran = raysft(capsys, "jobs", "attach", "my-run-1")
    assert (ran.code, ran.out) == (75, "step 1\n")
    assert "submitted again it goes on from its last commit" in ran.err
    assert "my-run-1  STOPPED" in raysft(capsys, "jobs", "list").out


def test_ctrl_c_leaves_the_job_alone(
    fake: FakeServer, recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "LogStream", pressed)
    ran = raysft(capsys, "submit", recipe)
    assert ran.code == 130
    assert "detached; the job goes on" in ran.err
    assert "raysft jobs stop my-run-1" in ran.err
    assert fake.jobs["my-run-1"].status == "PENDING"


def test_a_dry_run_sends_nothing_and_shows_no_value(
    fake: FakeServer, recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    ran = raysft(capsys, "submit", recipe, "--env", "HF_TOKEN", "--dry-run", "--verb", "prepare")
    assert ran.code == 0
    assert "my-run-prepare-1" in ran.out
    assert "HF_TOKEN" in ran.out
    assert "hf_abc" not in ran.out + ran.err
    assert fake.jobs == {}
    assert fake.packages == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "storage=here"), "storage: here"),
        (("--env", "NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE, which is not set"),
        (("--address", "localhost:8265"), "http://"),
        (("--address", "http://127.0.0.1:9"), "does not answer"),
        (("--set", "train.max_step=3"), "max_step"),
    ],
)
def test_refusals(
    fake: FakeServer, recipe: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert_refused(raysft(capsys, "submit", recipe, *words), told)
    assert fake.jobs == {}


def test_without_an_address(
    fake: FakeServer, recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    assert_refused(raysft(capsys, "submit", recipe), "--address")
    assert_refused(raysft(capsys, "jobs", "list"), "RAY_API_SERVER_ADDRESS")


def test_a_job_that_nobody_has(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("logs", "stop", "attach"):
        assert_refused(raysft(capsys, "jobs", verb, "a-1"), "no such job")


CLUSTER = "image: raysft:1\nnamespace: runs\nprepare_cpus: 4\n"
SEARCH = "tune: {space: {seed: {distribution: int, low: 1, high: 4}}, metrics: train_loss, budget: {trials: 2}}\n"
CONFIG = (
    "{model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2,"
    " vocab_size: 300, max_position_embeddings: 256}"
)


@pytest.fixture
def on(tmp_path: Path, recipe: Path) -> tuple[Path, str, Path]:
    """recipe, --on, the cluster's file."""
    model = f"{{source: random, tokenizer: Qwen/Qwen3-0.6B, config: {CONFIG}}}"
    recipe.write_text(RECIPE.replace("{source: Qwen/Qwen3-0.6B}", model) + "train: {precision: fp32}\n")
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return recipe, "--on", tmp_path / "cluster.yaml"


def test_on_kubernetes_a_dry_run_is_the_manifest(
    on: tuple[Path, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    dry = raysft(capsys, "submit", *on, "--dry-run")
    assert dry.code == 0, dry.err
    assert dry.out == raysft(capsys, "manifest", *on).out
    assert dry.out.count("kind: RayJob") == 2
    assert [line.split(",")[0] for line in dry.err.splitlines() if line.startswith("reserved")] == [
        "reserved     prepare: pods 1",
        "reserved     train: pods 1",
    ]
    assert raysft(capsys, "submit", *on, "--dry-run", "--verb", "prepare").out.count("kind: RayJob") == 1
    doctor = raysft(capsys, "submit", *on, "--dry-run", "--verb", "doctor")
    assert doctor.out.count("kind: RayJob") == 1
    assert "entrypoint: raysft doctor /etc/raysft/recipe.yaml" in doctor.out
    assert raysft(capsys, "manifest", *on, "--job", "doctor").out == doctor.out
    with on[0].open("a") as recipe:
        recipe.write(SEARCH)
    tune = raysft(capsys, "submit", *on, "--dry-run", "--verb", "tune", "--set", "tune.study=postgresql://db/s")
    assert "entrypoint: raysft tune" in tune.out, tune.err
    assert raysft(capsys, "manifest", *on, "--job", "tune", "--set", "tune.study=postgresql://db/s").code == 0


def test_on_kubernetes_a_run_goes_to_its_end(
    on: tuple[Path, str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(rayjobs, "DEFAULT", rayjobs.Pace(poll_s=0.01))
    failed = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "failed with exit code 75, ..."}
    with api_server(tmp_path) as api:
        api.statuses = {
            "my-run-prepare": [{"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}],
            "my-run": [failed],
        }
        ran = raysft(capsys, "submit", *on)
        assert ran.code == 75, ran
        assert set(api.named("RayJob")) == {"my-run-prepare", "my-run"}
        assert "recipe.yaml" in api.named("ConfigMap")["my-run-recipe"]["data"]
        listed = raysft(capsys, "jobs", "list", *on[1:])
        assert [line.split()[0] for line in listed.out.splitlines()] == ["JOB", "my-run-prepare", "my-run"]
        assert raysft(capsys, "jobs", "attach", "my-run", *on[1:]).code == 75
        assert "are gone" in raysft(capsys, "jobs", "stop", "my-run", *on[1:]).err
        assert set(api.named("RayJob")) == {"my-run-prepare"}
    assert_refused(raysft(capsys, "submit", *on), "does not answer")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--env", "HF_TOKEN"), "name Secrets"),
        (("--verb", "tune"), "does not say what to search"),
        (("--insecure-http",), "--insecure-http means nothing with --on"),
        (("--set", "storage=here"), "cannot see paths"),
    ],
)
def test_on_kubernetes_what_means_nothing_is_refused(
    on: tuple[Path, str, Path], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert_refused(raysft(capsys, "submit", *on, *words), told)


def test_a_preparation_that_a_cluster_does_not_have(
    on: tuple[Path, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    on[2].write_text(CLUSTER.replace("4", "0"))
    assert_refused(raysft(capsys, "submit", *on, "--verb", "prepare"), "prepare_cpus")


def test_of_one_place_only(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = raysft(capsys, "submit", recipe, "--address", "http://a:8265", "--on", "cluster.yaml")
    assert ran.code == 2
    assert "not allowed with" in ran.err
