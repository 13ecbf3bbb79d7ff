"""Which tests need a kernel, and a container, that let a process raise the barriers of the sandbox."""

from __future__ import annotations

import ctypes

import pytest

_VERSION = ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1)  # landlock_create_ruleset, what is known

needs_landlock = pytest.mark.skipif(_VERSION < 1, reason="no landlock here")
