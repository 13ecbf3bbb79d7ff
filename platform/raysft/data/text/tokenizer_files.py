"""Where a trained tokenizer goes: a directory that holds none yet, and gets it whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from raysft.errors import ConflictError, StorageError
from raysft.storage import absolute, check_writable, exists, join

_TOKENIZER = "tokenizer.json"


def check_out(out: str, overwrite: bool) -> None:
    """Refuse a directory that cannot be written, or has a tokenizer. Raises StorageError, ConflictError."""
    if not overwrite and exists(join(absolute(out), _TOKENIZER)):
        raise ConflictError(
            f"there is a tokenizer in {out}",
            got=f"{join(out, _TOKENIZER)}, which models may have been trained with",
            expected="a new directory",
            fix="name another --out, or say --overwrite",
        )
    try:
        check_writable(absolute(out))
    except StorageError as error:
        raise StorageError(
            f"cannot write the tokenizer to {out}",
            got=error.got,
            expected="a directory that can be made or written",
            fix="choose another --out",
        ) from error


def publish(tokenizer: PreTrainedTokenizerFast, out: str) -> None:
    """Save beside `out`, then rename file by file, the tokenizer itself last: a full disk leaves no half of one."""
    place = Path(absolute(out))
    try:
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as folder:
            tokenizer.save_pretrained(folder)
            place.mkdir(exist_ok=True)
            for name in sorted(os.listdir(folder), key=lambda name: name == _TOKENIZER):
                os.replace(Path(folder, name), place / name)
    except Exception as error:  # boundary: the tokenizers library raises its own for a full disk
        raise StorageError(
            f"cannot write the tokenizer to {out}",
            got=f"{type(error).__name__}: {error}",
            expected="a directory this process may write to, with space left",
            fix="name another --out",
        ) from error
