"""SRPO's model is found among its checkpoints; a checkpoint is not gone on with on other data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from data_support import call
from gream.checkpoints import last_model
from gream.errors import GreamError
from gream.files import write_json
from verl_srpo.dataset import DATA, check_same_data, hashes_of_files


def test_the_last_complete_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (9, 11, 22, 33):
        (tmp_path / f"global_step_{step}" / "actor" / "huggingface").mkdir(parents=True)
    for step in (9, 11, 22):  # 33 was killed half way
        (tmp_path / f"global_step_{step}" / "actor" / "huggingface" / "config.json").touch()
    expected = tmp_path / "global_step_22" / "actor" / "huggingface"
    assert last_model(tmp_path) == expected
    said = call([sys.executable, "-m", "gream", "checkpoint", str(tmp_path)])
    assert said.stdout.replace("\n", "") == str(expected)
    with pytest.raises(GreamError, match="holds no checkpoint of SRPO"):
        last_model(tmp_path / "global_step_9")


def test_a_checkpoint_of_verl_knows_its_training_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for file in files:
        file.write_text(file.name)
    check_same_data(tmp_path, files)
    assert "is not known" in capsys.readouterr().out
    write_json(tmp_path / DATA, hashes_of_files(files))
    check_same_data(tmp_path, files)
    for others in (files[:1], files[::-1]):
        with pytest.raises(GreamError, match=r"trained on other data than data\.train_files names now"):
            check_same_data(tmp_path, others)
    files[0].write_text("other")
    with pytest.raises(GreamError, match="trained on other data"):
        check_same_data(tmp_path, files)
