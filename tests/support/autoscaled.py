"""An autoscaling cluster for tests, as Ray has one, beside other Rays here: a head, and nodes that come and go.

AutoscalingCluster of Ray 2.60 starts and ends with `ray stop --force`, which ends every Ray here, and reads a file
that is not in the wheel. This one has a folder and a port of its own, and ends the processes that name them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.cluster_utils import AutoscalingCluster

IDLE_S = 7
"""After which a node that nobody uses goes."""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in held]


class OwnAutoscalingCluster(AutoscalingCluster):  # type: ignore[misc]
    """A head without CPUs and at most `most` nodes of one CPU. with OwnAutoscalingCluster(2) as address: ..."""

    def __init__(self, most: int, *, autoscaler_v2: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))  # names of sockets are short
        self._ports = _free_ports(2)
        self.address = f"{get_node_ip_address()}:{self._ports[0]}"
        super().__init__({"CPU": 0}, {}, autoscaler_v2=autoscaler_v2)
        self.allow(most)

    def _generate_config(
        self, head_resources: dict[str, Any], worker_node_types: dict[str, Any], **more: Any
    ) -> dict[str, Any]:
        head = {"resources": dict(head_resources), "node_config": {}, "max_workers": 0}
        provider = {
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "gcs_address": self.address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        }
        if more["autoscaler_v2"]:
            provider |= {"launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID}
        return {
            "cluster_name": "fake_multinode",
            "provider": provider,
            "available_node_types": worker_node_types | {"ray.head.default": head},
            "head_node_type": "ray.head.default",
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": IDLE_S / 60,
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            "file_mounts_sync_continuously": False,
            **{
                name: []
                for name in (
                    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
                    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"),
                    *("rsync_exclude", "rsync_filter"),
                )
            },
        }

    def allow(self, most: int) -> None:
        """How many nodes there may be. The autoscaler (its second version) looks at each of its rounds."""
        node = {"resources": {"CPU": 1, "object_store_memory": 10**8}, "node_config": {}, "max_workers": most}
        self._config["available_node_types"]["node"] = node | {"min_workers": 0}
        self._config["max_workers"] = most
        fresh = self.folder / "config.new"
        fresh.write_text(json.dumps(self._config))
        fresh.rename(self.folder / "config.json")

    def start(self) -> None:  # type: ignore[override]
        """The head, with its autoscaler."""
        environment = os.environ | {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        if self._autoscaler_v2:
            environment["RAY_enable_autoscaler_v2"] = "1"
            environment |= dict.fromkeys(
                ("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"), FAKE_HEAD_NODE_ID
            )
        environment.pop("RAY_ADDRESS", None)
        program = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
        command = [sys.executable, "-c", program, "start", "--head", f"--port={self._ports[0]}"]
        command += ["--num-cpus=0", "--num-gpus=0", "--object-store-memory=100000000", "--include-dashboard=false"]
        command += [f"--ray-client-server-port={self._ports[1]}", "--dashboard-agent-listen-port=0"]
        command += [f"--temp-dir={self.folder}", f"--autoscaling-config={self.folder / 'config.json'}"]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
        assert told.returncode == 0, told.stdout + told.stderr

    def shutdown(self) -> None:
        """End what this one started, and nothing else."""
        deadline = time.monotonic() + 20
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.1)
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> list[int]:
        """Those that name this cluster's folder or head."""
        marks, found = (str(self.folder).encode(), self.address.encode()), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                line = (entry / "cmdline").read_bytes()
                if any(mark in line for mark in marks) and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
        return found

    def __enter__(self) -> OwnAutoscalingCluster:
        try:
            self.start()
        except BaseException:
            self.shutdown()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
