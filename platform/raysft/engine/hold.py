"""What an update waits for: somebody still reads the state that it is about to change."""

from __future__ import annotations

from collections.abc import Callable


class Hold:
    """One engine has one. Passes change nothing of the state: a reader may take as long as they do."""

    def __init__(self) -> None:
        self._until: Callable[[], None] | None = None

    def until(self, wait: Callable[[], None]) -> None:
        """The next update calls wait() first, once."""
        self._until = wait

    def end(self) -> None:
        """The state is about to change."""
        wait, self._until = self._until, None
        if wait is not None:
            wait()
