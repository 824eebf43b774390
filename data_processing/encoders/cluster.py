"""Many machines through Ray Data: a worker per GPU of the cluster, or per core where it has none.

The run folder and the model folder lie under the same path on every machine.
"""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError

from .parts import Job, PartEncoder, progress


class _Worker:
    """A `PartEncoder` as Ray Data calls it."""

    def __init__(self, job: Job) -> None:
        self._encode = PartEncoder(job)

    def __call__(self, batch: dict[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.int64]]:
        return {"items": np.array([self._encode(int(number)) for number in batch["part"]])}


def encode_on_cluster(job: Job, address: str) -> None:
    """Encode what is missing; returns when all parts are on disk.

    Args:
        job: Its paths are valid on every machine.
        address: Of a Ray cluster, "auto" for the one this machine belongs to, "local" for this machine alone.

    Raises:
        GreamError: The cluster cannot be reached, or a worker failed.
    """
    import ray

    missing = job.missing()
    if not missing:
        return
    try:
        _knock(address)
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError) as error:  # a ConnectionError is an OSError
        raise GreamError(
            f"Ray cluster '{address}' cannot be reached ({error}); start one with 'ray start --head', or name its "
            "HOST:PORT"
        ) from None
    try:
        _encode(job, missing)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise GreamError(f"a Ray worker failed ({reason}); what is encoded stays, start again") from None
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray would wait a minute, then end the process without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _encode(job: Job, missing: list[int]) -> None:
    import ray

    resources: dict[str, Any] = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = min(len(missing), gpus or int(resources["CPU"]))
    ray.data.DataContext.get_current().enable_progress_bars = False
    done = ray.data.from_items([{"part": number} for number in missing], override_num_blocks=len(missing)).map_batches(
        _Worker, fn_constructor_args=(job,), batch_size=1, concurrency=workers, num_gpus=1 if gpus else 0
    )
    with progress(job, len(missing)) as bar:
        for row in done.iter_rows():
            bar.update(int(row["items"]))
