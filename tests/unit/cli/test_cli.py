"""The command line without Ray: what a new user can get wrong before anything starts, and how it is told."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from commands import assert_refused, overrides, raysft
from transformers import LlamaConfig, LlamaForCausalLM

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


# --- the process ------------------------------------------------------------------------------------------


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
