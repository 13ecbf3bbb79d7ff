"""What must not stand in a record, a page or a message: passwords and signatures inside URLs."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"

_USER = re.compile(r"(?P<scheme>[A-Za-z][\w.+-]*://)(?P<user>[^\s/?#@:]*):[^\s/?#]*@")
_QUERY = re.compile(
    r"(?P<name>[?&;][^\s=&;?#]*(?:pass|pwd|secret|token|sig|key|cred|auth|code|session)[^\s=&;?#]*=)[^\s&;#\"']+",
    re.I,
)


def without_secrets(text: str) -> str:
    """A text whose URLs have `***` for each password and for each query value that is a key or a signature."""
    return _QUERY.sub(rf"\g<name>{HIDDEN}", _USER.sub(rf"\g<scheme>\g<user>:{HIDDEN}@", text))


def hidden(value: Any) -> Any:
    """The same JSON value, every text in it without its secrets."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {key: hidden(child) for key, child in value.items()}
    return [hidden(child) for child in value] if isinstance(value, list | tuple) else value
