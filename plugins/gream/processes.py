"""The processes that torchrun started for one piece of work: who leads, who takes which part, when all are done.

If one ends with an error, torchrun ends the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

# A process may hash a large checkpoint, read the inputs, or finish its part, long before or after the others. One that
# dies is noticed by torchrun at once, not by this limit.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """The processes of one piece of work.

    Attributes:
        rank: Number of this one; 0 leads.
        count: How many there are.
    """

    rank: int
    count: int

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """What this process does of ``parts``: each is done by exactly one."""
        return parts[self.rank :: self.count]

    def from_leader(self, message: T) -> T:
        """What the leading process passes here; it returns in all of them."""
        if self.count == 1:
            return message
        import torch.distributed as dist

        box = [message]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def leave(self) -> None:
        """Part when all processes have come here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()  # so that none closes a connection that another one still reads from
            dist.destroy_process_group()


def rank() -> int:
    """This process's number under torchrun, without a word to the others; 0 where torchrun did not start it."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def join_processes() -> Processes:
    """The processes that torchrun started with this one; alone where it did not start this one.

    Each takes the GPU of its own number, where there are any.
    """
    count = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if count == 1:
        return Processes(0, 1)
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_PATIENCE)
    return Processes(dist.get_rank(), count)
