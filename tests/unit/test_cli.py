"""The command line without Ray: what a new user can get wrong before anything starts, and how it is told."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from commands import assert_refused, json_lines, overrides, raysft, write_material
from transformers import LlamaConfig, LlamaForCausalLM

from raysft.recipe import load
from raysft.run import run, steps

ROOT = Path(__file__).resolve().parents[2]
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 270,
}
NO_CONFIG = "model.config=null"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("user"))


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may get as far as Ray."""

    def started() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(run, "cluster", started)
    monkeypatch.setattr(steps, "cluster", started)


IMPORTS_S = 240
"""Within which a process has imported all that it needs, on a machine that is busy: 10 to 16 s of CPU."""


def subprocess_run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "platform")} | environment,
        capture_output=True,
        text=True,
        timeout=IMPORTS_S,
    )


# --- the process ------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom raysft.cli import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'pydantic') if name in sys.modules])"
    )
    ended = subprocess_run("-c", code)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "example:" in ended.stdout


def test_output_that_finds_no_room_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "raysft.cli", "schema"],
            env=os.environ | {"PYTHONPATH": str(ROOT / "platform")},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=IMPORTS_S,
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: cannot write the output")
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


def test_a_terminal_that_is_not_utf_8_gets_escapes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\nmodel: {source: a/b}\ndata: {train: x}\nschl\u00fcssel-\u6587: 1\n", encoding="utf-8")
    ended = subprocess_run("-m", "raysft.cli", "train", str(path), PYTHONIOENCODING="ascii")
    assert ended.returncode == 2
    assert "unknown key schl\\xfcssel-\\u6587" in ended.stderr


def test_control_characters_are_only_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = raysft(capsys, "train", str(tmp_path / "a\x1b]0;title\x07\x9b31m.yaml"))
    assert ran.code == 2
    assert "a\\u001b]0;title\\u0007\\u009b31m.yaml" in ran.err
    assert not {"\x1b", "\x07", "\x9b"} & set(ran.err + ran.out)


def test_a_process_ends_with_a_message_and_a_code(tmp_path: Path) -> None:
    ended = subprocess_run("-m", "raysft.cli", "train", str(tmp_path / "nowhere.yaml"))
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: cannot read the recipe")
    assert "Traceback" not in ended.stderr
    debug = subprocess_run("-m", "raysft.cli", "train", "--debug", str(tmp_path / "nowhere.yaml"))
    assert debug.returncode == 2
    assert "Traceback" in debug.stderr
    assert "RecipeError" in debug.stderr


def test_an_address_where_nobody_is_fails_soon(recipe: Path) -> None:
    """ray.init alone would ask for more than five minutes; the process may take IMPORTS_S."""
    ended = subprocess_run("-m", "raysft.cli", "prepare", str(recipe), RAY_ADDRESS="127.0.0.1:1")
    assert ended.returncode == 2
    assert "cannot join the Ray cluster 127.0.0.1:1" in ended.stderr
    assert "RAY_ADDRESS" in ended.stderr
    assert "accelerator" not in ended.stdout + ended.stderr


def test_what_nobody_foresaw_is_the_platforms_fault(capsys, recipe: Path, monkeypatch) -> None:
    def fail(path: str, overrides: list[str]) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(load, "load_recipe", fail)
    ran = raysft(capsys, "train", recipe)
    assert ran.code == 3
    assert ran.err.splitlines() == ["error: RuntimeError: boom", "  fix: run again with --debug and report it"]
    ran = raysft(capsys, "train", recipe, "--debug")
    assert ran.code == 3
    assert "Traceback" in ran.err


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), SystemExit(15)])
def test_ctrl_c_and_sigterm_say_how_to_go_on(capsys, recipe: Path, monkeypatch, ending: BaseException) -> None:
    """Ray's handler of SIGTERM raises the second."""

    def interrupt(path: str, overrides: list[str]) -> None:
        raise ending

    monkeypatch.setattr(load, "load_recipe", interrupt)
    ran = raysft(capsys, "train", recipe)
    assert ran.code == 130
    assert "goes on from the last checkpoint" in ran.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "required: VERB"),
        (("trian", "r.yaml"), "'train'"),
        (("train",), "required: recipe"),
        (("train", "r.yaml", "--sets", "a=b"), "--sets"),
        (("preview", "r.yaml", "--num", "0"), "from 1 on"),
        (("preview", "r.yaml", "--num", "-3"), "'-3'"),
        (("tokenizer",), "required: ACTION"),
        (("tokenizer", "train", "a.jsonl"), "--out"),
        (("tokenizer", "train", "a.jsonl", "--out", "t", "--format", "alpacca"), "'alpaca'"),
        (("tokenizer", "train", "a.jsonl", "--out", "t", "--vocab-size", "many"), "'many'"),
    ],
)
def test_a_command_line_that_cannot_be_read(capsys, arguments: tuple[str, ...], word: str) -> None:
    ran = raysft(capsys, *arguments)
    assert ran.code == 2
    assert word in ran.err
    assert ran.err.startswith("usage: raysft")


def test_schema_is_json(capsys) -> None:
    ran = raysft(capsys, "schema")
    assert ran.code == 0
    assert json.loads(ran.out)["properties"]["storage"]["description"]


# --- the recipe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("cannot read the recipe", "No such file")),
        (b"", ("is no mapping", "an empty file")),
        (b"- a\n- b\n", ("is no mapping", "list")),
        (bytes(range(256)), ("cannot read the recipe", "UTF-8")),
        (b"\x00\x01abc\n", ("is not YAML", "special characters")),
        (b"name: [a\nfoo: {", ("is not YAML", "line 2")),
        (b"name: a\n\tmodel: x\n", ("is not YAML", "line 2", "spaces")),
        (b"name: a\nseed: 1\nname: b\n", ("'name' stands twice", "lines 1 and 3")),
        (b"name: !!python/object/apply:os.getcwd []\n", ("is not YAML", "line 1")),
    ],
)
def test_a_file_that_is_no_recipe(capsys, tmp_path: Path, content: bytes | None, words: tuple[str, ...]) -> None:
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_bytes(content)
    assert_refused(raysft(capsys, "train", path), *words)


def test_a_directory_is_no_recipe(capsys, tmp_path: Path) -> None:
    assert_refused(raysft(capsys, "train", tmp_path), "Is a directory")


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("optimizer.lerning_rate=1", ("unknown key", "did you mean optimizer.learning_rate?")),
        ("optimzer.learning_rate=1", ("did you mean optimizer?",)),
        ("qqq=1", ("unknown key qqq", "storage, seed")),
        ("train.max_steps=two", ("train.max_steps", "'two'", "a whole number")),
        ("train.max_steps=0", ("train.max_steps", "1 or more")),
        ("optimizer.learning_rate=.inf", ("optimizer.learning_rate", "inf", "finite")),
        ("optimizer.learning_rate=fast", ("'fast'", "number")),
        ("data.train=", ("data.train", "None", "or a list of them")),
        ("data.train=[]", ("data.train", "at least one")),
        ("data.columns=[a]", ("data.columns", "['a']", "a mapping")),
        ("model=x", ("model is wrong", "'x'", "a section")),
        ("name=bad/name", ("'bad/name'", "letters, digits")),
        ("parallel.zero=4", ("parallel.zero", "0, 1, 2 or 3")),
        ("foo", ("cannot read the override 'foo'", "no `=`")),
        ("name.x=1", ("name is no section",)),
        ("train.max_steps=[", ("--set train.max_steps=[ is not YAML",)),
    ],
)
def test_a_field_that_is_wrong(capsys, recipe: Path, assignment: str, words: tuple[str, ...]) -> None:
    assert_refused(raysft(capsys, "train", recipe, *overrides(assignment)), *words)


def test_several_wrong_fields_are_told_at_once(capsys, recipe: Path) -> None:
    ran = raysft(capsys, "train", recipe, *overrides("train.epochs=x", "seeed=1"))
    assert_refused(ran, "in 2 places", "train.epochs", "did you mean seed?")


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (("cluster.workers=4",), ("more replicas than rows in a step", "4 replicas", "train.rows_per_step = 2")),
        (
            ("cluster.workers=3", "parallel.tensor=2"),
            ("do not divide", "cluster.workers = 3", "tensor x pipeline x sequence", "set cluster.workers to 2"),
        ),
        (("data.max_tokens=512",), ("longer than the model's positions", "256")),
        (("data.eval=x.jsonl",), ("held-out data is given twice",)),
        (("evaluate.every_steps=1", "data.eval_fraction=0"), ("no held-out data",)),
        ((NO_CONFIG,), ("model.source: random needs model.config",)),
        (("model.tokenizer=null",), ("fresh weights need a tokenizer", "raysft tokenizer train")),
        (("model.config.model_type=lama",), ("not a transformers config", "'lama'")),
        (("model.config.hidden_size=thirty",), ("not a transformers config", "hidden_size", "'thirty'")),
        (("model.config.num_attention_heads=0",), ("not a transformers config",)),
        (("model.config.hiden_size=64",), ("'hiden_size'", "did you mean hidden_size?")),
        (("model.config.vocab_size=100",), ("more tokens than the model", "token ids up to 269, 100 embedding rows")),
        (("model.source=run://nope", NO_CONFIG), ("the run 'nope' has no exported model",)),
    ],
)
def test_fields_that_contradict_each_other(
    capsys, recipe: Path, assignments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(raysft(capsys, "train", recipe, *overrides(*assignments)), *words)


# --- storage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["train", "prepare"])
@pytest.mark.parametrize("location", ["/proc/raysft", "{folder}/data.jsonl", "{folder}/data.jsonl/below"])
def test_a_storage_that_cannot_be_written(capsys, recipe: Path, verb: str, location: str) -> None:
    place = location.format(folder=recipe.parent)
    assert_refused(raysft(capsys, verb, recipe, *overrides(f"storage={place}")), "cannot write", place, "`storage`")


def test_a_scheme_that_nobody_knows(capsys, recipe: Path) -> None:
    assert_refused(raysft(capsys, "train", recipe, *overrides("storage=nosuch://x/y")), "cannot open", "nosuch")


# --- models and tokenizers --------------------------------------------------------------------------------


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def train_on(capsys, recipe: Path, model: Path, *more: str):
    return raysft(capsys, "train", recipe, *overrides(f"model.source={model}", NO_CONFIG, *more))


def test_a_model_that_is_not_there(capsys, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "llama-tiny").mkdir()
    assert_refused(
        train_on(capsys, recipe, tmp_path / "lama-tiny"),
        "no such directory",
        f"did you mean {tmp_path / 'llama-tiny'}",
    )
    assert_refused(train_on(capsys, recipe, tmp_path / "llama-tiny"), "without config.json", "it is empty")


def test_a_model_directory_without_weights(capsys, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert_refused(train_on(capsys, recipe, tmp_path), str(tmp_path), "no weights", "only config.json", "safetensors")


def test_pickled_weights_are_refused_and_never_opened(capsys, recipe: Path, tmp_path: Path) -> None:
    trap, model = tmp_path / "trap", tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LLAMA))
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(trap)))
    assert_refused(train_on(capsys, recipe, model), "only pickled weights: pytorch_model.bin", "convert")
    assert not trap.exists()
    pickle.loads((model / "pytorch_model.bin").read_bytes())
    assert trap.exists(), "the trap works"


def test_a_config_that_is_none(capsys, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{not json")
    assert_refused(train_on(capsys, recipe, tmp_path), "cannot be read", "a JSON object")
    (tmp_path / "config.json").write_text('{"model_type": "frob"}')
    assert_refused(train_on(capsys, recipe, tmp_path), "cannot read the model", "frob")


def test_a_tokenizer_larger_than_the_model(capsys, recipe: Path, tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**LLAMA | {"vocab_size": 100})).save_pretrained(tmp_path)
    assert_refused(
        train_on(capsys, recipe, tmp_path), "token ids up to 269, 100 embedding rows", "the model's own tokenizer"
    )


@pytest.mark.parametrize("verb", ["train", "preview"])
def test_a_tokenizer_that_is_not_there(capsys, recipe: Path, verb: str) -> None:
    ran = raysft(capsys, verb, recipe, *overrides("model.tokenizer=no-tokenizer"))
    assert_refused(ran, "cannot load a tokenizer from 'no-tokenizer'", "no such directory", "raysft tokenizer train")
    ran = raysft(capsys, verb, recipe, *overrides(f"model.tokenizer={recipe}"))
    assert_refused(ran, "cannot load a tokenizer", "got: a file")


# --- the other verbs --------------------------------------------------------------------------------------


def test_a_preview_marks_what_is_trained(capsys, recipe: Path) -> None:
    ran = raysft(capsys, "preview", recipe, "--num", "1")
    assert ran.code == 0
    assert "data.jsonl:1 " in ran.out
    assert "[[number 0 number 0 number 0 <|im_end|>]]" in ran.out


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("dat.jsonl", None, ("there is no file", "dat.jsonl", "did you mean 'data.jsonl'?")),
        ("empty.jsonl", b"", ("is empty", "0 bytes")),
        ("table.xlsx", b"x", ("cannot read", "table.xlsx", ".jsonl")),
        ("half.json", b"[{", ("is not valid JSON", "line 1")),
        ("no.parquet", b"no", ("is not a Parquet file",)),
        ("no.jsonl.gz", b"no", ("cannot read", "no.jsonl.gz", "gzip")),
    ],
)
def test_a_data_file_that_cannot_be_read(
    capsys, recipe: Path, name: str, content: bytes | None, words: tuple[str, ...]
) -> None:
    if content is not None:
        (recipe.parent / name).write_bytes(content)
    ran = raysft(capsys, "preview", recipe, *overrides(f"data.train={recipe.parent / name}"))
    assert_refused(ran, *words)


def test_a_preview_tells_of_records_that_will_be_refused(capsys, recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text(json_lines('{"instruction": ', {"messages": [{"role": "user", "content": "hi"}]}))
    ran = raysft(capsys, "preview", recipe, *overrides(f"data.train={path}"))
    assert_refused(ran, "none of these records becomes a sample", "malformed_json, no_assistant_turn")
    assert f"{path}:1 refused, malformed_json" in ran.out
    assert f"{path}:2 refused, no_assistant_turn: roles seen: user" in ran.out


def test_a_template_that_cannot_be_used(capsys, recipe: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}{{ m.content ")
    preview = ("preview", recipe, *overrides(f"data.template={own}"))
    assert_refused(raysft(capsys, *preview), "not valid Jinja", "line 1")
    own.write_text("{% for m in messages %}{{ m.content | reverse }}{% endfor %}")
    ran = raysft(capsys, *preview)
    assert "refused, left_out" in ran.out
    assert "what would keep it: a template that writes every message as it is" in ran.out


def test_a_template_that_nobody_knows(capsys, recipe: Path) -> None:
    ran = raysft(capsys, "preview", recipe, *overrides("data.template=chatlm"))
    assert_refused(ran, "there is no chat template 'chatlm'", "did you mean 'chatml'?")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{folder}/no.jsonl", "--out", "{out}"), ("there is no file", "no.jsonl")),
        (("{data}", "--out", "{out}", "--vocab-size", "10"), ("too small", "vocab_size 10", "at least 259")),
        (("{data}", "--out", "{out}", "--column", "instructoin=q"), ("'instructoin'", "did you mean 'instruction'?")),
        (("{data}", "--out", "{out}", "--column", "output"), ("cannot read --column output",)),
        (("{data}", "--out", "{out}", "--format", "messages"), ("no record can train", "missing_column")),
        (("{data}", "--out", "{out}", "--template", "chatlm"), ("built-in template", "'chatlm'", "chatml")),
        (("{data}", "--out", "{data}"), ("cannot write the tokenizer", "--out")),
        (("{data}", "--out", "/proc/raysft"), ("cannot write the tokenizer", "--out")),
    ],
)
def test_a_tokenizer_that_cannot_be_trained(
    capsys, recipe: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    names = {"folder": recipe.parent, "data": recipe.parent / "data.jsonl", "out": tmp_path / "out"}
    ran = raysft(capsys, "tokenizer", "train", *(argument.format(**names) for argument in arguments))
    assert_refused(ran, *words)
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_export_before_training(capsys, recipe: Path) -> None:
    assert_refused(raysft(capsys, "export", recipe), "has no checkpoint", "raysft train")


def test_evaluation_without_a_model(capsys, recipe: Path, tmp_path: Path) -> None:
    assert_refused(raysft(capsys, "evaluate", recipe), "no model to evaluate", "raysft train")
    missing = tmp_path / "nowhere"
    assert_refused(raysft(capsys, "evaluate", recipe, "--model", missing), str(missing), "check --model")


def test_evaluation_without_held_out_data(capsys, recipe: Path, tmp_path: Path) -> None:
    ran = raysft(capsys, "evaluate", recipe, "--model", tmp_path, *overrides("data.eval_fraction=0"))
    assert_refused(ran, "no held-out data", "data.eval")
