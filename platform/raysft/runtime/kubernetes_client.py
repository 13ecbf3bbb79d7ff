"""A Kubernetes API server, through its official client: objects as JSON, requests that end, raysft's errors.

Nothing here knows what a RayJob means. The client comes with `pip install 'raysft[kubernetes]'`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3

from raysft.errors import ClusterError, ConflictError, UserError

TIMEOUT_S = (10.0, 30.0)
"""Seconds for a connection, and for an answer."""
MANAGER = "raysft"
"""Who owns the fields that are applied."""

_DEFAULT_FILE = "~/.kube/config"

Object = dict[str, Any]


class KubernetesAwayError(ClusterError):
    """An API server that does not answer now; it may later."""


class Kubernetes:
    """The API server of the kubeconfig's current context, or of the pod that this runs in.

    Its methods raise KubernetesAwayError where it does not answer, ClusterError where it refuses.
    """

    def __init__(self) -> None:
        """Raises UserError without the client, ClusterError without a configuration."""
        try:
            import kubernetes
        except ModuleNotFoundError as error:
            raise UserError(
                "the Kubernetes client is not installed",
                got=str(error),
                expected="the package kubernetes",
                fix="pip install 'raysft[kubernetes]', or `raysft submit --dry-run --on ... | kubectl apply -f -`",
            ) from error
        configuration = kubernetes.client.Configuration()
        configuration.retries = False
        try:
            if files := os.environ.get("KUBECONFIG") or (
                _DEFAULT_FILE if Path(_DEFAULT_FILE).expanduser().exists() else ""
            ):
                kubernetes.config.load_kube_config(config_file=files, client_configuration=configuration)
            else:
                kubernetes.config.load_incluster_config(client_configuration=configuration)
        except Exception as error:  # boundary: its own kinds, and what a broken file makes its parser raise
            raise ClusterError(
                "no Kubernetes cluster is configured",
                got=" ".join(str(error).split())[:300],
                expected="a kubeconfig whose current context is the cluster, or a pod's service account",
                fix="set KUBECONFIG; `kubectl get rayjobs` shows whether it works",
            ) from error
        self.host: str = configuration.host
        self._refused = kubernetes.client.ApiException
        self._client = kubernetes.client.ApiClient(configuration)

    def get(self, path: str) -> Object | None:
        """The object at a path such as `/api/v1/namespaces/a/configmaps/b`; None: there is none."""
        return self._ask("GET", path)

    def items(self, path: str, **query: str) -> list[Object] | None:
        """The objects of a list; None: the server does not know the kind. query: labelSelector, fieldSelector."""
        found = self._ask("GET", path, query)
        return None if found is None else list(found.get("items") or ())

    def apply(self, path: str, content: Object) -> Object:
        """Server-side apply, unknown fields refused. Raises ConflictError where another owns a field too."""
        applied = self._ask("PATCH", path, {"fieldManager": MANAGER, "fieldValidation": "Strict"}, content)
        assert applied is not None  # a PATCH that finds nothing is an error
        return applied

    def unknown_kind(self, got: str) -> ClusterError:
        """The error of a server that knows no such objects, or no such namespace. got: what it was asked and said."""
        return ClusterError(
            f"the Kubernetes cluster {self.host} has no such kind of objects, or no such namespace",
            got=got,
            expected="KubeRay 1.7 or later, and the namespace",
            fix="install the KubeRay operator (its CRDs with `kubectl apply --server-side`) and create the "
            "namespace (`kubectl apply -k k8s/base`)",
        )

    def delete(self, path: str) -> None:
        """Delete an object, when those that it owns are gone. None that is there is no error."""
        self._ask("DELETE", path, {"propagationPolicy": "Foreground"})

    def _ask(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None) -> Object | None:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/apply-patch+yaml"
        try:
            answer = self._client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=TIMEOUT_S,
            )
            found: Object = json.loads(answer.data)
        except self._refused as error:
            if error.status == 404 and method != "PATCH":
                return None
            raise self._error(method, path, error) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise KubernetesAwayError(
                f"the Kubernetes API server {self.host} does not answer",
                got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                expected=f"an answer within {TIMEOUT_S[1]:.0f} s",
                fix="check the kubeconfig's current context and the way to that server (VPN, proxy)",
            ) from error
        return found

    def _error(self, method: str, path: str, error: Any) -> ClusterError | ConflictError:
        """What a refusal means. error: an ApiException."""
        try:
            told = str(json.loads(error.body)["message"])
        except (ValueError, KeyError, TypeError):
            told = str(error.body or error.reason)
        got = f"{error.status} to {method} {path}: {' '.join(told.split())[:500]}"
        if error.status == 404:
            return self.unknown_kind(got)
        if error.status == 409:
            return ConflictError(
                "another owns fields of this object",
                got=got,
                expected="one owner",
                fix="delete it, or use another name",
            )
        if error.status in (429, 500, 502, 503, 504):
            return KubernetesAwayError(
                f"the Kubernetes API server {self.host} cannot answer now",
                got=got,
                expected="an answer",
                fix="try again",
            )
        if error.status in (401, 403):
            fix = "log in anew, or ask for a Role that may get, list, patch and delete rayjobs and configmaps, and "
            fix += "list pods and events, in this namespace"
        else:
            fix = "the message names the field; KubeRay 1.7 or later is wanted"
        return ClusterError(
            "the Kubernetes API server refuses this",
            got=got,
            expected="permission, and an object that it takes",
            fix=fix,
        )
