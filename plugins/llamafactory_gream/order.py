"""Which rows training consumed, and in which order: the log of a run, and its comparison with the file.

Each rank writes ``order.rankR.jsonl`` into the output folder, a line per forward pass in training, with the step and a
hash of the text of each row. A row of a file has the same hash: that of its conversation as the template renders it.

    python -m llamafactory_gream.order OUTPUT_DIR FILE.jsonl
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from gream.dialogue import Message, render_prompt
from gream.errors import GreamError, exit_with_error_line
from gream.files import Row, iterate_jsonl, read_jsonl

LOG = "order.rank{}.jsonl"

_REMEDY = "name a file of the sft stage"


def text_hash(text: str) -> str:
    """64 bits are enough to tell rows apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_hash(messages: Sequence[Message]) -> str:
    """Hash of a row of a messages file, as the log holds it.

    Args:
        messages: A conversation that ends with the answer.
    """
    return text_hash(f"{render_prompt(messages[:-1])}{messages[-1]['content']}<|im_end|>\n")


def read_order(output: Path) -> list[str]:
    """Hashes of all rows that a run consumed: forward pass by forward pass, in each the ranks one after the other.

    Args:
        output: ``output_dir`` of the run.

    Raises:
        GreamError: There is no log, or a rank's is missing.
    """
    ranks: list[list[Row]] = []
    while (path := output / LOG.format(len(ranks))).exists():
        ranks.append(read_jsonl(path, fields={"ranks": int, "rows": list}, remedy="train again"))
    if not ranks:
        raise GreamError(f"{output}: holds no {LOG.format(0)}; train with llamafactory-gream")
    if any(line["ranks"] != len(ranks) for rank in ranks for line in rank):
        raise GreamError(f"{output}: the logs of its ranks do not belong together; train again")
    return [name for passes in zip(*ranks, strict=True) for line in passes for name in line["rows"]]


def compare_order(consumed: Sequence[str], wanted: Sequence[str]) -> str:
    """Whether rows were consumed in the order of their file, in one sentence.

    Args:
        consumed: From `read_order`.
        wanted: `row_hash` of each row of the file.

    Raises:
        GreamError: They were not; the message names the first row that was another.
    """
    # Where the rows do not fill the last batch of every rank, loaders begin again with the first ones; so do epochs.
    for place, name in enumerate(consumed):
        if name != wanted[place % len(wanted)]:
            known = "another row of the file" if name in set(wanted) else "no row of the file, or one that was cut"
            raise GreamError(
                f"row {place + 1} consumed is not row {place % len(wanted) + 1} of the file, but {known}; "
                "set disable_shuffling: true, and neither packing nor val_size nor streaming"
            )
    return f"{len(consumed)} rows consumed, in the order of the {len(wanted)} rows of the file"


def file_order(path: Path) -> list[str]:
    """`row_hash` of each row of a messages file.

    Raises:
        GreamError: A line is no such row; names file and line.
    """
    hashes = []
    for number, row in iterate_jsonl(path, fields={"messages": list}, remedy=_REMEDY):
        try:
            hashes.append(row_hash(row["messages"]))
        except (IndexError, KeyError, TypeError):
            raise GreamError(f"{path}:{number}: no row of messages; {_REMEDY}") from None
    if not hashes:
        raise GreamError(f"{path}: holds no row")
    return hashes


def main(
    output: Annotated[Path, typer.Argument(help="output_dir of a run of llamafactory-gream.")],
    file: Annotated[Path, typer.Argument(help="Data set it was trained on, one epoch.")],
) -> None:
    """Say whether a run consumed the rows of a file in their order; status 2 where it did not."""
    print(compare_order(read_order(output), file_order(file)))


if __name__ == "__main__":
    exit_with_error_line(lambda: typer.run(main))
