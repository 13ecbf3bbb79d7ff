"""What is sent of a run, under which id, and what is refused before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raysft.errors import ConflictError, RecipeError, UserError
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.recipe.secrets import holds_secret
from raysft.runtime.job_client import Job
from raysft.submit.parcel import RUN, STORAGE, check_recipe, job_request, named_variables, next_id


def on_the_cluster(**fields: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "my-run",
        "storage": "s3://bucket/raysft",
        "model": {"source": "Qwen/Qwen3-0.6B"},
        "data": {"train": ["/shared/train.jsonl"], "eval": ["hf://datasets/a/b"]},
    }
    for section, value in fields.items():
        content[section] = {**content[section], **value} if isinstance(content.get(section), dict) else value
    return parse_recipe(content)


def job(identity: str, status: str = "SUCCEEDED", run: str = "my-run", storage: str = "s3://bucket/raysft") -> Job:
    return Job(identity, status, {RUN: run, STORAGE: storage}, "", 0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"storage": "storage"}, "storage: storage"),
        ({"storage": "~/storage"}, "storage: ~/storage"),
        ({"data": {"train": ["train.jsonl"]}}, "data.train: train.jsonl"),
        ({"data": {"train": ["/shared/a", "../b"]}}, "data.train: ../b"),
        ({"data": {"train": [{"path": ["c.jsonl"]}]}}, "data.train: c.jsonl"),
        ({"data": {"eval": ["eval/*.jsonl"]}}, "data.eval: eval/*.jsonl"),
        ({"data": {"template": "./chat.jinja"}}, "data.template: ./chat.jinja"),
        ({"model": {"source": "./model"}}, "model.source: ./model"),
        ({"model": {"tokenizer": "~/tokenizer"}}, "model.tokenizer: ~/tokenizer"),
        ({"evaluate": {"sets": {"dev": {"data": ["dev.jsonl"]}}}}, "evaluate.sets.dev.data: dev.jsonl"),
        ({"data": {"rules": [{"rule": "harmful_words", "lists": {"a": "words.txt"}}]}}, "data.rules: words.txt"),
    ],
)
def test_paths_of_this_machine_are_refused_by_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match="cannot see paths") as caught:
        check_recipe(on_the_cluster(**fields), "train")
    assert caught.value.got == named


def test_a_search_without_a_space_is_refused() -> None:
    with pytest.raises(RecipeError, match="what to search"):
        check_recipe(on_the_cluster(), "tune")
    check_recipe(on_the_cluster(), "prepare")


def test_a_directory_that_is_here_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`raysft train` would take the directory, so the cluster must not take the hub's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen" / "Qwen3-0.6B").mkdir(parents=True)
    with pytest.raises(RecipeError, match="cannot see paths"):
        check_recipe(on_the_cluster(), "train")


def test_what_every_node_sees_is_not_refused() -> None:
    check_recipe(on_the_cluster(), "train")
    check_recipe(on_the_cluster(storage="/nfs/raysft", model={"source": "run://base"}), "train")


@pytest.mark.parametrize(
    ("location", "is_secret"),
    [
        ("s3://KEY:SECRET@bucket/a.jsonl", True),
        ("https://host/a.jsonl?X-Amz-Signature=abc", True),
        ("https://host/a.jsonl?sv=1&sig=abc", True),
        ("s3://bucket/a.jsonl?region=eu&secret_key=abc", True),
        ("s3://bucket/a.jsonl?region=eu-west-1", False),
        ("https://host/a.jsonl?version=3&download=true", False),
        ("https://host/a@b.jsonl", False),
        ("https://hf_abc@host/a.jsonl", True),
        ("https://host:8080/a@b.jsonl", False),
    ],
)
def test_secrets_in_addresses_do_not_travel(location: str, is_secret: bool) -> None:
    recipe = on_the_cluster(data={"train": [location]})
    if not is_secret:
        check_recipe(recipe, "train")
        return
    with pytest.raises(RecipeError, match="holds a secret") as caught:
        check_recipe(recipe, "train")
    assert "data.train" in caught.value.got
    assert "abc" not in str(caught.value)
    assert "SECRET@" not in str(caught.value)


@pytest.mark.parametrize(
    ("study", "is_secret"),
    [
        ("postgresql://me@host/db", False),
        ("postgresql+psycopg://me@host:5432/db?sslmode=verify-full&sslkey=/etc/me.key", False),
        ("postgresql://me:@host/db", False),
        ("postgresql://me:abc@host/db", True),
        ("postgresql://me:1234@host:5432/db", True),
        ("postgresql://me:ab/c@host/db", True),
        ("mysql://host/db?user=me&password=abc", True),
        ("sqlite:////nfs/study.db", False),
    ],
)
def test_a_name_alone_is_no_secret(study: str, is_secret: bool) -> None:
    assert holds_secret(study) == is_secret


def test_variables_are_those_that_are_listed() -> None:
    here = {"HF_TOKEN": "hf_abc", "WANDB_API_KEY": "no"}
    assert named_variables(["HF_TOKEN"], here) == {"HF_TOKEN": "hf_abc"}
    assert named_variables([], here) == {}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("HF_TOKEN=hf_abc", "a name alone"),
        ("NOT_SET", "which is not set"),
        ("RAY_AUTH_TOKEN", "of yours"),
        ("RAY_ADDRESS", "of yours"),
        ("RAY_JOB_STOP_WAIT_TIME_S", "of yours"),
        ("A-B", "a name alone"),
        ("", "a name alone"),
    ],
)
def test_variables_that_are_not_passed_on(name: str, told: str) -> None:
    with pytest.raises(UserError, match="cannot be passed on") as caught:
        named_variables([name], {"RAY_AUTH_TOKEN": "abc", "RAY_ADDRESS": "x"})
    assert told in str(caught.value)
    assert "hf_abc" not in str(caught.value)


def test_the_recipe_that_travels_is_the_recipe(tmp_path: Path) -> None:
    recipe = on_the_cluster(train={"max_steps": 3})
    request = job_request(recipe, "train", [], {"HF_TOKEN": "hf_abc"}, tmp_path)
    assert request.id == "my-run-1"
    assert request.entrypoint == "exec python -m raysft.cli train recipe.yaml"
    assert parse_recipe(yaml.safe_load((tmp_path / "job" / "recipe.yaml").read_text())) == recipe
    assert (Path(request.package) / "cli" / "__main__.py").is_file()
    assert "hf_abc" not in str(request.metadata) + request.entrypoint + (tmp_path / "job" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("verb", "there", "expected"),
    [
        ("train", [], "my-run-1"),
        ("train", ["my-run-1", "my-run-9", "my-run-10"], "my-run-11"),
        ("prepare", ["my-run-1"], "my-run-prepare-1"),
        ("tune", ["my-run-tune-1", "other-tune-7"], "my-run-tune-2"),
        ("train", ["my-run-prepare-4", "my-runs-8", "my-run-", "my-run-x2"], "my-run-1"),
    ],
)
def test_each_attempt_has_a_number(verb: Any, there: list[str], expected: str) -> None:
    assert next_id("my-run", verb, [job(identity) for identity in there]) == expected


def test_a_dot_in_a_name_is_a_dot() -> None:
    assert next_id("a.b", "train", [job("axb-5")]) == "a.b-1"


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_run_has_one_job_at_a_time(tmp_path: Path, status: str) -> None:
    with pytest.raises(ConflictError, match="goes on") as caught:
        job_request(on_the_cluster(), "train", [job("my-run-1"), job("my-run-2", status)], {}, tmp_path)
    assert f"my-run-2 ({status})" in caught.value.got
    assert "raysft jobs attach my-run-2" in caught.value.fix


def test_jobs_of_others_hold_nobody_up(tmp_path: Path) -> None:
    """The same name elsewhere is another run."""
    others = [job("other-1", "RUNNING", "other"), job("my-run-4", "RUNNING", storage="s3://another")]
    assert job_request(on_the_cluster(), "train", others, {}, tmp_path).id == "my-run-5"
