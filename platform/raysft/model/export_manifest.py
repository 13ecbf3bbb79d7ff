"""export.json: which files an export has, and whether they are still those. Written last: without it, no export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysft import sealed, storage

MANIFEST = "export.json"
CHECK = "check"
"""What stands in it of the exported model's loss beside that of the training (run/export_check.py)."""
FORMAT_VERSION = 1
ENTRY: sealed.Shape = {"name": str, "bytes": int, "sha256": str}


def read_export_manifest(out: str, identity: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The manifest of an intact export; None when it is absent, of another identity, or a file is damaged."""
    manifest = sealed.read(storage.join(out, MANIFEST), {"files": list})
    if manifest is None or (identity is not None and not is_of(out, identity)):
        return None
    return manifest if all(_is_whole(out, entry) for entry in manifest["files"]) else None


def is_of(out: str, identity: Mapping[str, Any]) -> bool:
    """Is there a manifest of this identity? Its files may be damaged."""
    manifest = sealed.read(storage.join(out, MANIFEST), {"files": list})
    return manifest is not None and {k: v for k, v in manifest.items() if k not in ("files", CHECK)} == dict(identity)


def damaged_files(out: str) -> list[str]:
    """Files of an export that are gone or not as its manifest says, by their names there. [] without a manifest."""
    manifest = sealed.read(storage.join(out, MANIFEST), {"files": list})
    entries = manifest["files"] if manifest else []
    return [
        str(entry.get("name")) if isinstance(entry, dict) else "?" for entry in entries if not _is_whole(out, entry)
    ]


def describe_files(directory: Path, part: str, known: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """[{name, bytes, sha256}] of a part, names relative to the export's directory. known: those not to be read, in
    the directory or at their place already."""
    names = {path.relative_to(directory).as_posix() for path in files_below(directory / part)}
    described = []
    for name in sorted(names | {name for name in known if name.startswith(f"{part}/")}):
        if name in known:
            size, checksum = known[name]["bytes"], known[name]["sha256"]
        else:
            size, checksum = storage.size_and_sha256(str(directory / name))
        described.append({"name": name, "bytes": size, "sha256": checksum})
    return described


def files_below(directory: Path) -> list[Path]:
    """All files of a directory, sorted."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _is_whole(out: str, entry: Any) -> bool:
    """Has a file of the manifest its size and checksum?"""
    if sealed.problem_of(entry, ENTRY) or ".." in entry["name"].split("/"):
        return False
    try:
        return storage.size_and_sha256(storage.join(out, entry["name"])) == (entry["bytes"], entry["sha256"])
    except OSError:
        return False
