"""S3 that fails, cuts answers short or stalls in the middle: the records are those of the local file."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from werkzeug.serving import WSGIRequestHandler

from raysft.data.read import remote
from raysft.data.read.contents import content, contents
from raysft.data.read.remote import RetryPolicy
from raysft.data.read.sources import expand, plan_reads, read, read_all
from raysft.errors import DataError, StorageError

RECORDS = [{"n": i, "text": random.Random(i).randbytes(200).hex()} for i in range(2000)]  # hardly compresses
LINES = "\n".join(map(json.dumps, RECORDS)).encode()


class Proxy:
    """Passes HTTP on to the server, but answers body requests (GETs of a key) with the faults it was given."""

    def __init__(self, target: int) -> None:
        self.faults: list[str] = []  # of the next GETs: `500`, `cut`, `stall`, `reset`, `pass`
        self.always = ""
        self.num_faults = 0
        self.stop = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.forward()

            def do_HEAD(self) -> None:
                self.forward()

            def forward(self) -> None:
                upstream = http.client.HTTPConnection("127.0.0.1", target)
                upstream.request(self.command, self.path, headers=dict(self.headers))
                answer = upstream.getresponse()
                body = answer.read()
                upstream.close()
                is_body = self.command == "GET" and "list-type" not in self.path
                fault = proxy.next_fault() if is_body else "pass"
                if fault == "500":
                    self.send_error(500)
                    return
                if fault == "reset":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "server", "date", "transfer-encoding"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body if fault == "pass" else body[: len(body) // 3])
                if fault == "stall":
                    proxy.stop.wait(20)
                self.close_connection = fault != "pass"

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def next_fault(self) -> str:
        fault = self.faults.pop(0) if self.faults else self.always or "pass"
        self.num_faults += fault != "pass"
        return fault

    def close(self) -> None:
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    quiet = pytest.MonkeyPatch()
    quiet.setattr(WSGIRequestHandler, "log", lambda *_: None)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    port = moto.get_host_and_port()[1]
    quiet.setenv("AWS_ACCESS_KEY_ID", "test")
    quiet.setenv("AWS_SECRET_ACCESS_KEY", "test")
    quiet.setenv("AWS_DEFAULT_REGION", "us-east-1")
    quiet.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    client.create_bucket(Bucket="bucket")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(RECORDS), sink, row_group_size=700)
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, pa.Table.from_pylist(RECORDS).schema) as writer:
        writer.write_table(pa.Table.from_pylist(RECORDS), max_chunksize=700)
    for key, body in [
        ("d/a.jsonl", LINES),
        ("d/b.jsonl.gz", gzip.compress(LINES)),
        ("d/c.json", json.dumps(RECORDS).encode()),
        ("d/d.parquet", sink.getvalue().to_pybytes()),
        ("d/e.arrow", stream.getvalue().to_pybytes()),
        ("d/f.jsonl.zst", pa.compress(LINES, "zstd", asbytes=True)),
    ]:
        client.put_object(Bucket="bucket", Key=key, Body=body)
    yield port
    moto.stop()
    quiet.undo()


@pytest.fixture
def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    made = Proxy(server)
    port = made.server.server_address[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(
        remote, "RETRY", RetryPolicy(attempts=6, first_wait_s=0.01, longest_wait_s=0.05, answer_s=1.0)
    )
    monkeypatch.setattr(remote, "_REMOTE_BLOCK_BYTES", 50_000)  # several requests a file
    yield made
    made.close()


def records(location: str, range_bytes: int = 300_000) -> list[object]:
    return [raw.value for task in plan_reads(expand([location]), range_bytes) for raw in read(task)]


KEYS = ["a.jsonl", "b.jsonl.gz", "c.json", "d.parquet", "e.arrow", "f.jsonl.zst"]


@pytest.mark.parametrize("key", KEYS)
def test_without_faults(proxy: Proxy, key: str) -> None:
    assert records(f"s3://bucket/d/{key}") == RECORDS


@pytest.mark.parametrize("key", KEYS)
def test_faults_in_the_middle(proxy: Proxy, key: str) -> None:
    proxy.faults = ["pass", "500", "cut", "pass", "reset", "cut", "pass", "500", "500"]
    assert records(f"s3://bucket/d/{key}") == RECORDS
    assert proxy.num_faults >= 3


def test_directories_globs_options_and_hashes(proxy: Proxy) -> None:
    assert [file.location for file in expand(["s3://bucket/d"])] == [f"s3://bucket/d/{key}" for key in KEYS]
    (file,) = expand(["s3://bucket/**/a*"])
    assert (file.location, file.num_bytes, file.source) == ("s3://bucket/d/a.jsonl", len(LINES), "bucket")
    host = f"127.0.0.1:{proxy.server.server_address[1]}"
    (file,) = expand([f"s3://bucket/d/*.gz?endpoint_override={host}&scheme=http&region=us-east-1"])
    assert [raw.value for raw in read_all([file])] == RECORDS
    assert len(content(file).sha256) == 64
    (trusted,) = contents([file], "/nowhere/hashes.json", trusts_stores=True)
    assert "checksum:" in trusted.stamp
    assert trusted.is_settled
    assert trusted.sha256 != content(file).sha256, "a checksum of the store's stands for the bytes"
    with pytest.raises(DataError, match=r"did you mean 'a\.jsonl'"):
        expand(["s3://bucket/d/aa.jsonl"])


def test_a_stall_in_the_middle(proxy: Proxy) -> None:
    proxy.faults = ["pass", "stall", "pass", "stall"]
    assert records("s3://bucket/d/a.jsonl", range_bytes=1 << 30) == RECORDS
    assert proxy.num_faults == 2


@pytest.mark.parametrize("key", ["a.jsonl", "d.parquet"])
def test_a_server_that_never_recovers_is_told(proxy: Proxy, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRY", RetryPolicy(attempts=3, first_wait_s=0.01, answer_s=0.2))
    tasks = plan_reads(expand([f"s3://bucket/d/{key}"]), 300_000)
    proxy.always = "reset"
    with pytest.raises(StorageError, match=rf"cannot read s3://bucket/d/{key}\n(.|\n)*3 attempts in \d+ s"):
        list(read(tasks[-1]))
