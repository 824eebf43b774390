"""Resuming a training: not on other data, and not past its end.

transformers goes on from the last checkpoint in the output folder without a look at the data, and takes one step more
where that checkpoint is the last one, so that each start after the end changes the weights.
"""

from __future__ import annotations

import hashlib
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from gream.errors import GreamError
from gream.files import read_json, write_json
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Lies in every checkpoint and in the output folder.
DATA = "gream_data.json"


def stop_where_over() -> None:
    """From now on, a training resumed at its last step trains nothing and goes on with saving."""
    run_epoch = Trainer._run_epoch
    if hasattr(run_epoch, "__wrapped__"):
        return

    @wraps(run_epoch)
    def stopping(self: Any, *arguments: Any, **named: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            run_epoch(self, *arguments, **named)

    Trainer._run_epoch = stopping


class DataGuard(TrainerCallback):
    """Writes the hash of the data into every checkpoint, and refuses to go on from one of other data."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare, where the training is resumed.

        Raises:
            GreamError: The checkpoint was trained on other rows.
        """
        self._data = hash_of_rows(kwargs["train_dataloader"].dataset) if args.process_index == 0 else None
        if self._data is None or not args.resume_from_checkpoint:
            return
        path = Path(args.resume_from_checkpoint) / DATA
        if not path.exists():
            print(f"{path}: not there: on which data the checkpoint was trained is not known", flush=True)
            if state.global_step >= state.max_steps:
                self._data = None  # nothing is trained any more: nothing to be said of what others were trained on
            return
        if read_json(path, remedy="remove the checkpoint") != {"sha256": self._data}:
            raise GreamError(
                f"{path.parent}: trained on other data than is given now; "
                "choose another output_dir, or remove this one to begin anew"
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say on which data a checkpoint was trained."""
        self._note(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say on which data the model was trained."""
        self._note(Path(args.output_dir))

    def _note(self, folder: Path) -> None:
        if self._data is not None and folder.is_dir():
            write_json(folder / DATA, {"sha256": self._data})


def hash_of_rows(dataset: Any) -> str | None:
    """SHA-256 of the token ids and labels of all rows in their order; None where rows are streamed."""
    if not hasattr(dataset, "with_format") or not hasattr(dataset, "__len__"):
        return None
    digest = hashlib.sha256()
    names = [name for name in ("input_ids", "labels") if name in dataset.column_names]
    for rows in dataset.with_format("arrow").iter(batch_size=4096):
        for name in names:
            lists = rows.column(name).combine_chunks()
            for values in (lists.value_lengths(), lists.flatten()):
                digest.update(values.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
    return digest.hexdigest()
