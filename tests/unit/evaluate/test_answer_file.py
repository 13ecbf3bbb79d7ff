"""Answers in a file: each once, in order, the same however often the command was ended."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from commands import json_lines
from exports import write_export

from raysft.errors import ConflictError, DataError, StorageError
from raysft.evaluate.answer_file import answer_file, read_questions
from raysft.evaluate.ready import ReadyModel, ready_export
from raysft.evaluate.sampling import Sampling

HOW = Sampling(6, temperature=1.0, seed=2)
RECORDS = [{"prompt": "q" * (1 + number % 5), "id": number} for number in range(19)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ReadyModel:
    return ready_export(str(write_export(tmp_path_factory.mktemp("model"))), batch_size=2)


@pytest.fixture
def asked(tmp_path: Path) -> str:
    (tmp_path / "in.jsonl").write_text(json_lines(*RECORDS))
    return str(tmp_path / "in.jsonl")


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def test_every_question_is_answered_as_alone(model: ReadyModel, asked: str, tmp_path: Path) -> None:
    out, told = tmp_path / "deep" / "out.jsonl", list[int]()
    found = answer_file(model, read_questions(asked, model, HOW), str(out), HOW, told.append)
    assert (found.count, found.reused, found.too_long) == (19, 0, 0)
    assert told == [0, 8, 16, 19]
    for number, line in enumerate(lines(out)):
        prompt = model.chat_prompt([("user", RECORDS[number]["prompt"])])  # type: ignore[list-item]
        assert line["generated"] == model.generator.generate([prompt], HOW, first=number)[0]
        assert (line["number"], line["record"]) == (number, RECORDS[number])
    same = [line["generated"] for line in lines(out) if len(line["record"]["prompt"]) == 1]
    assert len(set(same)) == len(same)  # drawn anew for each


@pytest.mark.parametrize("cut", [0, 1, -1, -30, 700])
def test_an_interrupted_file_becomes_the_same(model: ReadyModel, asked: str, tmp_path: Path, cut: int) -> None:
    out, questions = tmp_path / "out.jsonl", read_questions(asked, model, HOW)
    answer_file(model, questions, str(out), HOW)
    whole = out.read_bytes()
    out.write_bytes(whole[:cut])
    found = answer_file(model, questions, str(out), HOW)
    assert out.read_bytes() == whole
    assert found.reused == whole[:cut].count(b"\n")
    assert answer_file(model, questions, str(out), HOW).reused == 19


def test_answers_of_another_kind_are_not_gone_on_with(model: ReadyModel, asked: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    answer_file(model, read_questions(asked, model, HOW), str(out), HOW)
    whole = out.read_bytes()
    other = ready_export(str(write_export(tmp_path / "other", seed=5)), batch_size=2)
    warmer, fewer = Sampling(6, temperature=0.5), tmp_path / "fewer.jsonl"
    fewer.write_text(json_lines(*RECORDS[:5]))
    for questions in (
        read_questions(asked, other, HOW),
        read_questions(asked, model, warmer),
        read_questions(asked, model, HOW, system="S"),
        read_questions(str(fewer), model, HOW),
    ):
        with pytest.raises(ConflictError, match="holds other answers"):
            answer_file(model, questions, str(out), HOW)
        assert out.read_bytes() == whole
    out.write_text("somebody's notes\n")
    with pytest.raises(ConflictError):
        answer_file(model, read_questions(asked, model, HOW), str(out), HOW)
    assert out.read_text() == "somebody's notes\n"


def test_two_commands_do_not_write_one_file(model: ReadyModel, asked: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with open(out, "ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="another command"):
            answer_file(model, read_questions(asked, model, HOW), str(out), HOW)


def test_a_question_that_is_too_long_costs_only_its_own_answer(model: ReadyModel, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json_lines({"prompt": "a"}, {"prompt": "b" * 300}, {"prompt": "c"}))
    out = tmp_path / "out.jsonl"
    found = answer_file(model, read_questions(str(tmp_path / "in.jsonl"), model, HOW), str(out), HOW)
    assert (found.count, found.too_long) == (3, 1)
    first, second, third = lines(out)
    assert (second["generated"], "positions" in second["error"]) == (None, True)
    for line in (first, third):
        prompt = model.chat_prompt([("user", line["record"]["prompt"])])
        assert line["generated"] == model.generator.generate([prompt], HOW, first=line["number"])[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a"}\n{"output": "b"}\n', "record 2"),
        ('{"prompt": "a"\n', "record 1"),
        ("", "no question"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}\n', "no_prompt"),
    ],
)
def test_bad_input_is_told_before_anything_is_answered(
    model: ReadyModel, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(DataError) as caught:
        read_questions(str(tmp_path / "in.jsonl"), model, HOW)
    assert words in str(caught.value)


def test_places_that_cannot_be_read_or_written(model: ReadyModel, asked: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_questions(str(tmp_path / "nowhere.jsonl"), model, HOW)
    for out in (str(tmp_path), "memory://out.jsonl", f"{asked}/out.jsonl"):
        with pytest.raises(StorageError):
            answer_file(model, read_questions(asked, model, HOW), out, HOW)


def test_raw_texts_are_asked_as_they_are(model: ReadyModel, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("once upon\na time\n")
    questions = read_questions(str(tmp_path / "in.txt"), model, HOW, raw=True)
    assert [one.prompt for one in questions] == ["once upon", "a time"]


@pytest.mark.parametrize("content", [b"my notes", b'{"prompt": "q"}', b"\x00" * 50])
def test_a_file_of_somebody_else_stays_as_it_was(
    model: ReadyModel, asked: str, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(ConflictError, match="other answers"):
        answer_file(model, read_questions(asked, model, HOW), str(tmp_path / "mine"), HOW)
    assert (tmp_path / "mine").read_bytes() == content


@pytest.mark.parametrize("raw", [True, False])
def test_what_no_tokenizer_takes_is_told(model: ReadyModel, tmp_path: Path, raw: bool) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "half \\ud83d"}\n')
    with pytest.raises(DataError) as told:
        read_questions(str(tmp_path / "in.jsonl"), model, HOW, raw=raw)
    assert "lone surrogate" in told.value.got
