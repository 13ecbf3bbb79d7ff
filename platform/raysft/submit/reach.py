"""From the address that a user names to a job server that takes jobs: scheme, versions, token, each checked before
anything is sent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import requests

from raysft.addresses import is_private_way, proxies
from raysft.errors import ClusterError, UserError
from raysft.runtime.job_client import ANSWER_S, CONNECT_S, JobServer, away, token_refused

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"


def connect(address: str | None, *, insecure_http: bool = False) -> JobServer:
    """A job server that answers, has our Ray and takes our token.

    address: `http(s)://host[:port][/path]`; None: what named_address finds. The first request carries no
    token, so that a server which asks for none gets none. Raises ClusterError.
    """
    address = checked_address(address or named_address(os.environ))
    found, token = _ask(address, None), None
    if found.status_code == 401:
        token = find_token(os.environ, Path.home())
        if token is None:
            raise token_refused(address, "401: it asks for a token, and none was found here")
        if not insecure_http and not is_private_way(address):
            raise ClusterError(
                f"the token would travel to {address} for everybody on the way to read",
                got="plain http to another machine",
                expected="https, or a tunnel that ends on this machine",
                fix="forward the port (`ssh -L 8265:localhost:8265 HEAD`, `kubectl port-forward svc/NAME-head-svc "
                "8265`) and use http://localhost:8265; or --insecure-http where the network is trusted",
            )
        found = _ask(address, token)
        if found.status_code in (401, 403):
            raise token_refused(address, f"{found.status_code}: the token found here is another one")
    check_version(address, _ray_version(address, found))
    return JobServer(address, token)


def named_address(environment: Mapping[str, str]) -> str:
    """The address that Ray's variables name: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS where it is one of http."""
    of_ray = environment.get("RAY_ADDRESS", "")
    return environment.get(ADDRESS_VARIABLE) or (of_ray if of_ray.startswith(("http://", "https://")) else "")


def checked_address(address: str) -> str:
    """The address without what no request needs. Raises ClusterError for what cannot be one."""
    try:
        parts = urlsplit(address.strip())
        port = parts.port
    except ValueError:
        raise _no_address(address, "another form") from None
    if not address.strip():
        raise _no_address("none", f"--address, or {ADDRESS_VARIABLE} set")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _no_address(address, "http:// or https:// in front: Ray's own port (6379) takes no jobs")
    if parts.username is not None or parts.password is not None:
        raise _no_address(address, "no login in it: tokens come from RAY_AUTH_TOKEN")
    if parts.query or parts.fragment:
        raise _no_address(address, "nothing behind a ? or #")
    if port == 6379:
        raise _no_address(address, "the dashboard's port (8265): 6379 is Ray's own")
    return SplitResult(parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "").geturl()


def find_token(environment: Mapping[str, str], home: Path) -> str | None:
    """The token where Ray looks for it, in its order. Raises UserError for a file that cannot be read."""
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return _sendable(token, "RAY_AUTH_TOKEN")
    named = environment.get("RAY_AUTH_TOKEN_PATH", "").strip()
    file = Path(named) if named else home / ".ray" / "auth_token"
    if not named and not file.is_file():
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the token file {file}",
            got=str(error),
            expected="a file with Ray's token",
            fix="set RAY_AUTH_TOKEN_PATH to one, or RAY_AUTH_TOKEN to the token",
        ) from error
    return _sendable(token, str(file)) if token else None


def _sendable(token: str, where: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"what {where} holds is no token",
            got=f"{len(token)} characters, with blanks, line breaks or letters that no header can hold",
            expected="one word, as `ray get-auth-token` prints it",
            fix=f"mend {where}",
        )
    return token


def check_version(address: str, theirs: str) -> None:
    """Refuse a cluster whose Ray is of another minor version. Raises ClusterError."""
    ours = version("ray")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise ClusterError(
            f"the cluster at {address} has another Ray",
            got=f"Ray {theirs} there, {ours} here",
            expected=f"Ray {'.'.join(ours.split('.')[:2])} on all nodes",
            fix=f"use an image with ray=={ours} for the cluster, or a raysft that is made for Ray {theirs}",
        )


def _ask(address: str, token: str | None) -> requests.Response:
    """What the server says of itself. Raises AwayError, and ClusterError where it sends elsewhere."""
    try:
        found = requests.get(
            f"{address}/api/version",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=(CONNECT_S, ANSWER_S),
            allow_redirects=False,
            proxies=proxies(address),
        )
    except requests.RequestException as error:
        raise away(address, error) from error
    if found.is_redirect:
        to = urlsplit(found.headers["location"])
        raise ClusterError(
            f"{address} sends to another address",
            got=f"{to.scheme}://{to.netloc}" if to.netloc else to.path,
            expected="the job server itself: what is sent must not go elsewhere",
            fix="name that address with --address; a page that asks for a login is none",
        )
    return found


def _ray_version(address: str, found: requests.Response) -> str:
    """Raises ClusterError where what answered is no job server."""
    try:
        return str(found.json()["ray_version"]) if found.ok else _refuse(address, found)
    except (ValueError, KeyError, TypeError):
        return _refuse(address, found)


def _refuse(address: str, found: requests.Response) -> str:
    kind = found.headers.get("content-type", "no type").partition(";")[0]
    raise ClusterError(
        f"what answers at {address} is no job server of Ray",
        got=f"{found.status_code} with {kind} to GET /api/version",
        expected="the dashboard of a Ray head, by default at port 8265",
        fix="check host, port and path of --address",
    )


def _no_address(got: str, expected: str) -> ClusterError:
    return ClusterError(
        "this is no address of a job server",
        got=got,
        expected=expected,
        fix="for example --address http://localhost:8265",
    )
