"""The versions of whoever sent a run, told to its driver in a variable: an image with others is refused. Pure."""

from __future__ import annotations

from importlib.metadata import version

import raysft
from raysft.errors import ClusterError

SENT_BY = "RAYSFT_SENT_BY"
"""Variable of the head's container: `raysft 0.1.0, ray 2.60.0`."""


def sent_by() -> str:
    """What this machine has."""
    return f"raysft {raysft.__version__}, ray {version('ray')}"


def check_image(told: str, here: str) -> None:
    """Refuse an image with another raysft, or with a Ray of another minor version, than sized and sent the run.

    told, here: as `sent_by()` has it on either side. Raises ClusterError.
    """
    if _comparable(told) != _comparable(here):
        raise ClusterError(
            "the image has other versions than the machine that sent this run",
            got=here,
            expected=told,
            fix="build the image from the sender's checkout (cluster/Dockerfile), or send with the image's versions",
        )


def _comparable(versions: str) -> str:
    """Without Ray's patch: 2.60.1 runs what 2.60.0 sent."""
    return versions.rpartition(".")[0]
