"""One command from its arguments to its exit code. Imports nothing heavy before a verb needs it.

Exit codes: 0 done, 1 `doctor` found something, 2 the user can mend it, 3 the platform failed, 75 interrupted after a
commit, 130 interrupted; of a verb that follows a job, the job's.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from raysft.api.broken_imports import broken_import
from raysft.cli.evaluation_parser import joined
from raysft.cli.parser import parser
from raysft.errors import RaysftError
from raysft.observe.console import StderrHandler, printable

_PATH = "check the path in the recipe or the command; --debug shows where it was used"
_REFUSALS = {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), ("a path that this user may read, or write what is written", _PATH)
    ),
    **dict.fromkeys(
        (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
        ("names of at most 255 bytes, a folder where one is meant", _PATH),
    ),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ("room on that disk", "free some; the same command goes on")),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), ("files that may be opened", "raise the limit: ulimit -n 65536")),
    **dict.fromkeys((errno.EIO, errno.ESTALE), ("a disk or mount that answers", "mount it anew, or name another")),
}
"""{what the system says of a path or a disk, and raysft can do nothing about: what was expected, what mends it}."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; never a traceback unless --debug."""
    _print_anything()
    options = parser().parse_args(joined(list(sys.argv[1:] if arguments is None else arguments)))
    _quiet(options.debug)
    try:
        code = options.run(options)
        sys.stdout.flush()
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != signal.SIGTERM:  # so Ray answers that signal
            raise
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
        return 130
    except BrokenPipeError:  # `raysft schema | head`: whoever read our output has seen enough
        _forget_output()
        return 0
    except Exception as error:  # process boundary: everything becomes a message and an exit code
        if options.debug:
            traceback.print_exc()
        return _told(broken_import(error) or error)
    return code or 0


def _told(error: Exception) -> int:
    """Say what went wrong. Returns the exit code."""
    if isinstance(error, RaysftError):
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return error.exit_code
    if _is_of_output(error):
        _forget_output()
        sys.stderr.write(f"error: cannot write the output\n  got: {error}\n  fix: free the disk it goes to\n")
        return 2
    if isinstance(error, ModuleNotFoundError) and not (error.name or "raysft").startswith("raysft"):
        sys.stderr.write(
            f"error: a package that raysft needs is not installed here\n  got: {printable(str(error))}\n"
            "  expected: what pyproject.toml names, in the versions of constraints.txt\n"
            "  fix: pip install raysft; on a cluster, an image made by cluster/Dockerfile\n"
        )
        return 2
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        expected, fix = _REFUSALS[error.errno]
        told = f"  got: {printable(_cut(str(error)))}\n  expected: {expected}\n  fix: {fix}\n"
        sys.stderr.write(f"error: the system refuses a file or a folder\n{told}")
        return 2
    text = printable(f"{type(error).__name__}: {error}")
    sys.stderr.write(f"error: {text}\n  fix: run again with --debug and report it\n")
    return 3


def _cut(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:200]}...{text[-80:]}"


def _print_anything() -> None:
    """A terminal or file that is not UTF-8 gets escapes for what it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_of_output(error: Exception) -> bool:
    """Did our own output find no room? Of a file that raysft writes the error names the file, or is one of ours."""
    return isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _forget_output() -> None:
    """Nothing more goes to stdout, also not when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _quiet(debug: bool) -> None:
    """Our own lines, and other libraries' warnings; with --debug all of it. Ray's loggers: runtime/join.py."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[StderrHandler()], force=True)
    logging.getLogger("raysft").setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:  # read by these libraries when they are imported, which is later
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # also transformers' "Loading weights"
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # the driver's own; workers are told theirs
