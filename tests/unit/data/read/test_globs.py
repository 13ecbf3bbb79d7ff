"""Patterns mean what they mean in Python's glob and in bash, which are the references here."""

from __future__ import annotations

import glob
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from raysft.data.read.globs import expand_braces, matches, split_pattern
from raysft.data.read.walk import glob_local, glob_remote
from raysft.errors import DataError

BASH = shutil.which("bash")
FILES = (
    *("a.jsonl", "b.jsonl", "shard-0.jsonl", "shard-1.jsonl", "shard-2.jsonl", "shard-^.jsonl", "x[1].jsonl"),
    *("deep/a.jsonl", "deep/er/a.jsonl", "deep/er/b.txt", "deep/.hidden/a.jsonl", ".h.jsonl", "deep/.h.jsonl"),
    *("sub/a.jsonl", "sub/deep/a.jsonl", "_x/a.jsonl", "_y.jsonl", "sub/你好.jsonl", "a b/c d.jsonl"),
)
PATTERNS = (
    *(
        "*.jsonl",
        "shard-[!0].jsonl",
        "shard-[01].jsonl",
        "shard-?.jsonl",
        "?.jsonl",
        "**",
        "**/*.jsonl",
        "**/a.jsonl",
    ),
    *(
        "*/a.jsonl",
        "*/*",
        "deep/**/*.jsonl",
        "**/deep/**",
        "**/**/a.jsonl",
        "*/**/a.jsonl",
        ".*",
        "deep/.*/*",
        "**/.h*",
    ),
    *(
        "x[[]1].jsonl",
        "_*",
        "_*/*",
        "sub/*.jsonl",
        "a */*",
        "*o*",
        "nothing*",
        "[a-b].jsonl",
        "s*-[0-9].j*l",
        "de*/e?/*",
    ),
    *("**/er/*", "*/er/**", "shard-[!0-1].jsonl", "**/*", "deep/**", "[]-a]*.jsonl"),
)


def python_files(folder: Path, pattern: str) -> list[str]:
    found = glob.glob(f"{glob.escape(str(folder))}/{pattern}", recursive=True)
    return sorted({str(Path(path).relative_to(folder)) for path in found if os.path.isfile(path)})


def make(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def local(folder: Path, pattern: str) -> list[str]:
    base, names = split_pattern(f"{folder}/{pattern}")
    return sorted(str(Path(found.path).relative_to(folder)) for found in glob_local(base, names).files)


def remote(folder: Path, pattern: str) -> list[str]:
    base, names = split_pattern(f"{folder}/{pattern}")
    found = glob_remote(pafs.LocalFileSystem(), base, names, "file:///").files
    return sorted(str(Path(one.path).relative_to(folder)) for one in found)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_local_and_remote_patterns_match_what_python_matches(tmp_path: Path, pattern: str) -> None:
    folder = make(tmp_path, FILES)
    assert local(folder, pattern) == remote(folder, pattern) == python_files(folder, pattern)


def test_random_patterns_match_what_python_matches(tmp_path: Path) -> None:
    draw = random.Random(0)
    names = ["a", "b", "ab", ".a", "_b", "a1"]
    files = tuple("/".join(draw.choice(names) for _ in range(draw.randint(1, 4))) + ".x" for _ in range(60))
    folder = make(tmp_path, files)
    pieces = ["*", "**", "a*", "?", "[!a]*", ".*", "*.x", "a.x", "*b*", "[ab].x", "a[0-9].x"]
    matched = 0
    for _ in range(120):
        pattern = "/".join([draw.choice(pieces[:6]), *(draw.choice(pieces) for _ in range(draw.randint(0, 3)))])
        wanted = python_files(folder, pattern)
        assert local(folder, pattern) == wanted, pattern
        assert remote(folder, pattern) == wanted, pattern
        matched += len(wanted)
    assert matched > 200


BRACES = (
    *(
        "shard-{1,2}.jsonl",
        "{a,b}{c,d}",
        "{a,{b,c}d}e",
        "x{1..4}",
        "{01..10}",
        "{5..1..2}",
        "{-1..1}",
        "{a..e}",
        "{e..a}",
    ),
    *(
        "{a}",
        "{}",
        "{a,",
        "a}b",
        "{a,b",
        "{{a,b}",
        "a{,b}",
        "{a,b},c",
        "{1..3}{x,y}",
        "{1..x}",
        "{001..3}",
        "a{b{c,d}e,f}g",
    ),
    *("{a,b}/{c,d}/*.{json,jsonl}", "{}{a,b}", "{a,a}", "{0..0}", "{-03..3..3}", "{a}{b,c}", "{b,{c}}", "{1..3..0}"),
)


@pytest.mark.skipif(BASH is None, reason="bash is the reference")
def test_braces_stand_for_what_they_stand_for_in_bash() -> None:
    script = "set -f\n" + "".join(f"printf '%s\\n' {text}; echo --\n" for text in BRACES)
    told = subprocess.run([BASH or "", "-c", script], capture_output=True, text=True, check=True).stdout.split("--\n")
    for text, wanted in zip(BRACES, told, strict=False):
        assert expand_braces(text) == list(dict.fromkeys(wanted.splitlines())), text


@pytest.mark.skipif(BASH is None, reason="bash is the reference")
def test_a_caret_negates_as_in_bash() -> None:
    """Python takes it as a character; shells are what people type into."""
    program = '[[ "$1" == $2 ]]'
    for name, pattern in [("a", "[^a]"), ("b", "[^a]"), ("^", "[^a]"), ("a", "[a^]"), ("^", "[a^]")]:
        wanted = subprocess.run([BASH or "", "-c", program, "_", name, pattern], check=False).returncode == 0
        assert matches(name, pattern) == wanted, (name, pattern)


@pytest.mark.parametrize("bomb", ["{1..1000000000000}", "{a,b}" * 40, "{" * 3000 + "a,b" + "}" * 3000])
def test_braces_have_a_bound(bomb: str) -> None:
    with pytest.raises(DataError, match="too many names"):
        expand_braces(f"x{bomb}.jsonl")
