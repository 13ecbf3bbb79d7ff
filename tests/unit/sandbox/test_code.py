"""Which code an answer has."""

from __future__ import annotations

import pytest

from raysft.sandbox.code import code_of


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("def f():\n    return 1", "def f():\n    return 1"),
        ("Here:\n```python\ndef f(): pass\n```\nDone.", "def f(): pass\n"),
        ("```py\ndef f(): pass\n```\nSo:\n```python\nprint(f())\n```", "def f(): pass\n"),
        ("Draft:\n```\ndef f(): 1\n```\nBetter:\n```\nclass A: 2\n```", "class A: 2\n"),
        ("```bash\npip install x\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("```bash\npip install x\n```", "```bash\npip install x\n```"),
        ("```python\ndef f():\n    return 1", "def f():\n    return 1"),
        ("~~~python title=a\nasync def f(): pass\n~~~", "async def f(): pass\n"),
        ("````python\ndef f():\n    '''\n```\n'''\n````", "def f():\n    '''\n```\n'''\n"),
        ("1. so\n   ```python\n   x = 1\n   ```\n", "   x = 1\n"),
        ("", ""),
    ],
)
def test_code_of_an_answer(text: str, code: str) -> None:
    assert code_of(text) == code
