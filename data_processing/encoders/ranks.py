"""Several devices through torchrun: each rank encodes its share, the first one does the rest of the stage.

The first rank runs the stage as a lone process does; the others wait for its word and work along. If one ends with an
error, torchrun ends the others, and the parts on disk stay.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from .parts import Job, encode_parts

# Ranks wait for the slowest of them, and the others for the first to read the inputs. A rank that dies is noticed by
# torchrun at once, not by this limit.
_PATIENCE = timedelta(days=7)


def rank() -> int:
    """This process's number under torchrun; 0 without it."""
    return int(os.environ["RANK"]) if _under_torchrun() else 0


def encode_in_ranks(job: Job) -> None:
    """Encode what is missing, in every rank its share; called by the first one, returns when all are done."""
    missing = job.missing()
    if not _under_torchrun():
        encode_parts(job, missing)
        return
    _send((job, missing))
    _encode_share(job, missing)


def work_along() -> None:
    """What all ranks but the first do: their share of each job, until the first one is done."""
    while (task := _send(None)) is not None:
        _encode_share(*task)
    _leave()


def dismiss() -> None:
    """Let the other ranks end; called by the first one when its stage is done."""
    if _under_torchrun():
        _send(None)
        _leave()


def _encode_share(job: Job, missing: list[int]) -> None:
    import torch.distributed as dist

    encode_parts(job, missing[rank() :: dist.get_world_size()], show=rank() == 0)
    dist.barrier()


def _send(task: tuple[Job, list[int]] | None) -> tuple[Job, list[int]] | None:
    """The first rank's task, at every rank."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_PATIENCE)
    box: list[Any] = [task]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _leave() -> None:
    import torch.distributed as dist

    dist.barrier()  # so that none closes a connection that another one still reads from
    dist.destroy_process_group()


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
