from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raysft.data.text.chat import BUILT_IN
from raysft.data.text.tokenizer import load_tokenizer, template_for, tokenizer_hash, tokenizer_source, train_tokenizer
from raysft.errors import DataError, ModelError, RecipeError
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.model import ModelSection

RECORDS = [{"question": f"what is {i} + 你好 🙂?", "answer": f"it is {i}\n\n#### {i}"} for i in range(50)]
COLUMNS = {"instruction": "question", "output": "answer"}


@pytest.fixture
def data(tmp_path) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS) + "broken\n")
    return str(path)


@pytest.mark.parametrize("template", BUILT_IN)
def test_a_trained_tokenizer_is_an_ordinary_one(data, tmp_path, template):
    out = str(tmp_path / "tok")
    ours = train_tokenizer([data], columns=COLUMNS, vocab_size=400, template=template, out=out)
    theirs = AutoTokenizer.from_pretrained(out)
    assert len(theirs) == len(ours) <= 400
    assert theirs.eos_token
    assert theirs.pad_token not in (None, theirs.eos_token)
    assert theirs.chat_template == ours.chat_template
    text = "any text: 你好 🙂\n\x00\t ümläut"
    assert theirs.decode(theirs(text, add_special_tokens=False).input_ids) == text, "lossless"
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    whole = theirs.apply_chat_template(messages, tokenize=False)
    ids = theirs(whole, add_special_tokens=False).input_ids
    assert theirs.eos_token_id in ids, "the end of turn is one token, the one that ends generation"
    assert theirs.decode(ids, skip_special_tokens=False) == whole


def test_training_is_deterministic_and_ends_early(data, tmp_path):
    one = train_tokenizer([data], columns=COLUMNS, vocab_size=90_000, template="chatml", out=str(tmp_path / "1"))
    two = train_tokenizer([data], columns=COLUMNS, vocab_size=90_000, template="chatml", out=str(tmp_path / "2"))
    assert tokenizer_hash(one) == tokenizer_hash(two) == tokenizer_hash(load_tokenizer(str(tmp_path / "1")))
    assert 259 < len(one) < 1000


def test_the_hash_sees_vocabulary_and_template(data, tmp_path):
    one = train_tokenizer([data], columns=COLUMNS, vocab_size=270, template="chatml", out=str(tmp_path / "1"))
    two = train_tokenizer([data], columns=COLUMNS, vocab_size=271, template="chatml", out=str(tmp_path / "2"))
    before = tokenizer_hash(one)
    assert before != tokenizer_hash(two)
    one.chat_template = "other"
    assert tokenizer_hash(one) != before


def test_settings_that_cannot_work(data, tmp_path):
    out = str(tmp_path / "tok")
    with pytest.raises(RecipeError, match="at least 259"):
        train_tokenizer([data], columns=COLUMNS, vocab_size=100, template="chatml", out=out)
    with pytest.raises(RecipeError, match="built-in template"):
        train_tokenizer([data], columns=COLUMNS, vocab_size=400, template="own", out=out)
    with pytest.raises(DataError, match="no record can train"):
        train_tokenizer([data], columns={}, vocab_size=400, template="chatml", out=out)
    with pytest.raises(DataError, match="there is no file"):
        train_tokenizer([data + "x"], columns=COLUMNS, vocab_size=400, template="chatml", out=out)


def test_missing_tokenizers(tmp_path):
    (tmp_path / "empty").mkdir()
    for source in (str(tmp_path / "empty"), str(tmp_path / "nothing"), "nobody/nothing-at-all"):
        with pytest.raises(ModelError, match="cannot load a tokenizer"):
            load_tokenizer(source)


def test_where_the_tokenizer_comes_from(tmp_path, monkeypatch):
    def recipe(**model: object) -> Recipe:
        return Recipe(name="r", storage=str(tmp_path), model=ModelSection(**model), data=DataSection(train=("x",)))

    (tmp_path / "tok").mkdir()
    monkeypatch.chdir(tmp_path)
    assert tokenizer_source(recipe(source="org/name")) == "org/name"
    assert tokenizer_source(recipe(source="org/name", tokenizer="tok")) == str(tmp_path / "tok")
    export = tmp_path / "runs" / "first" / "export"
    (export / "merged").mkdir(parents=True)
    with pytest.raises(ModelError, match="has no exported model"):
        tokenizer_source(recipe(source="run://first"))
    (export / "export.json").write_text("{}")
    assert tokenizer_source(recipe(source="run://first")) == str(export / "merged")
    with pytest.raises(RecipeError, match="needs a tokenizer"):
        tokenizer_source(recipe(source="random"))


def test_a_foreign_end_of_turn_is_warned_of(caplog):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    template_for("chatml", tokenizer)
    assert "ends turns with <|im_end|>" in caplog.text
    with pytest.raises(DataError, match="no chat template of its own"):
        template_for("tokenizer", tokenizer)
