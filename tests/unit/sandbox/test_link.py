"""Messages between processes: whole, and none without end."""

from __future__ import annotations

import os
import socket

import pytest

from raysft.sandbox.link import Link, LinkEndedError


def test_messages_arrive_one_by_one() -> None:
    one, other = socket.socketpair()
    with one, other:
        sender, receiver = Link(one.fileno(), 1000), Link(other.fileno(), 1000)
        for message in ([1, "\n\ud800"], {"a": None}):
            sender.send(message)
        assert [receiver.receive(), receiver.receive()] == [[1, "\n\ud800"], {"a": None}]
        with pytest.raises(ValueError, match="at most 1,000"):
            sender.send("a" * 1000)


@pytest.mark.parametrize("written", [b"", b"no json\n", b"[" * 900 + b"\n", b"a" * 2000, b"1"])
def test_what_is_no_message_ends_the_link(written: bytes) -> None:
    one, other = socket.socketpair()
    with other:
        os.write(one.fileno(), written)
        one.close()
        with pytest.raises(LinkEndedError):
            Link(other.fileno(), 1000).receive()


def test_nobody_listens() -> None:
    one, other = socket.socketpair()
    other.close()
    with one, pytest.raises(LinkEndedError):
        Link(one.fileno(), 1000).send(1)
