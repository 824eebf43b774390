"""The trained model among the checkpoints of verl, in the format that transformers loads."""

from __future__ import annotations

from pathlib import Path

from gream.errors import GreamError

MODEL = Path("actor", "huggingface")


def last_model(folder: Path) -> Path:
    """The model of the last complete checkpoint.

    Args:
        folder: ``trainer.default_local_dir``, e.g. RUN/checkpoints/srpo.

    Raises:
        GreamError: There is none.
    """
    models = {
        int(step): path / MODEL
        for path in folder.glob("global_step_*")
        if (step := path.name.removeprefix("global_step_")).isdigit() and (path / MODEL / "config.json").exists()
    }
    if not models:
        raise GreamError(f"{folder}: holds no checkpoint of SRPO (global_step_N/{MODEL}); run SRPO first")
    return models[max(models)]
