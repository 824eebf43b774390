"""The rows of the RL parquet files: each must name the item that its prompt should lead to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gream.errors import GreamError
from gream.files import read_json
from gream.hashing import sha256_of

from verl_srpo.reward import ResidualReward

# In every checkpoint: the training files and their hashes.
DATA = "gream_data.json"


def hashes_of_files(files: Sequence[Path]) -> list[str]:
    """SHA-256 of each training file, in their order."""
    return [sha256_of(file) for file in files]


def check_same_data(checkpoint: Path, files: Sequence[Path]) -> None:
    """Refuse to go on from a checkpoint that was trained on other rows: verl counts on in files it does not compare.

    Args:
        checkpoint: ``global_step_N``.
        files: Training files now.

    Raises:
        GreamError: They are others.
    """
    path = checkpoint / DATA
    if not path.exists():
        print(f"{path}: not there: on which data the checkpoint was trained is not known", flush=True)
    elif read_json(path, remedy="remove the checkpoint") != hashes_of_files(files):
        raise GreamError(
            f"{checkpoint}: trained on other data than data.train_files names now; choose another "
            "trainer.default_local_dir, or remove this one to begin anew"
        )


def ground_truth_of(row: Mapping[str, Any], *, source: str) -> str:
    """The semantic id that ``row["reward_model"]["ground_truth"]`` holds.

    Raises:
        GreamError: There is none; ``source`` names the row.
    """
    reward_model = row.get("reward_model")
    truth = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    if not isinstance(truth, str) or not truth:
        raise GreamError(f"{source}: has no reward_model.ground_truth; make the RL data again")
    return truth


def check_ground_truths(files: Sequence[Path], reward: ResidualReward) -> None:
    """Check every row of ``files`` before a run spends time on them.

    Args:
        files: Parquet files.
        reward: Knows the catalogue.

    Raises:
        GreamError: A file cannot be read, or a row's ground truth is missing or no item; names file and row (from 0).
    """
    # Imported here: pyarrow comes with verl's environment, and nothing else in the plugin needs it.
    import pyarrow
    import pyarrow.parquet

    for path in files:
        try:
            rows = pyarrow.parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise GreamError(f"{path}: cannot be read as a parquet file of RL rows ({reason})") from None
        if "reward_model" not in rows.schema_arrow.names:
            raise GreamError(f"{path}: has no column reward_model; make the RL data again")
        for number, value in enumerate(rows.read(columns=["reward_model"]).column(0).to_pylist()):
            source = f"{path}: row {number}"
            reward.check_truth(ground_truth_of({"reward_model": value}, source=source), source=source)
