"""What must not stand in a record or on a page: passwords and signatures inside addresses, wherever in a value."""

from __future__ import annotations

import re
from typing import Any

from raysft.errors import redacted

_PASSWORD = re.compile(r"://[^/?#@:\s]*:(?!\d*(?:[/?#]|$))[^?#]+@")
_TOKEN_AS_NAME = re.compile(r"\bhttps?://[^/?#@\s]+@", re.I)
_OPTION = re.compile(r"[?&;](?!ssl_?key=)[\w.%-]*(token|secret|passw|credential|key|sig)[\w.%-]*=[^&;#\s]", re.I)
"""A key, signature or password in a query; `sslkey` of a database names a file."""


def holds_secret(text: str) -> bool:
    """Is there a password, a key or a signature in an address?

    A name alone (postgresql://USER@HOST/NAME) is none, but where tokens are used as names: in http and https.
    """
    return "://" in text and any(one.search(text) for one in (_PASSWORD, _TOKEN_AS_NAME, _OPTION))


def hidden(value: Any) -> Any:
    """The same JSON value, every text in it as `errors.redacted` shows it."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: hidden(child) for key, child in value.items()}
    return [hidden(child) for child in value] if isinstance(value, list | tuple) else value
