"""The hub, knocked at once before transformers asks it for a minute with retries. Imports nothing of it."""

from __future__ import annotations

import logging
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from raysft.recipe.objective_traits import teachers_of
from raysft.recipe.schema import Recipe

logger = logging.getLogger(__name__)

WAIT_S = 5.0
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def settle_hub(recipe: Recipe) -> None:
    """Where a recipe names hub ids and the hub does not answer, use what is cached, and say so.

    To be called before huggingface_hub is imported, which reads its environment then.
    """
    sources = (recipe.model.source, recipe.model.tokenizer, *teachers_of(recipe))
    named = [name for name in sources if name and is_hub_id(name)]
    if not named or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return
    if any(os.environ.get(proxy) for proxy in _PROXIES):  # the proxy answers for it
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), timeout=WAIT_S).close()
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be reached (%s): what is cached of %s is used", endpoint, error, ", ".join(named))
        os.environ["HF_HUB_OFFLINE"] = "1"


def is_hub_id(name: str) -> bool:
    """`org/name` or `name`, and no path that is here."""
    is_one = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name) is not None
    return is_one and name != "random" and not Path(name).exists()
