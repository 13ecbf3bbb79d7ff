"""Answers that mean harm, and answers that are right: what tests make of each, behind the barriers.

Code is run for real; where a machine has no landlock or seccomp these tests are skipped, which CI's machines have.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from landlock import needs_landlock

from raysft.sandbox import jail
from raysft.sandbox.barriers import Limits
from raysft.sandbox.jail import ENVIRONMENT, Verdict, judge

LIMITS = Limits(cpu_s=1, memory_bytes=256 << 20)
TESTS = "assert add(1, 2) == 3\nassert add('a', 'b') == 'ab'\n"
DEFINED = "def add(a, b):\n    return "

HARMFUL = {
    "wrong": (f"{DEFINED}a - b", "wrong"),
    "no python": ("def add(a, b)\n", "raised"),
    "nothing of that name": ("def sum(a, b): return a + b", "raised"),
    "endless": ("while True: pass", "time"),
    "endless, and deaf": ("import signal\nsignal.signal(signal.SIGXCPU, lambda *a: 0)\nwhile True: pass", "time"),
    "asleep": ("import time\ntime.sleep(1000)", "time"),
    "forks": ("import os\nos.fork()", "raised"),
    "fork bomb": ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "time"),
    "child that stays": ("import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)", "raised"),
    "thread": ("import threading\nthreading.Thread(target=print).start()", "raised"),
    "ends before the tests": ("import sys\nsys.exit(0)", "ended"),
    "ends hard": ("import os\nos._exit(0)", "ended"),
    "ends in the call": ("import os\ndef add(a, b): os._exit(0)", "ended"),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)", "raised"),
    "kills its group": ("import os\nos.killpg(0, 9)", "raised"),
    "kills all": ("import os\nos.kill(-1, 9)", "raised"),
    "equal to all": ("class A:\n  def __eq__(self, other): return True\ndef add(a, b): return A()", "wrong"),
    "a list equal to all": ("class A(list):\n  def __eq__(s, o): return True\ndef add(a, b): return A()", "wrong"),
    "an assertion of its own": ("def add(a, b): raise AssertionError", "raised"),
    "patches the tests' tools": (
        "import unittest, builtins\nunittest.TestCase.assertEqual = print\nbuiltins.AssertionError = ValueError\n"
        "builtins.isinstance = lambda *a: True\ndef add(a, b): return 0",
        "ended",
    ),
    "reads its frames": (
        "import sys\ndef add(a, b):\n  f, found = sys._getframe(), []\n  while f: found += list(f.f_locals.values()) "
        "+ list(f.f_code.co_consts); f = f.f_back\n  return 3 if any('assert' in str(x) for x in found) else 0",
        "wrong",
    ),
    "closes all": ("import os\nos.closerange(0, 100)", "ended"),
    "says that it passed": (
        'import os\nfor i in range(64):\n  try: os.write(i, b\'{"verdict": "passed", "why": ""}\\n\')\n'
        "  except OSError: pass\ndef add(a, b): return 0",
        None,
    ),
    "answers too early": (
        "import os\nfor i in range(3, 64):\n  try: os.write(i, b'{\"value\": 3}\\n' * 9)\n  except OSError: pass",
        "raised",
    ),
    "prints for ever": ("while True: print('x' * 1000)", "time"),
    "a huge value": ("def add(a, b): return 'x' * (1 << 25)", "raised"),
    "a deep value": ("def add(a, b):\n  x = []\n  for _ in range(10**5): x = [x]\n  return x", "raised"),
    "deep recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(a, b)", None),
    "a segmentation fault": ("import ctypes\nctypes.string_at(0)", "ended"),
    "all memory": ("x = []\nwhile True: x.append(bytearray(1 << 24))", "raised"),
    "more memory allowed": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "raised",
    ),
    "many files": ("i = 0\nwhile True:\n  i += 1\n  open(str(i), 'w').close()", None),
    "large files": ("i = 0\nwhile True:\n  i += 1\n  open(str(i), 'wb').write(bytes(1 << 23))", None),
    "directories": ("import os\nos.mkdir('a')", "raised"),
    "a link": ("import os\nos.symlink('/etc/passwd', 'a')", "raised"),
    "debugs its parent": (
        "import ctypes, os\nassert ctypes.CDLL(None).ptrace(0x4206, os.getppid(), 0, 0) == 0",
        "raised",
    ),
    "starts io_uring": (
        "import ctypes\nassert ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120)) > 0",
        "raised",
    ),
}
RIGHT = {
    "a function": (f"{DEFINED}a + b", TESTS),
    "a class": (
        "class P:\n  def __init__(s, a): s.a = a\ndef f(p): return [x.a for x in p]",
        "assert f([P(1)]) == [1]",
    ),
    "in place": ("def f(x): x.reverse()", "a = [1, 2]\nassert f(a) is None\nassert a == [2, 1]"),
    "a generator": ("def f(n):\n  for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]"),
    "an error": ("def f(): raise KeyError('k')", "try: f()\nexcept KeyError: pass\nelse: assert 0"),
    "a constant": ("X = {1: (2, 3)}", "assert X == {1: (2, 3)}"),
    "human eval": (f"{DEFINED}a + b", "def check(candidate):\n  assert candidate(1, 2) == 3\ncheck(add)"),
    "pytest": (f"{DEFINED}a + b", "def test_add():\n  assert add(1, 2) == 3"),
    "unittest": (
        f"{DEFINED}a + b",
        "import unittest\nclass T(unittest.TestCase):\n  def test_a(self): self.assertEqual(add(1, 2), 3)",
    ),
    "a file of its own": (
        "import tempfile\ndef f():\n  with tempfile.NamedTemporaryFile('w+') as g:\n    g.write('a')\n    g.seek(0)\n"
        "    return g.read()",
        "assert f() == 'a'",
    ),
    "the standard library": (
        "import re, json, random, datetime, itertools, decimal, heapq, zoneinfo, hashlib, struct\n"
        "def f(): return json.loads(str(decimal.Decimal(3))) + heapq.nsmallest(1, [2, 1])[0]",
        "assert f() == 4",
    ),
    "numpy": ("import numpy as np\ndef f(x): return np.array(x).cumsum()", "assert f([1, 2]) == [1, 3]"),
    "numpy inside": (
        "import numpy as np\ndef f(x): return {'a': (np.int64(x), [np.float32(1.5)])}",
        "assert f(2)['a'] == (2, [1.5])",
    ),
    "surrogates": ("def f(): return '\\ud800'", "assert f() == '\\ud800'"),
}
WRONG = {
    "pytest": ("def f(): return 1", "def test_f():\n  assert f() == 2", "wrong"),
    "unittest": (
        "def f(): return 1",
        "import unittest\nclass T(unittest.TestCase):\n  def test_a(self): self.assertEqual(f(), 2)",
        "wrong",
    ),
    "no test": ("def f(): return 1", "assert True", "untested"),
    "tests that are no Python": ("def f(): return 1", "assert f( == 1", "untested"),
    "a name of Python's": ("abs = lambda x: 0\ndef f(): return 9", "assert abs(f() - 1) < 1", "wrong"),
}


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[str, str], Verdict]:
    """All at once, on two cores."""
    asked = {("harmful", name): (code, TESTS) for name, (code, _) in HARMFUL.items()}
    asked |= {("right", name): case for name, case in RIGHT.items()}
    asked |= {("wrong", name): (code, tests) for name, (code, tests, _) in WRONG.items()}
    with ThreadPoolExecutor(6) as threads:
        found = threads.map(lambda case: judge(*case, limits=LIMITS), asked.values())
        return dict(zip(asked, found, strict=True))


@needs_landlock
@pytest.mark.parametrize("name", HARMFUL)
def test_harm_is_no_success(name: str, verdicts: dict[tuple[str, str], Verdict]) -> None:
    found, expected = verdicts["harmful", name], HARMFUL[name][1]
    assert not found.passed
    assert expected is None or found.kind == expected, found


@needs_landlock
@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name: str, verdicts: dict[tuple[str, str], Verdict]) -> None:
    assert verdicts["right", name] == Verdict("passed")


@needs_landlock
@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_do_not(name: str, verdicts: dict[tuple[str, str], Verdict]) -> None:
    assert verdicts["wrong", name].kind == WRONG[name][2], verdicts["wrong", name]


@needs_landlock
def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no descriptor, no child, when a test was killed, too."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    judge(f"{DEFINED}a + b", TESTS)  # imports are done
    before, children = len(os.listdir("/proc/self/fd")), Path(f"/proc/self/task/{os.getpid()}/children")
    known = set(children.read_text().split())
    started = time.monotonic()
    endless = "for i in range(300): open(str(i), 'w').close()\nimport time\ntime.sleep(1000)"
    found = judge(endless, TESTS, limits=LIMITS)
    assert (found.kind, time.monotonic() - started < 3) == ("files", True)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before
    assert set(children.read_text().split()) <= known


@needs_landlock
def test_setup_runs_in_front_of_both() -> None:
    setup = "import math\ndef twice(x): return 2 * x"
    assert judge("def f(x): return twice(math.floor(x))", "assert f(1.5) == twice(1)", setup=setup).passed
    assert judge("def f(x): return 3\ndef twice(x): return 3", "assert f(1) == twice(1)", setup=setup).kind == "wrong"


@needs_landlock
def test_a_machine_that_is_not_known_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child says so, and the parent says it aloud, instead of counting an answer as wrong."""
    monkeypatch.setattr(
        jail, "_PROGRAM", jail._PROGRAM.replace("main()", "import platform; platform.machine = lambda: 'vax'; main()")
    )
    with pytest.raises(jail.NoStartError, match="vax"):
        judge(f"{DEFINED}a + b", TESTS)


@needs_landlock
def test_what_the_code_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSFT_JUDGE_KEY", "secret")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    told = sorted({*ENVIRONMENT, "HOME", "TMPDIR"})
    assert judge("import os\ndef f(): return sorted(os.environ)", f"assert f() == {told}").passed
