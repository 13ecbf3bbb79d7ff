"""What a record is, whatever file and format it came from. Values only: no reading, no rules.

A record becomes conversations or a Refusal: a value, because refusals are counted, not raised. formats/ makes
conversations, rules (rules/) change or refuse them, chat.py turns them into tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from raysft.recipe.columns import bare

Answers = Literal["one", "pair", "ranked", "judged", "labelled", "matched"]
"""What a record becomes: one sample; a preferred and a rejected answer, two samples that are never parted; all of its
answers, likewise, the best one first; answers of which each is judged to be wanted or not; a text with its labels; or
a query with a text that matches it, and with those that do not."""


_set = object.__setattr__
"""What a frozen dataclass sets its own fields by."""


@dataclass(frozen=True)
class Refusal:
    """Why a record became no example: `reason` is counted, `detail` explains this one."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Note:
    """Something to be told of a record that is used all the same. Counted by kind and name."""

    kind: Literal["unread", "ignored", "absent", "guess", "weighted"]
    """unread: a key that nothing reads. ignored: one of data.ignore_columns. absent: data.columns names a column that
    the record does not have. guess: what was decided for the user, and how to decide otherwise. weighted: it has the
    column of data.mixture.weight_column."""
    name: str
    """The key with its place, `messages[].tool_calls[].x`, or the guess as a sentence."""
    example: str = ""
    """The value, shortened."""


@dataclass(frozen=True)
class TrainedParts:
    """An answer of which parts are no targets. `untrained`: characters [start, end) of the text `of`, in order."""

    of: str
    untrained: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Message:
    """One turn. `train` None: as `data.train_on` says; False: never a target.

    A conversation of a single message of role `text` is plain text: no template, all of it is trained.
    """

    role: str
    content: str
    train: bool | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    """Each `{type: function, function: {name, arguments}}`, mostly with an `id`; `arguments` is always an object."""
    tool_call_id: str = ""
    reasoning: str = ""
    """What an assistant thought before `content`, where the record keeps it apart from the answer: templates get it
    as `reasoning_content` (and `thinking`). Reasoning that stands inside the text, as `<think>...</think>`, stays
    there: templates that know the block cut it out themselves. Empty: there is none."""
    name: str = ""
    """Who speaks: the function whose result a tool turn holds. Templates get it as `name`. Empty: not said."""
    parts: TrainedParts | None = None
    """Where the turn is trained, but not all of its text is."""


def plain_message(role: str, content: str) -> Message:
    """Message(role, content), as most turns are, in a third of the time: fields not set are the class's defaults."""
    made = object.__new__(Message)
    _set(made, "role", role)
    _set(made, "content", content)
    return made


@dataclass(frozen=True)
class Candidate:
    """One of several answers to the same messages; a higher score is better."""

    messages: tuple[Message, ...]
    score: float


@dataclass(frozen=True)
class Conversation:
    """What every format becomes. `tool_calls` and `tools` are in OpenAI's nested form.

    `messages` is what supervised fine-tuning trains on; where a format has several answers, it ends in the
    best of `candidates`, which hold only the answers.
    """

    id: int
    messages: tuple[Message, ...]
    source: str = ""
    """Name of the entry of data.train or data.eval it came from."""
    tags: tuple[str, ...] = ()
    """What was done to it: `augmented:noise`, `masked:pii`..."""
    tools: tuple[dict[str, Any], ...] = ()
    candidates: tuple[Candidate, ...] = ()
    label: str | None = None
    """Its label; where records may have several, each in a line, empty for none of them."""
    wanted: bool | None = None
    """Does the record say that its answer is a good one? None: it says nothing of the kind."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Columns that describe the record (difficulty, category, language, a score), by name."""
    weight: float = 1.0
    """Weight of its target tokens in the loss."""
    notes: tuple[Note, ...] = ()
    """What the certificate tells of the record that it came from."""

    @property
    def last_assistant(self) -> int:
        """Index of the last assistant turn (of the text, in plain text)."""
        return max(i for i, message in enumerate(self.messages) if message.role in ("assistant", "text"))


def plain_conversation(
    id: int, messages: tuple[Message, ...], source: str, metadata: Mapping[str, Any]
) -> Conversation:
    """Conversation(id, messages, source=source, metadata=metadata), as most are: see plain_message."""
    made = object.__new__(Conversation)
    _set(made, "id", id)
    _set(made, "messages", messages)
    _set(made, "source", source)
    _set(made, "metadata", metadata)
    return made


def judged(conversation: Conversation) -> tuple[Conversation, ...] | Refusal:
    """The answers of a record, each with its judgement: its own; of compared ones the preferred and the rejected."""
    if not conversation.candidates:
        if conversation.wanted is None:
            return Refusal(
                "not_judged",
                "nothing says whether the answer is wanted; expected `label: true` or `label: false` beside it, or "
                "answers that are compared (chosen, rejected)",
            )
        return (conversation,)
    found = preference(conversation)
    if isinstance(found, Refusal):
        return found
    prompt = conversation.messages[: len(conversation.messages) - len(found[0].messages)]
    return tuple(
        replace(conversation, messages=(*prompt, *candidate.messages), candidates=(), wanted=wanted)
        for candidate, wanted in zip(found, (True, False), strict=True)
    )


def preference(conversation: Conversation) -> tuple[Candidate, Candidate] | Refusal:
    """(the preferred, the rejected) of a conversation's candidates: the highest and the lowest score, the first of
    equals."""
    best_first = _best_first(conversation)
    if isinstance(best_first, Refusal):
        return best_first
    best = best_first[0]
    worst = next(candidate for candidate in best_first if candidate.score == best_first[-1].score)
    if _read(best) == _read(worst):
        told = "the same" if best.messages == worst.messages else "the same but for blanks or the form of accents"
        return Refusal("no_preference", f"the preferred and the rejected answer are {told}; expected different ones")
    return best, worst


def ranking(conversation: Conversation) -> tuple[Candidate, ...] | Refusal:
    """All candidates of a conversation, the best first; those of equal scores as they stand in the record."""
    best_first = _best_first(conversation)
    if isinstance(best_first, Refusal):
        return best_first
    for number, candidate in enumerate(best_first):
        for other in best_first[:number]:
            if other.score > candidate.score and _read(other) == _read(candidate):
                return Refusal(
                    "no_preference",
                    f"one answer has two scores, {other.score:g} and {candidate.score:g}; expected different answers",
                )
    return best_first


def _best_first(conversation: Conversation) -> tuple[Candidate, ...] | Refusal:
    """Its candidates by their scores, of which there are two at least."""
    candidates = conversation.candidates
    if len(candidates) < 2:
        return Refusal(
            "no_pair",
            f"{len(candidates) or 'no'} answers that are compared; expected two or more, in the format preference "
            "(prompt, chosen, rejected) or ranking (prompt, responses, scores)",
        )
    best_first = tuple(sorted(candidates, key=lambda candidate: -candidate.score))
    if not best_first[0].score > best_first[-1].score:
        score = best_first[0].score
        return Refusal(
            "no_preference", f"all {len(candidates)} answers have the score {score:g}; expected different ones"
        )
    return best_first


def _read(candidate: Candidate) -> list[Message]:
    """An answer as a reader sees it, which is what is preferred."""
    return [replace(message, content=bare(message.content)) for message in candidate.messages]
