"""``llamafactory-gream assemble``: alignment records to a folder that ``tokenized_path`` of a recipe names.

The plain ``llamafactory-cli`` reads the folder. Rows are those that LLaMA-Factory makes of the exported messages, token
by token and label by label; every pass after the first says them in other words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gream.assembly import Assembled, Assembler
from gream.errors import GreamError
from gream.provenance import code_of
from gream.stage import StageResult, Summary, run_stage
from gream.tasks import Material, Record, read_records, reworded

_FILES = ("alignment_records.jsonl", "items.jsonl", "users.jsonl")
# Records assembled at once: some 10 MB of token ids.
_CHUNK = 16_384


def assemble(
    run: Path, *, passes: int, cutoff_len: int, train_on_prompt: bool, overwrite: bool, keep: bool = False
) -> StageResult:
    """Make RUN/assembled of RUN/sft and the tokenizer of RUN/model, as a stage.

    Args:
        run: Run folder.
        passes: Times that every record is written.
        cutoff_len: Most tokens of a row.
        train_on_prompt: Loss on prompts too.
        overwrite: Replace a folder made with other settings or by other code.
        keep: Accept one that other code made.

    Raises:
        GreamError: An input is missing or unsound.
    """
    data = run / "sft"

    def build(out: Path) -> Summary:
        from tqdm import tqdm
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(run / "model", local_files_only=True)
        material, records = Material.load(data), read_records(data / _FILES[0])
        if not records:
            raise GreamError(f"{data / _FILES[0]}: holds no row; give a task of the section 'sft' some")
        tokens, shorter = 0, 0
        with tqdm(total=passes * len(records), unit=" rows", dynamic_ncols=True) as progress:

            def cut() -> Iterator[Assembled]:
                nonlocal tokens, shorter
                for rows in assembled_passes(Assembler(tokenizer, material), material, records, passes):
                    progress.update(len(rows))
                    kept = rows.cut(cutoff_len)
                    tokens += len(kept.tokens)
                    shorter += int((np.diff(rows.starts) > cutoff_len).sum())
                    yield kept

            write_rows(cut(), out / "assembled", train_on_prompt=train_on_prompt)
        made = f"{passes * len(records):,} rows, {tokens:,} tokens, {shorter:,} rows cut to {cutoff_len}"
        if not shorter:
            return Summary(made)
        return Summary(
            made,
            (
                f"{shorter:,} rows lost their question or the end of their answer: raise --cutoff-len, or lower "
                "sft.longest_row",
            ),
        )

    return run_stage(
        run,
        "assemble",
        config={"passes": passes, "cutoff_len": cutoff_len, "train_on_prompt": train_on_prompt},
        inputs={name: data / name for name in _FILES} | {"tokenizer": run / "model" / "tokenizer.json"},
        outputs=["assembled"],
        code=code_of(assemble),
        build=build,
        overwrite=overwrite,
        keep=keep,
    )


def assembled_passes(
    assembler: Assembler, material: Material, records: Sequence[Record], passes: int
) -> Iterator[Assembled]:
    """All records, once per pass and in their order, in parts; each pass in its own wordings."""
    for number in range(passes):
        for start in range(0, len(records), _CHUNK):
            part = records[start : start + _CHUNK]
            yield assembler.assemble(
                [reworded(record, row, number, material) for row, record in enumerate(part, start)]
            )


def write_rows(parts: Iterable[Assembled], out: Path, *, train_on_prompt: bool = False) -> None:
    """Write rows as a dataset dictionary with the split "train" in the folder ``out``."""
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

    batches = []
    # What the library would make by pickling everything at once: its cache knows rows by it.
    fingerprint = blake2b(digest_size=8)
    for rows in parts:
        starts = pa.array(rows.starts, type=pa.int32())
        columns: dict[str, npt.NDArray[np.generic]] = {
            "input_ids": rows.tokens,
            "attention_mask": np.ones(len(rows.tokens), dtype=np.int8),
            "labels": rows.tokens if train_on_prompt else rows.labels(),
        }
        for values in columns.values():
            fingerprint.update(values.data)
        lists = [pa.ListArray.from_arrays(starts, pa.array(values)) for values in columns.values()]
        batches.append(pa.record_batch(lists, names=list(columns)))
    rows_of_all = Dataset(pa.Table.from_batches(batches), fingerprint=fingerprint.hexdigest())
    DatasetDict({"train": rows_of_all}).save_to_disk(str(out))
