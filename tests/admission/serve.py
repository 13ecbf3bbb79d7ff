"""An API server for custom resources, built by build.sh, for as long as the block lasts; posts objects to it.

It is Kubernetes' own server of CRDs without anything else: strict fields, types, defaults and CEL are what a cluster
does. Core kinds (Deployment, Role...) are not in it; tests/unit/kube/test_schemas.py checks those.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

READY_S = 120.0


@dataclass(frozen=True)
class Server:
    """Where it is, and who asks it."""

    url: str
    context: ssl.SSLContext

    def ask(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        """(HTTP status, JSON)."""
        body = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            is_json = "json" in error.headers.get("Content-Type", "")
            return error.code, json.loads(text) if is_json else {"message": text}

    def admit(self, one: dict[str, Any]) -> tuple[int, str]:
        """(201 or what it is refused with, the message), nothing kept."""
        group, kind = one["apiVersion"], one["kind"].lower() + "s"
        path = f"/apis/{group}/namespaces/default/{kind}?fieldValidation=Strict&dryRun=All"
        own = one | {"metadata": {**one["metadata"], "namespace": "default"}}
        status, found = self.ask("POST", path, own)
        return status, found.get("message", "")


@contextmanager
def api_server(build: Path, folder: Path, definitions: list[Path]) -> Iterator[Server]:
    """build: what build.sh made. definitions: files of CRDs, which it knows when the block begins."""
    certificates(folder)
    etcd_port, peer_port, port = free_ports(3)
    with ExitStack() as stack:
        etcd = [
            build / "etcd",
            "--data-dir",
            folder / "etcd",
            "--listen-client-urls",
            f"http://127.0.0.1:{etcd_port}",
        ]
        etcd += ["--advertise-client-urls", f"http://127.0.0.1:{etcd_port}"]
        etcd += ["--listen-peer-urls", f"http://127.0.0.1:{peer_port}"]
        stack.enter_context(running(etcd, folder / "etcd.log"))
        config = str(folder / "self.conf")
        (folder / "self.conf").write_text(yaml.safe_dump(kubeconfig(folder, port)))
        off = "NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook"
        off += ",ValidatingAdmissionPolicy,MutatingAdmissionPolicy"  # they ask an API of the core for their rules
        server = [build / "apiserver", f"--etcd-servers=http://127.0.0.1:{etcd_port}", "--bind-address=127.0.0.1"]
        server += [f"--secure-port={port}", f"--tls-cert-file={folder}/server.crt"]
        server += [f"--tls-private-key-file={folder}/server.key", f"--client-ca-file={folder}/ca.crt"]
        server += ["--authentication-skip-lookup", f"--kubeconfig={config}", f"--authentication-kubeconfig={config}"]
        server += [f"--authorization-kubeconfig={config}", "--enable-priority-and-fairness=false"]
        server += [f"--disable-admission-plugins={off}"]
        stack.enter_context(running(server, folder / "apiserver.log"))
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
        found = Server(f"https://127.0.0.1:{port}", context)
        for file in definitions:
            define(found, yaml.load(file.read_text(), Loader=yaml.CSafeLoader), folder)
        yield found


def define(server: Server, definition: dict[str, Any], folder: Path) -> None:
    """Make a CRD, and wait until its objects are served. /readyz never says so of this server."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    until(lambda: server.ask("POST", path, definition)[0] in (201, 409), folder)
    spec = definition["spec"]
    version = next(one["name"] for one in spec["versions"] if one["storage"])
    listed = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"
    until(lambda: server.ask("GET", listed)[0] == 200, folder)


def until(is_so: Any, folder: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            if is_so():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {READY_S:.0f} s: {(folder / 'apiserver.log').read_text()[-2000:]}")
        time.sleep(0.2)


@contextmanager
def running(command: list[Any], log: Path) -> Iterator[None]:
    with log.open("w") as stream:
        process = subprocess.Popen([str(part) for part in command], stdout=stream, stderr=stream)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def kubeconfig(folder: Path, port: int) -> dict[str, Any]:
    """The server asks itself who may do what: an administrator by certificate."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "self",
        "clusters": [
            {
                "name": "self",
                "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": f"{folder}/ca.crt"},
            }
        ],
        "users": [
            {
                "name": "admin",
                "user": {"client-certificate": f"{folder}/admin.crt", "client-key": f"{folder}/admin.key"},
            }
        ],
        "contexts": [{"name": "self", "context": {"cluster": "self", "user": "admin"}}],
    }


def certificates(folder: Path) -> None:
    """An authority, a server of 127.0.0.1, and an administrator (group system:masters)."""
    openssl(
        "req", "-x509", *NEW, "-days", "1", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt", folder=folder
    )
    for name, subject in (("server", "/CN=server"), ("admin", "/O=system:masters/CN=admin")):
        openssl("req", *NEW, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr", folder=folder)
        (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "extensions"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt", folder=folder)


NEW = ("-newkey", "rsa:2048", "-nodes")


def openssl(*words: str, folder: Path) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
