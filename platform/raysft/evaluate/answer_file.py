"""A file of questions -> a file of answers, which goes on where it was. One line an answer, in the questions' order.

A line has `number`, `generated` (null with an `error` where the prompt leaves no room), the `record`, and `key`:
a hash of the model, of how tokens are chosen, and of the prompt. A file whose keys are others is another job's, and
refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from raysft.appended import append, held, is_torn
from raysft.data.formats.prompts import read_question
from raysft.data.formats.values import Record
from raysft.data.read.kinds import kind_of
from raysft.data.read.readers import read_range
from raysft.data.records import Refusal
from raysft.errors import ConflictError, DataError, ModelError
from raysft.evaluate.generation import positions_left
from raysft.evaluate.ready import ReadyModel
from raysft.evaluate.sampling import Sampling

_BEGINS = b'{"number": '
"""What each line begins with."""
CHUNK_BATCHES = 4
"""Batches between two writes: so much is done again after a kill."""


@dataclass(frozen=True)
class Question:
    """One record of the input."""

    number: int
    record: Record
    prompt: str
    key: str


@dataclass(frozen=True)
class AnswerFile:
    """What was written."""

    location: str
    count: int
    """Answers in it."""
    reused: int
    """Answers among them that were there before."""
    too_long: int
    """Questions that leave the model no room for an answer."""


def read_questions(
    location: str, model: ReadyModel, how: Sampling, *, system: str = "", raw: bool = False
) -> list[Question]:
    """Every question of a file, rendered. system: before those that have no system turn. raw: the text as it is.

    Raises DataError with the place of the first record that is no question.
    """
    found = []
    for number, (_, record) in enumerate(read_range(location, kind_of(location))):
        prompt = record if isinstance(record, Refusal) else _prompt(record, number, model, system, raw)
        if isinstance(prompt, Refusal):
            raise DataError(
                f"record {number + 1} of {location} is no question",
                got=f"{prompt.reason}: {prompt.detail}",
                expected="`prompt` or `messages`, or a record of a format that trains, whose last answer is left out",
                fix="correct or remove the record",
            )
        assert not isinstance(record, Refusal)
        key = json.dumps([model.identity, asdict(how), number, prompt], ensure_ascii=False)
        found.append(
            Question(number, record, prompt, hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:16])
        )
    if not found:
        raise DataError(
            f"{location} holds no question", got="no record", expected="one at least", fix="name another file"
        )
    return found


def _prompt(record: Record, number: int, model: ReadyModel, system: str, raw: bool) -> str | Refusal:
    if raw:
        text = next((record[name] for name in ("prompt", "text") if isinstance(record.get(name), str)), None)
        return _encodable(text) if text else Refusal("no_prompt", "no text in `prompt` or `text`, which --raw needs")
    question = read_question(record, number, system=system)
    if isinstance(question, Refusal):
        return question
    try:
        return _encodable(model.prompt(question))
    except DataError as error:
        return Refusal("template_refused", error.got)


def _encodable(text: str) -> str | Refusal:
    """No tokenizer takes what UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return Refusal("invalid_unicode", f"a lone surrogate, {text[error.start]!a}")
    return text


def answer_file(
    model: ReadyModel,
    questions: Sequence[Question],
    out: str,
    how: Sampling,
    told: Callable[[int], None] = lambda done: None,
) -> AnswerFile:
    """Answer the questions that have no line in `out` yet. told: the number of lines there, after each write.

    A line that a kill has torn is cut off. Raises ConflictError where the file holds other answers, or somebody
    writes it; StorageError, ModelError.
    """
    too_long = 0
    with held(out) as stream:
        reused = _lines_there(stream, questions, out)
        told(reused)
        size = model.generator.batch_size * CHUNK_BATCHES
        for start in range(reused, len(questions), size):
            chunk = questions[start : start + size]
            fitting = {one.number: one for one in chunk if _fits(model, one.prompt)}
            answers = _answers(model, list(fitting.values()), how)
            lines = [_line(one, answers.get(one.number)) for one in chunk]
            too_long += len(chunk) - len(fitting)
            append(stream, "".join(lines).encode("utf-8", "backslashreplace"), out)
            told(start + len(chunk))
    return AnswerFile(out, len(questions), reused, too_long)


def _answers(model: ReadyModel, questions: Sequence[Question], how: Sampling) -> dict[int, str]:
    """{number: answer}. What is sampled depends on a question's number, so runs of numbers are answered together."""
    found: dict[int, str] = {}
    start = 0
    for stop in range(1, len(questions) + 1):
        if stop == len(questions) or questions[stop].number != questions[stop - 1].number + 1:
            part = questions[start:stop]
            texts = model.generator.generate([one.prompt for one in part], how, first=part[0].number)
            found |= {one.number: text for one, text in zip(part, texts, strict=True)}
            start = stop
    return found


def _fits(model: ReadyModel, prompt: str) -> bool:
    forward = model.generator.forward
    extra = 0 if forward is None else forward.extra_positions
    try:
        positions_left(model.generator.model, len(model.generator.tokens(prompt)) + extra)
    except ModelError:
        return False
    return True


def _line(question: Question, answer: str | None) -> str:
    problem = {} if answer is not None else {"error": "the prompt is as long as the model's positions, or longer"}
    line: dict[str, Any] = {"number": question.number, "generated": answer, **problem}
    return json.dumps(line | {"record": question.record, "key": question.key}, ensure_ascii=False, default=str) + "\n"


def _lines_there(stream: BinaryIO, questions: Sequence[Question], out: str) -> int:
    """Whole lines of this job; what is torn behind them is cut off. Raises ConflictError."""
    stream.seek(0)
    count, end = 0, 0
    for line in stream:
        key = _key(line)
        if is_torn(line, _BEGINS):
            break
        if count == len(questions) or key != questions[count].key:
            raise ConflictError(
                f"{out} holds other answers",
                got=f"line {count + 1} is of another question, model, or choice of tokens, or is damaged",
                expected="a new file, or answers that the same command has written",
                fix="name another file, or remove this one",
            )
        count, end = count + 1, end + len(line)
    stream.truncate(end)
    return count


def _key(line: bytes) -> str | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return str(found.get("key")) if isinstance(found, dict) and line.endswith(b"\n") else None
