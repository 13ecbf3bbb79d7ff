"""What a run on a cluster survives: nodes with addresses, processes and /tmp of their own, TLS and a token.

    make k8s-demo          needs root (namespaces); nothing is left

A run of two workers on three nodes, sent by `ray job submit`, loses one after the other: a node that is told to go
(SIGTERM, as Kubernetes ends a pod), a node that is killed, a node whose link is cut for a minute, the head with the
driver, and a node whose GPU breaks. It goes on by itself each time, after the loss of the head by the same command;
it ends with the bits of a run that was left alone. cluster/local/nodes.sh makes the nodes, k8s_faults.py breaks one,
k8s_story.py is what happens. This is the place for it.

The run that is left alone trains beside the others, with a Ray of its own. The head is lost while the link is cut, so
that a minute is not spent waiting.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]
DRAIN_S = 15


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("namespaces want root: sudo make k8s-demo")
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="k8s-demo-") as folder:
        # A network, mounts and processes of its own: whatever is left ends with it.
        apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"]
        own = "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && mount -t tmpfs tmpfs /tmp"
        script = own + ' && { "$0" up 3 > /dev/null & "$@"; exit $?; }'
        nodes = str(ROOT / "cluster" / "local" / "nodes.sh")
        argv = [*apart, script, nodes, sys.executable, str(HERE.with_name("k8s_story.py")), folder]
        (Path(folder) / "switches").mkdir()
        places = {"RAYSFT_NODES": f"{folder}/nodes", "SWITCHES": f"{folder}/switches"}
        modules = os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests" / "support")])
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        same = {"PYTHONPATH": modules, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment = os.environ | same | places | {"DRAIN_S": str(DRAIN_S), "BEGAN": str(time.monotonic())}
        sys.exit(subprocess.run(argv, env=environment).returncode)


if __name__ == "__main__":
    main()
