"""A worker's threads on the CPUs that are near its GPU.

On a node of several sockets the other one's memory is slower to reach, and what a thread writes first lies at its own
socket: batches and parameters on their way to the GPU. Linux says which CPUs are local to a PCI device
(Documentation/ABI/testing/sysfs-bus-pci, `local_cpulist`).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

SYSTEM = Path("/sys")


def stay_near(device: torch.device, least: int, system: Path = SYSTEM) -> frozenset[int]:
    """Keep all threads of this process, and those that they start, on the CPUs near the GPU; these CPUs.

    None where nothing is changed: no GPU, all its CPUs are near, or fewer than `least` of those that this process may
    use. A thread that was kept elsewhere before stays there.
    """
    if device.type != "cuda":
        return frozenset()
    return keep(cpus_near(pci_address(device), system), least)


def pci_address(device: torch.device) -> str:
    """The GPU as Linux names it: domain:bus:device.function."""
    found: Any = torch.cuda.get_device_properties(device)  # torch's types lack its PCI fields
    return f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"


def cpus_near(address: str, system: Path = SYSTEM) -> frozenset[int]:
    """CPUs local to a PCI device; none where the system does not say."""
    try:
        listed = (system / "bus/pci/devices" / address / "local_cpulist").read_text("ascii")
        return frozenset(number for part in listed.strip().split(",") if part for number in _numbers(part))
    except (OSError, ValueError):
        return frozenset()


def _numbers(part: str) -> range:
    """`3` or `0-31`."""
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def keep(cpus: frozenset[int], least: int) -> frozenset[int]:
    """Keep this process on those of the CPUs that it may use, if these are at least so many and not all; them."""
    allowed = frozenset(os.sched_getaffinity(0))
    near = cpus & allowed
    if len(near) < least or near == allowed:
        return frozenset()
    for task in [int(entry.name) for entry in Path("/proc/self/task").iterdir()]:
        try:
            if os.sched_getaffinity(task) == allowed:
                os.sched_setaffinity(task, near)
        except OSError as error:  # it has ended
            logger.debug("thread %d stays where it is: %s", task, error)
    logger.info("kept on %d of %d CPUs, those near its GPU", len(near), len(allowed))
    return near
