"""What every rank does by itself, and all of them give up when one cannot."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
import torch.distributed as dist

from raysft.errors import RaysftError, from_fields, to_fields


def on_every_rank(act: Callable[[], None]) -> None:
    """Do it; if any rank cannot, raise the RaysftError of the first one everywhere. Collective."""
    told: dict[str, str] | None = None
    try:
        act()
    except RaysftError as error:
        told = to_fields(error)
    text = json.dumps(told).encode() if told else b""
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64)
    sizes[dist.get_rank()] = len(text)
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    sizes = sizes.to(device)
    dist.all_reduce(sizes)
    failed = sizes.nonzero().flatten().tolist()
    if not failed:
        return
    size = int(sizes[failed[0]])
    message = torch.frombuffer(bytearray(text or b" "), dtype=torch.uint8).to(device)
    if dist.get_rank() != failed[0]:
        message = torch.empty(size, dtype=torch.uint8, device=device)
    dist.broadcast(message, failed[0])
    raise from_fields(json.loads(bytes(message.tolist())))
