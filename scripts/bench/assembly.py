"""Assembly of token ids from compact records, beside tokenizing the rendered strings one by one.

    OMP_NUM_THREADS=1 python scripts/bench/assembly.py --run RUN [--rows 271069]

RUN has sft/ and model/. Records are repeated in other wordings until there are as many as asked for. Seconds are those
of this process's CPU time on one core, so that other work on the machine counts little; reading the files is not timed.
The sampled strings are checked against the assembled rows.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gream.assembly import Assembled, Assembler
from gream.tasks import Material, read_records
from llamafactory_gream.assemble import assembled_passes, write_rows
from transformers import AutoTokenizer

SAMPLE = 4000


def memory() -> str:
    """Peak resident memory of this process so far."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB"


def main() -> None:
    """Print rows per second of both, their ratio, and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=271_069, help="as the official data of Instruments has per pass")
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.run / "model", local_files_only=True)
    print(f"peak memory after imports and tokenizer: {memory()}")
    material = Material.load(arguments.run / "sft")
    records = read_records(arguments.run / "sft" / "alignment_records.jsonl")
    assembler = Assembler(tokenizer, material)
    passes = -(-arguments.rows // len(records))
    seconds = 0.0
    tokens = done = 0

    def parts() -> Iterator[Assembled]:
        nonlocal seconds, tokens, done
        began = time.process_time()
        for part in assembled_passes(assembler, material, records, passes):
            seconds += time.process_time() - began
            tokens, done = tokens + len(part.tokens), done + len(part)
            yield part
            if done >= arguments.rows:
                return
            began = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        write_rows(parts(), Path(folder) / "assembled")
    print(f"{done} rows of {tokens / done:.1f} tokens assembled, texts tokenized: {done / seconds:,.0f} rows/s")
    print(f"peak memory, all rows written: {memory()}")

    sample = records[:: max(1, len(records) // SAMPLE)][:SAMPLE]
    began = time.process_time()
    again = assembler.assemble(sample)
    warm = len(sample) / (time.process_time() - began)
    print(f"again, every text known: {warm:,.0f} rows/s")
    began = time.process_time()
    strings = [assembler.tokenize(record) for record in sample]
    one_by_one = len(sample) / (time.process_time() - began)
    if any(again.row(number) != row for number, row in enumerate(strings)):
        raise SystemExit("assembled rows differ from tokenized ones")
    print(f"strings, one by one: {one_by_one:,.0f} rows/s; assembly x {done / seconds / one_by_one:.1f}")


if __name__ == "__main__":
    main()
