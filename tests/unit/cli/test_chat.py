"""A conversation: what is asked and remembered, what a terminal sees."""

from __future__ import annotations

import os
import pty
import re
import select
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from exports import write_export

from raysft.cli.chat import Chat
from raysft.errors import ModelError


class Parrot:
    """Says what it was asked, with what is given it in front."""

    def __init__(self, name: str, says: str = "") -> None:
        self.name, self._says = name, says
        self.generator = self
        self.asked: list[list[tuple[str, str]]] = []

    def chat_prompt(self, turns: Sequence[tuple[str, str]]) -> str:
        self.asked.append(list(turns))
        return turns[-1][1]

    def stream(self, prompt: str, how: object, tell: Callable[[str], None], *, number: int) -> str:
        if prompt == "too long":
            raise ModelError("a prompt is too long for the model", got="900 tokens")
        tell(self._says)
        if prompt == "stop":
            raise KeyboardInterrupt
        tell(prompt)
        return self._says + prompt


def talk(monkeypatch: pytest.MonkeyPatch, lines: list[str], *speakers: Parrot, system: str = "") -> None:
    waiting = iter(lines)

    def read(prompt: str) -> str:
        for line in waiting:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read)
    Chat([(speaker.name, speaker) for speaker in speakers], None, system).run()


def test_a_talk_is_remembered_until_a_new_one(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    parrot = Parrot("p")
    talk(monkeypatch, ["a", "", "b", "/new", "c", "/system S", "d", "/what", "/quit", "e"], parrot)
    assert parrot.asked == [
        [("user", "a")],
        [("user", "a"), ("assistant", "a"), ("user", "b")],
        [("user", "c")],
        [("system", "S"), ("user", "d")],
    ]
    assert "/new begins anew" in capsys.readouterr().out


def test_two_models_are_asked_the_same_and_remember_their_own(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    one, other = Parrot("one", "1"), Parrot("other", "2")
    talk(monkeypatch, ["a", "b"], one, other, system="S")
    assert one.asked[1] == [("system", "S"), ("user", "a"), ("assistant", "1a"), ("user", "b")]
    assert other.asked[1] == [("system", "S"), ("user", "a"), ("assistant", "2a"), ("user", "b")]
    assert "one: 1a\nother: 2a\n" in capsys.readouterr().out


def test_one_of_them_answers_until_all_do(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    one, other = Parrot("one", "1"), Parrot("other", "2")
    talk(monkeypatch, ["/only other", "a", "/only", "b", "/only who", "c"], one, other)
    assert [turns[-1][1] for turns in one.asked] == ["b", "c"]
    assert [turns[-1][1] for turns in other.asked] == ["a", "b", "c"]
    assert one.asked[0] == [("user", "b")]
    assert other.asked[1] == [("user", "a"), ("assistant", "2a"), ("user", "b")]
    assert "one of one, other" in capsys.readouterr().out


def test_an_answer_that_fails_or_is_broken_off_is_forgotten(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    parrot = Parrot("p")
    talk(monkeypatch, ["a", "stop", "too long", "b"], parrot)
    assert parrot.asked[-1] == [("user", "a"), ("assistant", "a"), ("user", "b")]
    out = capsys.readouterr().out
    assert "broken off" in out
    assert "900 tokens" in out


def test_control_sequences_of_a_model_are_shown_and_not_obeyed(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    talk(monkeypatch, ["a"], Parrot("p", "\x1b]0;title\x07\x1b[2J\u202e\n"))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\u001b]0;title\\u0007\\u001b[2J\\u202e\n" in out


def read_until(descriptor: int, pattern: str, timeout_s: float = 120.0) -> str:
    text, end = b"", time.monotonic() + timeout_s
    while not re.search(pattern, text.decode(errors="replace")):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{pattern!r} did not come; {text!r}"
        try:
            text += os.read(descriptor, 4096)
        except OSError:  # the other side is closed
            break
    return text.decode(errors="replace")


def test_played_through_in_a_pseudo_terminal(tmp_path: Path) -> None:
    """With a model whose weights are chance: what it says holds control characters."""
    export = write_export(tmp_path / "export", max_position_embeddings=400)
    options = ["--temperature", "3", "--max-new-tokens", "60"]
    command = [sys.executable, "-m", "raysft.cli", "chat", str(export), "--compare", str(export), *options]
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, command)
    try:
        start = read_until(terminal, "> $")
        assert f"model: {export}" in start
        assert "Ctrl-D ends" in start
        os.write(terminal, "hello 好\n".encode())
        said = read_until(terminal, "\r\n> $")
        first, second = re.findall(r"(?:model|other): (.*?)\r\n", said.replace("\r\n ", " "), re.DOTALL)[:2]
        assert first == second != ""  # one model, one seed
        assert "\x1b" not in said
        assert re.search(r"\\u00[01][0-9a-f]", said)
        os.write(terminal, b"/new\n")
        assert "a new conversation" in read_until(terminal, "\r\n> $")
        os.write(terminal, b"\x04")
        read_until(terminal, "never")
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        child = 0
    finally:
        if child:
            os.kill(child, 9)
            os.waitpid(child, 0)
        os.close(terminal)


def test_an_empty_answer_is_told(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    class Silent(Parrot):
        def stream(self, prompt: str, how: object, tell: Callable[[str], None], *, number: int) -> str:
            return "\n"

    talk(monkeypatch, ["a"], Silent("s"))
    assert "empty answer" in capsys.readouterr().out
