"""The bench of the parity tests, `--record`, and a last line that says how exactly was compared."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

from bench import Bench
from recording import Recording, facts

COMPARED = pytest.StashKey[Recording]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write losses.json instead of comparing with it")


@pytest.fixture(scope="package")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Engine processes, started when first asked for."""
    made = Bench.make(tmp_path_factory.mktemp("golden"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def recording(request: pytest.FixtureRequest) -> Recording:
    found = Recording.read()
    request.config.stash[COMPARED] = found
    return found


@pytest.fixture(scope="session")
def records(request: pytest.FixtureRequest, recording: Recording) -> Iterator[dict[str, dict[str, object]] | None]:
    """What is to be recorded; None: compare. Cells that were not run stay as they were, if this is their machine."""
    if not request.config.getoption("--record", default=False):
        yield None
        return
    fresh: dict[str, dict[str, object]] = {}
    yield fresh
    kept = {} if recording.foreign() else recording.cells
    Recording(facts(), {**kept, **fresh}).write()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    recording = config.stash.get(COMPARED, None)
    if recording is not None and not config.getoption("--record", default=False):
        differs = recording.foreign()
        how = f"within a tolerance: {'; '.join(differs)}" if differs else "bit for bit: the recording's machine"
        terminalreporter.write_line(f"golden losses were compared {how}")
