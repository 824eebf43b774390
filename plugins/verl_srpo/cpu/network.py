"""Everything runs on this machine, so nothing listens to others: Ray, torch's store and gloo keep to the loopback."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import ray._private.ray_constants
import torch.distributed
import verl.utils.distributed

_LOOPBACK_INTERFACE = "lo"


def join_process_group(timeout_second: int | None = None, backend: str | None = None) -> None:
    """Stand-in for verl's `initialize_global_process_group_ray`, once per process.

    verl's own would join "cpu:gloo" and "<device>:gloo", which torch refuses where the device is the CPU, and would
    offer its store to every interface.

    Args:
        timeout_second: For collectives; None for torch's default.
        backend: None for gloo.
    """
    if torch.distributed.is_initialized():
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK_INTERFACE)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = timedelta(seconds=timeout_second) if timeout_second is not None else None
    listener = socket.create_server((host, port)).detach() if rank == 0 else None
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        host, port, world_size=size, is_master=rank == 0, master_listen_fd=listener
    )
    torch.distributed.init_process_group(
        backend or "cpu:gloo", store=store, rank=rank, world_size=size, timeout=timeout
    )


verl.utils.distributed.initialize_global_process_group_ray = join_process_group

# Ray binds to all interfaces unless this switch tells it that it will not form a cluster; asked for the address
# 127.0.0.1, it takes one that others reach.
ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
