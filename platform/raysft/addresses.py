"""Who can read what is sent to an address, and by which way it goes. Pure."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_this_machine(address: str) -> bool:
    """Whether what is sent to an address stays here."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_private_way(address: str) -> bool:
    """Whether nobody between here and there can read what is sent."""
    return urlsplit(address).scheme == "https" or is_this_machine(address)


def proxies(address: str) -> dict[str, str] | None:
    """As `requests` takes them: to this machine none, whatever HTTP_PROXY says; to others the environment's."""
    return {"http": "", "https": ""} if is_this_machine(address) else None
