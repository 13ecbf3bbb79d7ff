"""What the facts of a cluster mean: one pure function a check, with a verdict, its evidence and how to mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from raysft.doctor.facts import VERSIONS, Facts, Finding, GpuHealth, NodeFacts, Verdict

MAX_CLOCK_OFFSET_S = 1.0
"""Tokens, TLS certificates and S3 refuse clocks that are minutes apart; records of a run are read side by side."""
SLOW_STORAGE_MB_S = 20.0
LOW_DISK_SHARE, LOW_DISK_BYTES = 0.05, 5 << 30
"""Ray itself stops at 95% of its disk."""
LOW_SHM_BYTES = 1 << 30
"""NCCL, gloo and Ray's object store use it; a container has 64 MB unless it is told otherwise."""
SLOW_LINK_MB_S, SLOW_LINK_MS = 50.0, 20.0
FOREIGN_SHARE = 0.05
"""More of a GPU's memory than this is held by somebody else, before the run begins."""


def examine(facts: Facts) -> list[Finding]:
    """Every check in order; those of nodes once for all nodes."""
    return [finding for check in CHECKS for finding in check(facts)]


def check_nodes(facts: Facts) -> Iterator[Finding]:
    """Does every node answer?"""
    if facts.unreachable:
        told = "; ".join(f"{node}: {why}" for node, why in sorted(facts.unreachable.items()))
        fix = "see that the node runs this image and that tasks can start there (`ray status`, its raylet.err)"
        yield Finding("nodes", "fail", f"no task could run on {told}", fix)
    else:
        yield Finding("nodes", "ok", f"{len(facts.nodes)} node(s) answer")


def check_versions(facts: Facts) -> Iterator[Finding]:
    """The same on all nodes."""
    wrong = []
    for name in VERSIONS:
        found = {node.address: node.versions.get(name) for node in facts.nodes}
        counts = Counter(found.values())
        if len(counts) > 1:
            most = counts.most_common(1)[0][0]
            others = ", ".join(f"{v or 'missing'} on {at}" for at, v in sorted(found.items()) if v != most)
            wrong.append(f"{name} {most or 'missing'}, but {others}")
        elif None in counts and facts.nodes:
            wrong.append(f"{name} is installed nowhere")
    if wrong:
        yield Finding("versions", "fail", "; ".join(wrong), "start all nodes from one image, or one lock file")
    elif facts.nodes:
        own = facts.nodes[0].versions
        yield Finding("versions", "ok", ", ".join(f"{name} {own[name]}" for name in VERSIONS[:5] if name in own))


def check_imports(facts: Facts) -> Iterator[Finding]:
    """Optional packages that are installed can be imported."""
    broken = {(name, why) for node in facts.nodes for name, why in node.broken_imports.items()}
    for name, why in sorted(broken):
        where = [node.address for node in facts.nodes if node.broken_imports.get(name) == why]
        fix = f"uninstall {name}, or install the one that was made for this torch: transformers and peft import it"
        yield Finding("imports", "fail", f"{name} cannot be imported on {_at(where)}: {why}", fix)
    if not broken:
        yield Finding("imports", "ok", "no optional package is broken")


def check_clocks(facts: Facts) -> Iterator[Finding]:
    """Apart by less than a second."""
    measured = {node.address: node for node in facts.nodes if node.clock_offset_s is not None}
    wrong = [
        f"{at} by {node.clock_offset_s:+.1f} s"
        for at, node in sorted(measured.items())
        if abs(node.clock_offset_s or 0) > MAX_CLOCK_OFFSET_S + node.clock_error_s
    ]
    if wrong:
        yield Finding("clocks", "fail", f"differ from this one: {', '.join(wrong)}", "run NTP (chrony) on all nodes")
    elif measured:
        most = max(abs(node.clock_offset_s or 0) for node in measured.values())
        yield Finding("clocks", "ok", f"at most {most:.2f} s apart")
    else:
        yield Finding("clocks", "skip", "not measured")


def check_storage(facts: Facts) -> Iterator[Finding]:
    """Every node can write there, and sees what another has written."""
    trials = {node.address: node.storage for node in facts.nodes if node.storage is not None}
    if not trials:
        yield Finding("storage", "skip", "no storage was named: give a recipe, or --storage")
        return
    failed = [f"{at}: {trial.error}" for at, trial in sorted(trials.items()) if trial.error]
    location = next(iter(trials.values())).location
    if failed:
        fix = "let the workers' user write there, free the disk or raise the quota, give nodes their credentials"
        yield Finding("storage", "fail", f"{location} cannot be written by {'; '.join(failed)}", fix)
        return
    apart = [at for at, trial in sorted(trials.items()) if trial.sees_marker is False]
    if apart:
        fix = (
            "use a file system that all nodes share, or s3:// and the like; a path of one node is not seen by others"
        )
        yield Finding("storage", "fail", f"{location} on {_at(apart)} is not the one that this driver sees", fix)
        return
    write = min(trial.write_mb_s for trial in trials.values())
    read = min(trial.read_mb_s for trial in trials.values())
    told = f"{location}: written at {write:.0f} MB/s, read at {read:.0f} MB/s by the slowest of {len(trials)} node(s)"
    slow = min(write, read) < SLOW_STORAGE_MB_S
    fix = "a save of checkpoints takes 12 bytes a trained parameter: use faster storage, or save less often"
    yield Finding("storage", "warn" if slow else "ok", told, fix if slow else "")


def check_disks(facts: Facts) -> Iterator[Finding]:
    """Room for Ray's session and for shared memory."""
    low = []
    for node in facts.nodes:
        for disk in node.disks:
            least = LOW_SHM_BYTES if disk.path == "/dev/shm" else LOW_DISK_BYTES
            share = disk.free_bytes / max(1, disk.total_bytes)
            if disk.free_bytes < least or (disk.path != "/dev/shm" and share < LOW_DISK_SHARE):
                free, total = disk.free_bytes / 2**30, disk.total_bytes / 2**30
                low.append(f"{disk.path} on {node.address}: {free:.1f} of {total:.1f} GiB free")
    if low:
        fix = "free the disk; for /dev/shm mount an emptyDir with medium Memory, or docker run --shm-size=8g"
        yield Finding("disks", "fail", "; ".join(low), fix)
    elif any(node.disks for node in facts.nodes):
        yield Finding("disks", "ok", "/tmp and /dev/shm have room on every node")


def check_gpus(facts: Facts) -> Iterator[Finding]:
    """As many as Ray counts, without errors, and nobody else's."""
    seen = [node for node in facts.nodes if node.gpus is not None]
    if not seen:
        hidden = [node.address for node in facts.nodes if node.ray_gpus]
        why = f"Ray counts GPUs on {_at(hidden)}, but there is no NVML (nvidia-ml-py, driver)" if hidden else ""
        yield Finding("gpus", "warn" if hidden else "skip", why or "no GPU here, or no NVML: not looked at")
        return
    bad = [(node, told) for node in seen for told in _gpu_problems(node)]
    for node, (verdict, what, fix) in bad:
        yield Finding("gpus", verdict, f"{node.address}: {what}", fix)
    if not bad:
        yield Finding("gpus", "ok", f"{sum(len(node.gpus or ()) for node in seen)} GPU(s) on {len(seen)} node(s)")


def _gpu_problems(node: NodeFacts) -> Iterator[tuple[Verdict, str, str]]:
    """(verdict, what, fix)."""
    gpus: Sequence[GpuHealth] = node.gpus or ()
    if node.ray_gpus > len(gpus):
        yield (
            "fail",
            f"Ray counts {node.ray_gpus:g} GPUs, the driver sees {len(gpus)}: one has fallen off the bus",
            "drain the node and reboot it; replace the GPU if it comes again",
        )
    for gpu in gpus:
        name = f"GPU {gpu.index} ({gpu.name})"
        if gpu.remap_failed:
            yield "fail", f"{name}: a memory row could not be remapped", "take the GPU out and have it replaced"
        elif gpu.remap_pending:
            yield "fail", f"{name}: memory rows wait to be remapped", "drain the node and reset the GPU"
        if gpu.ecc_errors:
            yield "fail", f"{name}: {gpu.ecc_errors} uncorrected ECC errors", "drain the node and reset the GPU"
        if gpu.total_bytes and gpu.used_bytes > FOREIGN_SHARE * gpu.total_bytes:
            used = f"{gpu.used_bytes / 2**30:.1f} of {gpu.total_bytes / 2**30:.1f} GiB"
            what = f"{name}: {used} are held by {gpu.processes or 'unknown'} process(es) already"
            yield "warn", what, "end what is left of earlier jobs, or count this run's own processes out"


def check_links(facts: Facts) -> Iterator[Finding]:
    """Nodes reach each other, fast enough."""
    links = facts.links
    if links is None:
        yield Finding("links", "skip", "one node: nothing to measure between nodes")
    elif links.error:
        fix = "open all ports between nodes (NetworkPolicy, firewall); GLOO_SOCKET_IFNAME names the interface"
        yield Finding("links", "fail", f"{links.nodes} nodes cannot form a gloo group: {links.error}", fix)
    else:
        told = (
            f"{links.nodes} nodes: all-reduce of 8 bytes {links.latency_ms:.1f} ms, of 16 MiB {links.mb_s:.0f} MB/s"
        )
        slow = links.mb_s < SLOW_LINK_MB_S or links.latency_ms > SLOW_LINK_MS
        fix = "choose the fast interface with GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in cluster.env"
        yield Finding("links", "warn" if slow else "ok", told, fix if slow else "")


def check_security(facts: Facts) -> Iterator[Finding]:
    """A token, and no door beside it."""
    found = facts.security
    if found is None:
        yield Finding("token", "skip", "Ray was started by this command, for this machine")
        return
    yield from _token(facts)
    if found.tls_files_missing:
        missing = ", ".join(found.tls_files_missing)
        yield Finding(
            "tls", "fail", f"RAY_USE_TLS is set, but there is no {missing}", "give nodes and driver the files"
        )
    elif found.tls:
        yield Finding("tls", "ok", "gRPC is encrypted; the dashboard (8265) stays plain HTTP")
    elif _is_local(found.head.rpartition(":")[0]):
        yield Finding("tls", "ok", "off; the cluster is on this machine alone")
    else:
        yield Finding(
            "tls", "warn", "off: tokens and data cross the network in clear", "set RAY_USE_TLS and its files"
        )
    port = found.dashboard
    if port is None or port.status == 0:
        yield Finding("ports", "skip", "no dashboard answers here")
    elif port.status < 400 and not _is_local(_host(port.url)):
        fix = "set RAY_AUTH_MODE=token on all nodes, or start with --dashboard-host=127.0.0.1; close 8265 to others"
        yield Finding("ports", "fail", f"{port.url} answers without a token: whoever reaches it runs code here", fix)
    else:
        how = "asks for a token" if port.status >= 400 else "is on this machine alone"
        yield Finding("ports", "ok", f"the dashboard {how} ({port.url}: HTTP {port.status})")


def _token(facts: Facts) -> Iterator[Finding]:
    found = facts.security
    assert found is not None
    if found.has_token and not found.auth_mode:
        fix = (
            "set RAY_AUTH_MODE=token for this command, too: without it no token is sent, and the cluster answers 401"
        )
        yield Finding("token", "warn", "there is a token, but RAY_AUTH_MODE is not set", fix)
    elif found.auth_mode == "token" and not found.has_token:
        fix = "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        yield Finding("token", "fail", "RAY_AUTH_MODE is token, and there is none", fix)
    elif found.auth_mode == "token" and (bare := [node.address for node in facts.nodes if node.auth_mode != "token"]):
        fix = "start these nodes with RAY_AUTH_MODE=token and the cluster's token"
        yield Finding("token", "fail", f"RAY_AUTH_MODE is not token on {_at(bare)}", fix)
    elif found.auth_mode == "token":
        yield Finding("token", "ok", "RAY_AUTH_MODE=token, and there is one")
    elif _is_local(found.head.rpartition(":")[0]):
        yield Finding("token", "ok", "off; the cluster is on this machine alone")
    else:
        fix = "ray get-auth-token --generate; RAY_AUTH_MODE=token and RAY_AUTH_TOKEN for all nodes and for clients"
        yield Finding("token", "fail", f"whoever reaches {found.head} runs code on this cluster", fix)


def check_demands(facts: Facts) -> Iterator[Finding]:
    """Nothing waits for ever."""
    never = [demand for demand in facts.pending if demand.is_impossible]
    if never:
        told = "; ".join(f"{demand.count} x {_bundle(demand.bundle)}" for demand in never)
        fix = "end what asks for it (`ray list tasks --filter state=PENDING_NODE_ASSIGNMENT`), or add such a node"
        yield Finding("demands", "fail", f"no node can ever hold {told}", fix)
    else:
        waiting = sum(demand.count for demand in facts.pending)
        yield Finding("demands", "ok", f"{waiting} demand(s) wait, all of them possible" if waiting else "none waits")
    if facts.recipe_problem is not None:
        bad = bool(facts.recipe_problem)
        told = facts.recipe_problem or "the cluster holds it"
        fix = "lower cluster.workers or what a worker needs, or add nodes" if bad else ""
        yield Finding("recipe", "fail" if bad else "ok", told, fix)


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    *(check_nodes, check_versions, check_imports, check_clocks, check_storage, check_disks, check_gpus, check_links),
    *(check_security, check_demands),
)


def _at(addresses: Sequence[str]) -> str:
    names = sorted(set(addresses))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _bundle(bundle: object) -> str:
    assert isinstance(bundle, dict)
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in sorted(bundle.items())) + "}"


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition(":")[0]


def _is_local(host: str) -> bool:
    return host.strip("[]") in ("localhost", "::1", "") or host.startswith("127.")
