"""`raysft.generate`: questions of a file answered into a file."""

from __future__ import annotations

from dataclasses import dataclass

from rich.progress import TimeRemainingColumn

from raysft.evaluate.answer_file import answer_file, read_questions
from raysft.evaluate.sampling import Sampling
from raysft.outputs import check_apart
from raysft.run.bars import bars
from raysft.run.open_model import open_model


@dataclass(frozen=True)
class GeneratedAnswers:
    """A file of answers, whole."""

    location: str
    model: str
    """What answered, in a few words."""
    count: int
    """Answers in the file."""
    reused: int
    """Answers among them that were there before."""
    too_long: int
    """Questions that leave the model no room for an answer: their line has an `error`."""

    def __str__(self) -> str:
        told = [f"{self.count:,} answers of {self.model} in {self.location}"]
        told += [f"{self.reused:,} of them were there"] if self.reused else []
        told += [f"{self.too_long:,} questions are too long for the model"] if self.too_long else []
        return "; ".join(told)


def generate(
    model: str, questions: str, out: str, how: Sampling | None, *, system: str, raw: bool, batch_size: int
) -> GeneratedAnswers:
    """See verbs.generate."""
    how = how or Sampling()
    check_apart({"--out": out}, {"--in": questions})
    opened = open_model(model, batch_size=batch_size)
    asked = read_questions(questions, opened, how, system=system, raw=raw)
    with bars(TimeRemainingColumn()) as shown:
        task = shown.add_task("answering", total=len(asked), text="")
        found = answer_file(opened, asked, out, how, lambda done: shown.update(task, completed=done))
    return GeneratedAnswers(out, opened.name, found.count, found.reused, found.too_long)
