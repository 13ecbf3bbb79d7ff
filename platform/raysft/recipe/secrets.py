"""What must not stand in a record or on a page: passwords and signatures inside addresses, wherever in a value."""

from __future__ import annotations

from typing import Any

from raysft.errors import redacted


def hidden(value: Any) -> Any:
    """The same JSON value, every text in it as `errors.redacted` shows it."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: hidden(child) for key, child in value.items()}
    return [hidden(child) for child in value] if isinstance(value, list | tuple) else value
