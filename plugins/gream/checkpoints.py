"""The model that was trained last, in the format that transformers loads: of verl, or of a whole run."""

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
    models = _models(folder)
    if not models:
        raise GreamError(f"{folder}: holds no checkpoint of SRPO (global_step_N/{MODEL}); run SRPO first")
    return models[max(models)]


def last_checkpoint(run: Path) -> Path:
    """The model of a run that was trained last: of SRPO the last checkpoint, else of the curriculum, else of alignment.

    Raises:
        GreamError: The run has none.
    """
    folder = run / "checkpoints"
    if models := _models(folder / "srpo"):
        return models[max(models)]
    for name in ("reasoning", "alignment"):
        if (folder / name / "config.json").exists():
            return folder / name
    raise GreamError(f"{run}: no trained model under checkpoints/; train one, or name one with --checkpoint")


def checkpoints_in(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints that training left in a folder, ``checkpoint-N`` with weights, by step.

    Raises:
        GreamError: There is none.
    """
    found = _by_step(folder, "checkpoint-")
    if not found:
        raise GreamError(f"{folder}: holds no checkpoint-N; name the output folder of a training that kept some")
    return sorted(found.items())


def _models(folder: Path) -> dict[int, Path]:
    """Models of verl's complete checkpoints, by step."""
    return _by_step(folder, "global_step_", MODEL)


def _by_step(folder: Path, prefix: str, below: Path = Path()) -> dict[int, Path]:
    """Model folders ``PREFIX<step>/BELOW`` that are complete."""
    return {
        int(step): path / below
        for path in folder.glob(f"{prefix}*")
        if (step := path.name.removeprefix(prefix)).isdigit() and (path / below / "config.json").exists()
    }
