"""`raysft chat`: a conversation in a terminal. Reads lines, writes answers while they are made; owns no model.

What a model says is data: control sequences in it are shown, not obeyed.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from raysft.errors import UserError
from raysft.observe.console import printable

HELP = "/new begins anew, /system TEXT sets the system prompt, /quit or Ctrl-D ends; Ctrl-C breaks an answer off"

SEVERAL = "/only NAME lets one of them answer, /only all of them: with --compare base the adapter on and off"


class Speaker(Protocol):
    """A model that is ready to answer (evaluate/ready.py)."""

    @property
    def name(self) -> str: ...
    @property
    def generator(self) -> Any: ...
    def chat_prompt(self, turns: Sequence[tuple[str, str]]) -> str: ...


class Chat:
    """One conversation with a model, or with several that are asked the same and remember their own answers."""

    def __init__(self, speakers: Sequence[tuple[str, Speaker]], how: Any, system: str = "") -> None:
        """speakers: (what their answers are headed by, model)."""
        self._speakers, self._how = speakers, how
        self._system, self._asked = system, 0
        self._talks: list[list[tuple[str, str]]] = [[] for _ in speakers]
        self._silent: set[str] = set()

    def run(self) -> None:
        """Until the input ends or the person does."""
        is_person = sys.stdin.isatty()
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # bytes of another encoding are no reason to end
        for label, speaker in self._speakers:
            _say(f"{label}: {speaker.name}\n")
        if is_person:
            _say(f"{HELP}\n")
            _say(f"{SEVERAL}\n" if len(self._speakers) > 1 else "")
        while True:
            try:
                line = input("> " if is_person else "")
            except EOFError:
                _say("\n" if is_person else "")
                return
            except KeyboardInterrupt:  # at the prompt: the line is thrown away
                _say("\n")
                continue
            if line.strip() in ("/quit", "/exit"):
                return
            if line.strip():
                self._take(line)

    def _take(self, line: str) -> None:
        command, _, rest = line.strip().partition(" ")
        if command == "/new":
            self._talks = [[] for _ in self._speakers]
            _say("a new conversation\n")
        elif command == "/system":
            self._system = rest.strip()
            self._talks = [[] for _ in self._speakers]
            _say(
                "a new conversation, with that system prompt\n"
                if rest.strip()
                else "a new conversation, without one\n"
            )
        elif command == "/only":
            self._choose(rest.strip())
        elif command.startswith("/") and command[1:].isalpha():
            _say(f"{command}: {HELP}\n")
        else:
            self._ask(line)

    def _choose(self, name: str) -> None:
        """Who answers from now on: one of them, or, without a name, all. Who is silent hears nothing."""
        labels = [label for label, _ in self._speakers]
        if name and name not in labels:
            _say(f"/only is followed by one of {', '.join(labels)}, or by nothing for all of them; got {name}\n")
            return
        self._silent = {label for label in labels if name and label != name}
        _say(f"{name or 'all of ' + ', '.join(labels)} will answer\n")

    def _ask(self, question: str) -> None:
        """Every model's answer. One that cannot be given, or is broken off, is forgotten with its question."""
        opening = [("system", self._system)] if self._system else []
        several = len(self._speakers) > 1
        for (label, speaker), talk in zip(self._speakers, self._talks, strict=True):
            if label in self._silent:
                continue
            turns = [*talk, ("user", question)]
            if several:
                _say(f"{label}: ")
            try:
                prompt = speaker.chat_prompt([*opening, *turns])
                answer = speaker.generator.stream(prompt, self._how, _say, number=self._asked)
            except KeyboardInterrupt:
                _say(" (broken off)")
            except UserError as error:
                _say(f"({error.what}: {error.got}; /new begins anew)")
            else:
                talk[:] = [*turns, ("assistant", answer)]
                _say("" if answer.strip() else "(an empty answer: nothing came before the model's end of text)")
            _say("\n")
        self._asked += 1


def _say(text: str) -> None:
    sys.stdout.write(printable(text))
    sys.stdout.flush()
