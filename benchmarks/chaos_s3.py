"""Runs whose storage is an S3 server that fails: training goes on, and the end has the bits of a local run.

    python benchmarks/chaos_s3.py [--only REGEX] [--away-s 60]        needs s3fs beside the development packages

A moto server in a process of its own, behind a proxy of bytes: it answers 500 to every third connection, passes 300
kB/s with 0.1 s of delay, or closes every connection for a minute, from the first commit on. Exit code 1: a promise
was broken.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")

import ray  # noqa: E402
import torch  # noqa: E402
from small import make_recipe  # noqa: E402

from raysft import storage  # noqa: E402
from raysft.errors import RaysftError  # noqa: E402
from raysft.recipe.schema import Recipe  # noqa: E402
from raysft.run.remote_tasks import newest_checkpoint  # noqa: E402
from raysft.run.run import run_training  # noqa: E402
from raysft.train.history.account import read_account  # noqa: E402
from raysft.train.history.records import read_ledger, read_metrics  # noqa: E402

FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Passes bytes on to a port of this machine; `mode` says how: pass, 500, slow or gone."""

    def __init__(self, target: int) -> None:
        self.mode, self._target, self._count = "pass", target, 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            self._count += 1
            if self.mode == "gone":
                client.close()
            elif self.mode == "500" and self._count % 3 == 0:
                threading.Thread(target=self._fail, args=(client,), daemon=True).start()
            else:
                server = socket.create_connection(("127.0.0.1", self._target))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _fail(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            client.recv(1 << 16)
            client.sendall(FAILED)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while (data := source.recv(1 << 15)) and self.mode != "gone":
                if self.mode == "slow":
                    time.sleep(0.1)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def s3() -> Iterator[Proxy]:
    """A server with an empty bucket, and the environment that leads to it through the proxy."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])", "-p", str(port)]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(argv, env=plain, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request("PUT", "/bucket")
                connection.getresponse().read()
                break
            time.sleep(0.1)
        proxy = Proxy(port)
        os.environ.update(
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{proxy.port}",
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="test",
            AWS_REGION="us-east-1",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_EC2_METADATA_DISABLED="true",
        )
        yield proxy
    finally:
        server.kill()
        server.wait()


def recipe(directory: Path, name: str, **changes: object) -> Recipe:
    return make_recipe(
        directory,
        count=900,
        name=name,
        data__eval_fraction=0.1,
        checkpoint__every_steps=6,
        method={"kind": "lora", "rank": 4, "dropout": 0.1},
        train__epochs=2,
        **changes,
    )


def strike(proxy: Proxy, run: str, mode: str, away_s: float, stop: threading.Event) -> None:
    """After the first commit, for away_s."""
    first = storage.join(run, "checkpoints", "attempt-0001", "step-00000006", "commit.json")
    while not stop.wait(0.2):
        with suppress(OSError):
            if storage.exists(first):
                break
    proxy.mode = mode
    stop.wait(away_s)
    proxy.mode = "pass"


def play(proxy: Proxy, directory: Path, calm: str, mode: str, away_s: float) -> bool:
    """One row, printed."""
    wanted = recipe(directory, f"s3-{mode}", storage="s3://bucket/storage")
    run, stop, wrong = f"s3://bucket/storage/runs/{wanted.name}", threading.Event(), ""
    thread = threading.Thread(target=strike, args=(proxy, run, mode, away_s, stop), daemon=True)
    thread.start()
    started = time.monotonic()
    try:
        result = run_training(wanted)
        wall_s = time.monotonic() - started
        stop.set()
        thread.join()
        ours, theirs = newest_checkpoint(run).tensors(), newest_checkpoint(calm).tensors()
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
            wrong = "other bits"
        ledgers = [{step: sorted(ids) for step, ids in read_ledger(each).items()} for each in (run, calm)]
        if ledgers[0] != ledgers[1] or len(ledgers[0]) != result.steps:
            wrong = wrong or "other samples"
    except RaysftError as error:
        wall_s, wrong = time.monotonic() - started, str(error)
    finally:
        stop.set()
        thread.join()
    costs = [(cost.incident.kind, cost.incident.what) for cost in read_account(run).costs]
    longest = max((line["step_s"] for line in read_metrics(run) if line["kind"] == "step"), default=0.0)
    print(f"S3 {mode:8} (a)  {wrong or 'same bits':28} {wall_s:.1f} s, longest step {longest:.2f} s", flush=True)
    for kind, what in costs:
        print(f"    {kind}: {what}", flush=True)
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="modes that this regular expression finds")
    parser.add_argument("--away-s", type=float, default=60)
    options = parser.parse_args()
    kept = True
    with tempfile.TemporaryDirectory() as folder, s3() as proxy:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        calm = run_training(recipe(Path(folder), "calm")).run
        for mode in ("pass", "500", "slow", "gone"):
            if re.search(options.only, mode):
                kept = play(proxy, Path(folder), calm, mode, options.away_s) and kept
        ray.shutdown()
    sys.exit(not kept)


if __name__ == "__main__":
    main()
