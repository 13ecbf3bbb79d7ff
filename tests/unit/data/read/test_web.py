"""Data at web addresses: servers with ranges and without, ones that break off, and what is shown of an address."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysft.data.read import contents as contents_module
from raysft.data.read import remote, sources
from raysft.data.read.contents import check_files_unchanged, content, contents
from raysft.data.read.sources import expand, plan_reads, read, read_all
from raysft.errors import DataError, StorageError

RECORDS = [{"n": i, "text": "你好 " * (i % 50)} for i in range(3000)]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


class Server:
    """Serves `files`. ranges: answers requests for parts; cuts: how many answers end in the middle."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges, self.etags, self.cuts, self.fails, self.sizes = True, True, 0, 0, True
        self.logins: list[str | None] = []
        self.requests: list[tuple[str, str | None]] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        self.logins.append(handler.headers.get("Authorization"))
        data = self.files.get(handler.path.partition("?")[0])
        if self.fails > 0 or data is None or "expired" in handler.path:
            self.fails -= 1
            handler.send_error(404 if data is None else 403 if "expired" in handler.path else 503)
            return
        start, stop = 0, len(data)
        if asked and self.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else len(data), len(data))
            if start >= len(data):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        else:
            handler.send_response(200)
        if self.sizes:
            handler.send_header("Content-Length", str(stop - start))
        if self.etags:
            handler.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:8]}"')
        handler.end_headers()
        body = data[start:stop]
        if self.cuts > 0 and len(body) > 1000:
            self.cuts -= 1
            body = body[: len(body) // 3]
            handler.close_connection = True
        with contextlib.suppress(OSError):  # whoever asked has read enough
            handler.wfile.write(body)


def handler_of(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_args: Any) -> None:
            pass

        def do_GET(self) -> None:
            server.answer(self)

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "RETRY", remote.RetryPolicy(attempts=4, first_wait_s=0.001, longest_wait_s=0.01))
    made = Server()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(RECORDS), sink, row_group_size=700)
    made.files = {
        "/a.jsonl": LINES,
        "/b.jsonl.gz": gzip.compress(LINES),
        "/c.json": json.dumps(RECORDS).encode(),
        "/d.parquet": sink.getvalue().to_pybytes(),
        "/empty.jsonl": b"",
    }
    yield made
    made.http.shutdown()


@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.gz", "c.json", "d.parquet"])
@pytest.mark.parametrize("kind", ["ranges", "whole files", "no sizes"])
def test_files_of_the_web_are_read(server: Server, name: str, kind: str) -> None:
    server.ranges, server.sizes = kind == "ranges", kind != "no sizes"
    (file,) = expand([f"{server.address}/{name}?X-Amz-Signature=feed"])
    assert (file.source, file.num_bytes) == (name.split(".")[0], len(server.files[f"/{name}"]))
    assert [raw.value for raw in read_all([file])] == RECORDS
    assert content(file).sha256 == hashlib.sha256(server.files[f"/{name}"]).hexdigest()
    assert all(path.endswith("?X-Amz-Signature=feed") for path, _ in server.requests)


def test_pieces_of_a_large_file(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_WEB_RANGE_BYTES", 50_000)
    tasks = plan_reads(expand([f"{server.address}/a.jsonl"]), 1000)
    assert len(tasks) == -(-len(LINES) // 50_000)
    assert [raw.value for task in tasks for raw in read(task)] == RECORDS


@pytest.mark.parametrize("ranges", [True, False])
def test_answers_that_break_off_are_taken_up_again(server: Server, ranges: bool) -> None:
    server.ranges, server.cuts, server.fails = ranges, 2, 2
    (file,) = expand([f"{server.address}/a.jsonl"])
    assert [raw.value for raw in read_all([file])] == RECORDS
    assert server.cuts == 0


def test_a_file_that_changes_while_it_is_read_is_refused(server: Server) -> None:
    (file,) = expand([f"{server.address}/a.jsonl"])
    before = content(file)
    check_files_unchanged([file], [before])
    assert before.is_settled, "an ETag tells of every change"
    records = read_all([file])
    next(records)
    server.cuts, server.files["/a.jsonl"] = 0, LINES.replace(b'"n": 2999', b'"n": 9999')
    with pytest.raises(DataError, match="changed while it was read"):
        check_files_unchanged([file], [before])
    server.files["/a.jsonl"] = LINES * 5
    stream = remote.open_bytes(file.location)
    stream.read(10)
    server.files["/a.jsonl"] = LINES * 5 + b"more"
    stream.seek(len(LINES) * 4)
    with pytest.raises(StorageError, match="changed while it was read"):
        stream.read(10)


def test_without_an_etag_the_bytes_are_hashed_each_time(server: Server, tmp_path: Any) -> None:
    files = expand([f"{server.address}/a.jsonl"])
    for etags, requests in ((True, 1), (False, 3)):
        server.etags = etags
        contents(files, str(tmp_path / f"{etags}.json"))
        server.requests.clear()
        (again,) = contents(files, str(tmp_path / f"{etags}.json"))
        assert again.sha256 == hashlib.sha256(LINES).hexdigest()
        assert (len(server.requests) == 1) == (requests == 1), server.requests


def test_a_stream_trusts_checksums_whatever_was_hashed_before(server: Server, tmp_path: Any) -> None:
    files, cache = expand([f"{server.address}/a.jsonl"]), str(tmp_path / "hashes.json")
    (trusted,) = contents(files, cache, trusts_stores=True)
    (hashed,) = contents(files, cache)
    assert contents(files, cache, trusts_stores=True) == [trusted]
    assert contents(files, cache) == [hashed]
    assert hashed.sha256 == hashlib.sha256(LINES).hexdigest() != trusted.sha256


def test_logins_blanks_and_letters_of_any_language(server: Server) -> None:
    server.files["/%E6%95%B0%E6%8D%AE%20a.jsonl"] = LINES
    address = server.address.replace("http://", "http://me:p%40ss%2Fword@")
    (file,) = expand([f"{address}/数据 a.jsonl#top"])
    assert [raw.value for raw in read_all([file])] == RECORDS
    assert set(server.logins) == {"Basic " + base64.b64encode(b"me:p@ss/word").decode()}
    with pytest.raises(DataError, match="cannot read") as caught:
        expand(["http://me:hunter2@host:port/a.jsonl"])
    assert "hunter2" not in str(caught.value)


def test_what_cannot_be_had_is_refused_at_once(server: Server) -> None:
    for path, message in [
        ("/gone.jsonl", r"got: 404"),
        ("/a.jsonl?expired=1&sig=feed", r"got: 403 Forbidden(.|\n)*whether it has expired"),
        ("/empty.jsonl", "is empty"),
        ("/page", "files that end in"),
    ]:
        server.requests.clear()
        with pytest.raises(DataError, match=message) as caught:
            expand([server.address + path])
        assert len(server.requests) <= 1
        assert "feed" not in str(caught.value)
    server.http.server_close()
    server.http.shutdown()
    with pytest.raises(StorageError, match=r"cannot read http(.|\n)*refused(.|\n)*3 attempts"):
        expand([server.address + "/a.jsonl"])


def test_a_time_of_change_proves_nothing_when_it_is_young() -> None:
    assert contents_module._seconds("Thu, 01 Jan 1970 00:00:09 GMT") == 9
    assert contents_module._seconds("yesterday") > 1.7e9
