"""Several devices through torchrun: each rank encodes its share, the first one does the rest of the stage.

The first rank runs the stage as a lone process does; the others wait for its word and work along. If one ends with an
error, torchrun ends the others, and the parts on disk stay.
"""

from __future__ import annotations

from gream.processes import Processes, join_processes

from .parts import Job, encode_parts


def encode_in_ranks(job: Job) -> None:
    """Encode what is missing, in every rank its share; called by the first one, returns when all are done."""
    processes = join_processes()
    _encode_share(processes, *processes.from_leader((job, job.missing())))


def work_along() -> None:
    """What all ranks but the first do: their share of each job, until the first one is done."""
    processes = join_processes()
    nothing: tuple[Job, list[int]] | None = None
    while (task := processes.from_leader(nothing)) is not None:
        _encode_share(processes, *task)
    processes.leave()


def dismiss() -> None:
    """Let the other ranks end; called by the first one when its stage is done."""
    processes = join_processes()
    processes.from_leader(None)
    processes.leave()


def _encode_share(processes: Processes, job: Job, missing: list[int]) -> None:
    encode_parts(job, processes.share(missing), show=processes.rank == 0)
    processes.wait()
