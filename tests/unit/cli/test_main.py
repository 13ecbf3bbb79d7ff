"""A command as a process: what it imports, prints and returns, whatever ends it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import raysft

from raysft.recipe import load

ROOT = Path(__file__).resolve().parents[3]


IMPORTS_S = 240
"""Within which a process has imported all that it needs, on a machine that is busy: 10 to 16 s of CPU."""


def subprocess_run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "platform")} | environment,
        capture_output=True,
        text=True,
        timeout=IMPORTS_S,
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom raysft.cli import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'pydantic') if name in sys.modules])"
    )
    ended = subprocess_run("-c", code)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "example:" in ended.stdout


def test_output_that_finds_no_room_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "raysft.cli", "schema"],
            env=os.environ | {"PYTHONPATH": str(ROOT / "platform")},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=IMPORTS_S,
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: cannot write the output")
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


def test_an_image_without_a_package_is_told(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'pydantic'\", name='pydantic')"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT / "platform")])
    ended = subprocess_run("-m", "raysft.cli", "train", "recipe.yaml", PYTHONPATH=path)
    assert ended.returncode == 2
    assert "got: No module named 'pydantic'" in ended.stderr
    assert "cluster/Dockerfile" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_terminal_that_is_not_utf_8_gets_escapes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\nmodel: {source: a/b}\ndata: {train: x}\nschl\u00fcssel-\u6587: 1\n", encoding="utf-8")
    ended = subprocess_run("-m", "raysft.cli", "train", str(path), PYTHONIOENCODING="ascii")
    assert ended.returncode == 2
    assert "unknown key schl\\xfcssel-\\u6587" in ended.stderr


def test_control_characters_are_only_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = raysft(capsys, "train", str(tmp_path / "a\x1b]0;title\x07\x9b31m.yaml"))
    assert ran.code == 2
    assert "a\\u001b]0;title\\u0007\\u009b31m.yaml" in ran.err
    assert not {"\x1b", "\x07", "\x9b"} & set(ran.err + ran.out)


def test_a_process_ends_with_a_message_and_a_code(tmp_path: Path) -> None:
    ended = subprocess_run("-m", "raysft.cli", "train", str(tmp_path / "nowhere.yaml"))
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: cannot read the recipe")
    assert "Traceback" not in ended.stderr
    debug = subprocess_run("-m", "raysft.cli", "train", "--debug", str(tmp_path / "nowhere.yaml"))
    assert debug.returncode == 2
    assert "Traceback" in debug.stderr
    assert "RecipeError" in debug.stderr


def test_an_address_where_nobody_is_fails_soon(recipe: Path) -> None:
    """ray.init alone would ask for more than five minutes; the process may take IMPORTS_S."""
    ended = subprocess_run("-m", "raysft.cli", "prepare", str(recipe), RAY_ADDRESS="127.0.0.1:1")
    assert ended.returncode == 2
    assert "cannot join the Ray cluster 127.0.0.1:1" in ended.stderr
    assert "RAY_ADDRESS" in ended.stderr
    assert "accelerator" not in ended.stdout + ended.stderr


def test_what_nobody_foresaw_is_the_platforms_fault(capsys, recipe: Path, monkeypatch) -> None:
    def fail(path: str, overrides: list[str]) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(load, "load_recipe", fail)
    ran = raysft(capsys, "train", recipe)
    assert ran.code == 3
    assert ran.err.splitlines() == ["error: RuntimeError: boom", "  fix: run again with --debug and report it"]
    ran = raysft(capsys, "train", recipe, "--debug")
    assert ran.code == 3
    assert "Traceback" in ran.err


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/root/base"),
        OSError(errno.ENAMETOOLONG, "File name too long", "a" * 3000),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "recipe.yaml/x"),
        OSError(errno.ESTALE, "Stale file handle", "/mnt/storage"),
        OSError(errno.ENOSPC, "No space left on device", "/mnt/storage/runs/a"),
        OSError(errno.EMFILE, "Too many open files", "/mnt/storage"),
    ],
)
def test_what_the_system_refuses_is_the_surroundings_fault(capsys, recipe: Path, monkeypatch, error: OSError) -> None:
    words = {errno.ESTALE: "mount", errno.ENOSPC: "room", errno.EMFILE: "ulimit"}

    def fail(path: str, overrides: list[str]) -> None:
        raise error

    monkeypatch.setattr(load, "load_recipe", fail)
    ran = raysft(capsys, "train", recipe)
    assert ran.code == 2
    assert ran.err.startswith(
        f"error: the system refuses a file or a folder\n  got: [Errno {error.errno}] {error.strerror}"
    )
    assert error.filename[-20:] in ran.err
    assert words.get(error.errno, "check the path") in ran.err
    assert len(ran.err) < 700


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), SystemExit(15)])
def test_ctrl_c_and_sigterm_say_how_to_go_on(capsys, recipe: Path, monkeypatch, ending: BaseException) -> None:
    """Ray's handler of SIGTERM raises the second."""

    def interrupt(path: str, overrides: list[str]) -> None:
        raise ending

    monkeypatch.setattr(load, "load_recipe", interrupt)
    ran = raysft(capsys, "train", recipe)
    assert ran.code == 130
    assert "goes on from the last checkpoint" in ran.err
