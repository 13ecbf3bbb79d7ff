"""Addresses whose traffic nobody else can read, and proxies that stay out of this machine."""

from __future__ import annotations

import pytest

from raysft.addresses import is_private_way, proxies


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("https://10.0.0.5:8265", True),
        ("http://localhost:8265", True),
        ("http://127.8.0.1:8265", True),
        ("http://[::1]:8265", True),
        ("http://10.0.0.5:8265", False),
        ("http://head:8265", False),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost.example.com", False),
    ],
)
def test_private_ways(address: str, private: bool) -> None:
    assert is_private_way(address) == private


def test_no_proxy_stands_before_this_machine() -> None:
    assert proxies("http://127.0.0.1:8000/v1") == {"http": "", "https": ""}
    assert proxies("http://judge:8000/v1") is None
