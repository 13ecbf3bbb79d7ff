"""What docs/reference/ray-private.md takes from Ray is there in the Ray that is installed, and still needed.

A test that fails here after an upgrade of Ray: read its row, then mend the code, or delete it with its row.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray
from ray import tune
from ray._private.node import Node
from ray.job_submission import JobSubmissionClient
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.config import RunConfig

TABLE = Path(__file__).parents[3] / "docs" / "reference" / "ray-private.md"
RAY = Path(ray.__file__).parent
CORE = [RAY / "core" / "src" / "ray" / "raylet" / "raylet", RAY / "core" / "src" / "ray" / "gcs" / "gcs_server"]
NAMES = sorted(
    {
        name
        for line in TABLE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])
    }
)
VARIABLES = [name for name in NAMES if re.match(r"[A-Z]+_", name)]


def resolved(dotted: str) -> Any:
    """The longest module of a dotted name, then its attributes."""
    module, rest = dotted, []
    while True:
        try:
            found: ModuleType | Any = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
    for part in rest:
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("ray.")])
def test_a_name_is_there(name: str) -> None:
    resolved(name)


def test_a_name_that_is_gone_is_noticed() -> None:
    with pytest.raises(AttributeError):
        resolved("ray._private.worker._no_such_node")


DASHBOARD = ("reporter", "job", "platform_events")


@pytest.fixture(scope="module")
def sources() -> str:
    """Ray's Python that reads variables, as one text."""
    folders = ("_private", "_common", "train", "tune", "air", *(f"dashboard/modules/{name}" for name in DASHBOARD))
    return "\n".join(path.read_text(encoding="utf-8") for f in folders for path in (RAY / f).rglob("*.py"))


@pytest.mark.parametrize("variable", [*VARIABLES, "RAY_TRAIN_NO_SUCH_THING", "RAY_no_such_thing"])
def test_a_variable_is_read(variable: str, sources: str) -> None:
    """RAY_with_small_letters is a setting of Ray's core: its name without RAY_ stands in each of its programs."""
    setting = variable.removeprefix("RAY_").encode()
    is_core = variable.startswith("RAY_") and setting.islower()
    is_read = all(setting in path.read_bytes() for path in CORE) if is_core else f'"{variable}"' in sources
    assert is_read == ("NO_SUCH" not in variable.upper())


def test_rays_job_client_has_no_time_limit_of_its_own() -> None:
    """job_client.py."""
    signature = inspect.signature(JobSubmissionClient._do_request)
    assert list(signature.parameters) == ["self", "method", "endpoint", "data", "json_data", "kwargs"]
    for kind in JobSubmissionClient.__mro__[:2]:
        source = inspect.getsource(kind)
        assert "self._do_request(" in source
        assert "timeout=" not in source


def test_only_workers_of_train_can_be_given_a_runtime_environment() -> None:
    """trainer.py: neither its controller nor Tune's trials can."""
    names = [
        field.name for kind in (RunConfig, tune.TuneConfig, tune.RunConfig) for field in dataclasses.fields(kind)
    ]
    assert [name for name in names if "runtime_env" in name] == ["worker_runtime_env"]


def test_train_calls_what_is_overridden() -> None:
    source = inspect.getsource(data_parallel_trainer)
    assert "result = self._initialize_and_run_controller(" in source
    assert "callbacks=self._create_default_callbacks()," in source


def test_the_public_trainer_is_an_older_one_where_a_variable_says_so() -> None:
    """attempts.py, trainer.py, endings.py: with RAY_TRAIN_V2_ENABLED=0 ray.train's names are the first version's."""
    for page in (RAY / "train" / "__init__.py", RAY / "train" / "torch" / "__init__.py"):
        assert "if is_v2_enabled():" in page.read_text(encoding="utf-8")


def test_ray_itself_tells_nobody_of_nodes_that_drain_and_starts_its_log_monitor() -> None:
    """cluster.py."""
    assert [name for name in dir(ray) if "drain" in name] == []
    assert [name for name in inspect.signature(ray.init).parameters if "monitor" in name] == []
    assert "check_alive" in inspect.signature(Node.kill_log_monitor).parameters


def test_what_is_asked_of_the_node_that_runs_here() -> None:
    """ray_watch.py."""
    assert list(inspect.signature(Node.get_session_dir_path).parameters) == ["self"]
    assert {"check_alive", "allow_graceful"} <= inspect.signature(Node.kill_all_processes).parameters.keys()
    assert "self.all_processes" in inspect.getsource(Node.__init__)


def test_actor_ids_come_from_a_generator_of_rays_own() -> None:
    """fork_server.py: a fork copies it."""
    actors = importlib.import_module("ray.actor")
    assert "ActorClassID.from_random()" in inspect.getsource(actors)
