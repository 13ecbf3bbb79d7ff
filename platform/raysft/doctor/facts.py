"""What the probes find on a cluster, as plain values that checks.py judges. They cross processes as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

OPTIONAL = ("torchvision", "torchao", "torchaudio", "flash_attn", "liger_kernel", "bitsandbytes", "xformers")
"""transformers and peft import these by themselves where they are there. One made for another torch breaks them."""
VERSIONS = ("python", "raysft", "ray", "torch", "transformers", "deepspeed", "peft", "safetensors", "pyarrow")
"""What must be the same on all nodes: a worker unpacks what another version has packed."""


@dataclass(frozen=True)
class StorageTrial:
    """A file that was written, read back and deleted."""

    location: str
    error: str = ""
    """Why it failed; empty: it did not."""
    write_mb_s: float = 0.0
    read_mb_s: float = 0.0
    sees_marker: bool | None = None
    """Does it see what another node has written there? None: nobody else wrote."""


@dataclass(frozen=True)
class Disk:
    """A file system that Ray or its workers write to."""

    path: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class GpuHealth:
    """What NVML says of one GPU."""

    index: int
    name: str
    ecc_errors: int | None = None
    """Uncorrected ones since the driver was loaded; None: it has no ECC, or it is off."""
    remap_pending: bool = False
    """Rows of its memory wait for a reset to be remapped."""
    remap_failed: bool = False
    """No spare row is left: to be replaced."""
    total_bytes: int = 0
    used_bytes: int = 0
    processes: int = 0


@dataclass(frozen=True)
class NodeFacts:
    """One node, as a task on it found it."""

    node: str
    """Ray's id, its first digits."""
    address: str
    """As a person knows it: of two nodes at one address with the id's end."""
    versions: Mapping[str, str | None]
    """None: not installed."""
    broken_imports: Mapping[str, str] = field(default_factory=dict)
    """{module that is installed and cannot be imported: the error's last line}."""
    clock_offset_s: float | None = None
    """Its clock less the driver's; None: not measured."""
    clock_error_s: float = 0.0
    """At most this much is due to the measurement."""
    storage: StorageTrial | None = None
    disks: Sequence[Disk] = ()
    ray_gpus: float = 0
    """As Ray counts them."""
    gpus: Sequence[GpuHealth] | None = None
    """None: there is no NVML here."""
    auth_mode: str = ""
    """RAY_AUTH_MODE of its workers; empty: not set."""


@dataclass(frozen=True)
class LinkFacts:
    """All nodes in one gloo group."""

    nodes: int
    error: str = ""
    latency_ms: float = 0.0
    """Median all-reduce of 8 bytes."""
    mb_s: float = 0.0
    """Bytes of an all-reduce over its time, at the slowest rank."""


@dataclass(frozen=True)
class OpenPort:
    """An HTTP service of Ray's, asked without a token."""

    url: str
    status: int
    """HTTP status; 0: no answer."""


@dataclass(frozen=True)
class Security:
    """How the cluster is guarded, as the driver sees it."""

    auth_mode: str
    has_token: bool
    """Can a token be found by Ray (environment or file)?"""
    tls: bool
    tls_files_missing: Sequence[str] = ()
    head: str = ""
    """host:port of the head."""
    dashboard: OpenPort | None = None
    """None: there is none."""


@dataclass(frozen=True)
class Pending:
    """A demand that waits in the cluster."""

    bundle: Mapping[str, float]
    count: int
    is_impossible: bool
    """No node can hold it, and no autoscaler says that it could bring one."""


@dataclass(frozen=True)
class Facts:
    """All that was found. What could not be probed is told by its error."""

    nodes: Sequence[NodeFacts]
    unreachable: Mapping[str, str] = field(default_factory=dict)
    """{address of an alive node whose probe failed: why}."""
    links: LinkFacts | None = None
    """None: one node."""
    security: Security | None = None
    pending: Sequence[Pending] = ()
    recipe_problem: str | None = None
    """Why the recipe cannot run here; empty: it can; None: no recipe was given."""


Verdict = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """What one check says."""

    check: str
    verdict: Verdict
    evidence: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        """{check, verdict, evidence, fix}."""
        return {"check": self.check, "verdict": self.verdict, "evidence": self.evidence, "fix": self.fix}
