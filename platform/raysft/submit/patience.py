"""With a server that is away for a while: what runs on the cluster does not depend on it."""

from __future__ import annotations

import logging
import time

from raysft.errors import ClusterError, PlatformError

logger = logging.getLogger(__name__)


class Patience:
    """Says once that a server does not answer, once that it answers again, and gives it up after a while."""

    def __init__(self, server: str, away_s: float) -> None:
        """server: its name for messages. away_s: seconds."""
        self._server, self._away_s = server, away_s
        self._since: float | None = None

    def answered(self) -> None:
        """It has."""
        if self._since is not None:
            logger.info("%s answers again after %.0f s", self._server, time.monotonic() - self._since)
        self._since = None

    def silent(self, error: ClusterError) -> None:
        """It has not. Raises PlatformError when that was so for too long."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            logger.warning(
                "%s (%s); the job does not depend on it, and is asked for again for %.0f s",
                error.what,
                error.got,
                self._away_s,
            )
        elif now - self._since > self._away_s:
            raise PlatformError(
                f"{self._server} has not answered for {now - self._since:.0f} s",
                got=error.got,
                expected="an answer; the job itself may well go on",
                fix="once it is back, follow the job again: `raysft jobs attach`, of a RayJob `raysft submit`",
            ) from error
