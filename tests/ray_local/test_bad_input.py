"""What a new user can get wrong that only shows on a cluster; and that a finished run is left as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import RECORDS, Ran, assert_refused, json_lines, overrides, raysft, write_material
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from raysft.recipe.load import load_recipe
from raysft.run.run import run_training

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"instruction": "say", "output": "yes"}
NO_ANSWER = {"messages": [{"role": "user", "content": "hi"}]}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 270,
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def finished(recipe: Path, ray_cluster: None) -> Path:
    """The one real run here: its directory."""
    return Path(run_training(load_recipe(recipe)).run)


def prepare(capsys, recipe: Path, tmp_path: Path, content: str, *assignments: str) -> Ran:
    (tmp_path / "own.jsonl").write_text(content)
    own = (f"data.train={tmp_path / 'own.jsonl'}", "data.eval_fraction=0", f"storage={tmp_path / 'storage'}")
    return raysft(capsys, "prepare", recipe, *overrides(*own, *assignments))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When every file below was written, and what it holds."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


# --- a run that is there ----------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_changes_nothing(capsys, recipe: Path, finished: Path) -> None:
    before = state(finished.parents[1])
    assert {"run.json", "result.json", "report.html"} <= {name.rpartition("/")[2] for name in before}
    ran = raysft(capsys, "train", recipe)
    assert ran.code == 0
    assert "the run tiny is finished already (2 steps); nothing was changed" in ran.err
    assert str(finished / "report.html") in ran.err
    assert state(finished.parents[1]) == before


@pytest.mark.parametrize(
    ("assignment", "difference"),
    [
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate: 2e-05 -> 0.5"),
        ("model.config.num_hidden_layers=2", "model.config.num_hidden_layers: 1 -> 2"),
        ("train.max_steps=3", "train.max_steps: 2 -> 3"),
        ("data.max_tokens=64", "data.max_tokens: 128 -> 64"),
        ("data.eval_fraction=0.2", "data.eval_fraction: 0.1 -> 0.2"),
    ],
)
def test_a_name_that_another_recipe_has(
    capsys, recipe: Path, finished: Path, assignment: str, difference: str
) -> None:
    before = state(finished)
    ran = raysft(capsys, "train", recipe, *overrides(assignment))
    assert_refused(ran, f"the run {finished} exists with another recipe", f"got: {difference}\n", "another `name`")
    assert state(finished) == before


def test_the_same_data_at_another_place_is_the_same_run(capsys, recipe: Path, finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "moved.jsonl"
    path.write_text(json_lines(*RECORDS))
    ran = raysft(capsys, "train", recipe, *overrides(f"data.train={path}"))
    assert ran.code == 0, ran.err
    assert "finished already" in ran.err
    path.write_text(json_lines(*RECORDS[1:]))
    ran = raysft(capsys, "train", recipe, *overrides(f"data.train={path}"))
    assert_refused(ran, "exists with another recipe", "data.train:", str(path))


def test_an_unfinished_run_names_the_data_that_differ(capsys, recipe: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "storage" / "runs" / "tiny"
    run.mkdir(parents=True)
    shutil.copy(finished / "run.json", run)
    place = f"storage={tmp_path / 'storage'}"
    ran = raysft(capsys, "train", recipe, *overrides(place, "data.train_on=last"))
    assert_refused(ran, f"the run {run} exists", "data.train_on: 'all' -> 'last'", "holds no checkpoint yet")
    assert {path.name for path in run.iterdir()} == {"run.json", "driver", "goodput"}  # and the time that it took


def test_evaluation_of_what_is_no_model(capsys, recipe: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    ran = raysft(capsys, "evaluate", recipe, "--model", tmp_path)
    assert_refused(ran, f"no model to evaluate at {tmp_path}", "no config.json", "notes.txt")
    shutil.copy(finished / "export" / "merged" / "config.json", tmp_path)
    ran = raysft(capsys, "evaluate", recipe, "--model", tmp_path)
    assert_refused(ran, "without weights", "export it again")


# --- data -------------------------------------------------------------------------------------------------


def test_a_malformed_line_is_counted_or_fatal(capsys, recipe: Path, tmp_path: Path) -> None:
    content = json_lines(GOOD, GOOD, '{"instruction": ', NO_ANSWER, GOOD)
    ran = prepare(capsys, recipe, tmp_path, content)
    assert ran.code == 0, ran.err
    assert "3 samples of 5 records, 2 refused" in ran.err
    assert f"refused 1 x malformed_json; first: {tmp_path}/own.jsonl:3: " in ran.err
    assert f"refused 1 x no_assistant_turn; first: {tmp_path}/own.jsonl:4: roles seen: user" in ran.err
    ran = prepare(capsys, recipe, tmp_path, content, "data.on_bad_record=fail")
    assert_refused(ran, f"a bad record at {tmp_path}/own.jsonl:3", "malformed_json", "data.on_bad_record: refuse")


def test_data_without_one_usable_record(capsys, recipe: Path, tmp_path: Path) -> None:
    ran = prepare(capsys, recipe, tmp_path, json_lines(*[NO_ANSWER] * 3))
    assert_refused(ran, "no sample is left of 3 records", "3 x no_assistant_turn", "own.jsonl:1", "roles seen: user")
    ran = prepare(capsys, recipe, tmp_path, "\n\n")
    assert_refused(ran, "no sample is left of 0 records", "files without a record")
    ran = prepare(capsys, recipe, tmp_path, json_lines({"question": "q", "answer": "a"}))
    assert_refused(ran, "1 x unknown_format", "answer, question", "data.columns")
    assert not list((tmp_path / "storage").rglob("manifest.json"))


def test_files_that_break_inside_a_task(capsys, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "no.jsonl.gz").write_bytes(b"no")
    ran = prepare(capsys, recipe, tmp_path, json_lines(GOOD), f"data.train={tmp_path / 'no.jsonl.gz'}")
    assert_refused(ran, "cannot read", "no.jsonl.gz", "Not a gzipped file")
    (tmp_path / "own.jinja").write_text("{% for m in messages %}{{ m.content | reverse }}{% endfor %}")
    ran = prepare(capsys, recipe, tmp_path, json_lines(GOOD), f"data.template={tmp_path / 'own.jinja'}")
    assert_refused(ran, "1 x left_out", "the template 'own.jinja' leaves out the text of message 1")


def test_data_that_is_not_there(capsys, recipe: Path, tmp_path: Path) -> None:
    ran = prepare(capsys, recipe, tmp_path, json_lines(GOOD), f"data.train={tmp_path / 'won.jsonl'}")
    assert_refused(ran, "there is no file", "won.jsonl", "did you mean 'own.jsonl'?")
    assert_refused(prepare(capsys, recipe, tmp_path, ""), "own.jsonl is empty", "0 bytes")


# --- the cluster and the model ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (("cluster.workers=3", "train.rows_per_step=8"), ("room for 2 worker(s)", "3 workers x (1 CPUs")),
        (("cluster.cpus_per_worker=64",), ("room for 0 worker(s)", "64 CPUs")),
        (("cluster.gpus_per_worker=1",), ("0 GPUs", "+ 1 GPUs")),
    ],
)
def test_more_than_the_cluster_can_ever_hold(
    capsys, recipe: Path, tmp_path: Path, assignments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    started = time.monotonic()
    ran = raysft(capsys, "train", recipe, *overrides(f"storage={tmp_path}", *assignments))
    assert_refused(ran, "the cluster can never hold this run", *words, "cluster.workers")
    assert time.monotonic() - started < 20
    assert not (tmp_path / "runs" / "tiny" / "run.json").exists(), "the name is still free"


def test_a_warm_up_longer_than_the_run_leaves_the_name_free(capsys, recipe: Path, tmp_path: Path) -> None:
    ran = raysft(capsys, "train", recipe, *overrides(f"storage={tmp_path}", "optimizer.warmup_steps=2"))
    assert_refused(ran, "the warm-up is as long as the run", "the run has 2 steps")
    assert not (tmp_path / "runs" / "tiny" / "run.json").exists()


def test_weights_that_do_not_fit_their_config(capsys, recipe: Path, tmp_path: Path) -> None:
    """Told by a task on the cluster, in the same words as before it."""
    model = tmp_path / "model"
    LlamaForCausalLM(LlamaConfig(**LLAMA)).save_pretrained(model)
    weights = load_file(model / "model.safetensors")
    more = ("model.config=null", f"model.source={model}")

    def train(number: int) -> Ran:
        return raysft(capsys, "train", recipe, *overrides(f"storage={tmp_path / str(number)}", *more))

    save_file({k: v for k, v in weights.items() if "mlp" not in k}, model / "model.safetensors", {"format": "pt"})
    assert_refused(train(1), f"cannot load the model '{model}'", "weights are missing", "mlp.")
    save_file({k: v[:16] for k, v in weights.items()}, model / "model.safetensors", {"format": "pt"})
    assert_refused(train(2), f"cannot load the model '{model}'", "other shapes than config.json")
    (model / "model.safetensors").write_bytes(b"torn")
    assert_refused(train(3), f"the weights {model}/model.safetensors are damaged", "header")


# --- the console ------------------------------------------------------------------------------------------


def test_the_console_shows_our_own_lines_only(recipe: Path, tmp_path: Path) -> None:
    """A process of its own, with a Ray of its own, as a user starts it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "DS_"))}
    ended = subprocess.run(
        [sys.executable, "-m", "raysft.cli", "prepare", str(recipe), "--set", f"storage={tmp_path}"],
        env=environment | {"PYTHONPATH": str(ROOT / "platform")},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert all(line.startswith(("store ", "   ")) for line in lines), lines
    assert sum("samples of" in line for line in lines) == 2
    assert json.loads(next(tmp_path.rglob("manifest.json")).read_text())["counts"]["examples"]
