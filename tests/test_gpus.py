"""GPUs as ``nvidia-smi`` tells them, what ``gream doctor`` makes of them, and cards that the recipes are for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from gream import doctor, footprint
from gream.footprint import GB, QWEN3, main_memory
from gream.gpus import Gpu, find_gpus, nvlink, too_old

H100 = "NVIDIA H100 80GB HBM3, 81559, 9.0, 580.95.05"


def fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, *cards: str, topology: str = "", status: int = 0) -> None:
    """An ``nvidia-smi`` that knows of cards, index and UUID apart."""
    rows = "\n".join(f"{index}, GPU-{index}a, {card}" for index, card in enumerate(cards))
    program = folder / "nvidia-smi"
    program.write_text(
        f"#!/bin/sh\ncase $1 in topo) cat <<'E'\n{topology}\nE\n;; *) cat <<'E'\n{rows}\nE\n;; esac\nexit {status}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_are_read_and_chosen_as_cuda_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, H100, "NVIDIA L40S, 46068, 8.9, 580.95.05")
    h100, l40s = find_gpus()
    assert h100 == Gpu("NVIDIA H100 80GB HBM3", 81559 << 20, (9, 0), "580.95.05")
    for chosen, expected in (("1", [l40s]), ("1,0", [l40s, h100]), ("GPU-0a", [h100]), ("", []), ("7", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert find_gpus() == expected


def test_no_driver_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, status=9)
    assert find_gpus() == [] and nvlink() is None
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert find_gpus() == []


@pytest.mark.parametrize(
    ("topology", "joined"),
    [
        ("\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV18\t0-47\nGPU1\tNV18\t X \t0-47", True),
        ("\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tPHB\t0-47\nGPU1\tPHB\t X \t0-47", False),
        ("\tGPU0\tCPU Affinity\nGPU0\t X \t0-47", None),
    ],
)
def test_nvlink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topology: str, joined: bool | None) -> None:
    fake_smi(tmp_path, monkeypatch, H100, topology=topology)
    assert nvlink() is joined


def test_old_drivers_and_old_cards_are_named() -> None:
    new = Gpu("H100", 1, (9, 0), "580.95.05")
    assert too_old(new, "13.0") is None
    old = Gpu("H100", 1, (9, 0), "550.54.15")
    assert too_old(old, "13.0") == "driver 550.54.15, CUDA 13.0 needs 580 or later: update the driver"
    assert too_old(old, "12.8") is None
    assert "compute capability 7.5, bf16 needs 8.0" in (too_old(Gpu("T4", 1, (7, 5), "580.95.05"), "13.0") or "")


def findings(monkeypatch: pytest.MonkeyPatch, cuda: str | None, packages: dict[str, str]) -> dict[str, doctor.Finding]:
    def version(name: str) -> str:
        if name in packages:
            return packages[name]
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "_cuda", lambda: cuda)
    monkeypatch.setattr(doctor, "_PROBES", {})
    return {finding.part: finding for finding in doctor.examine()}


def test_torchvision_is_right_beside_cuda_and_wrong_beside_a_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = {"torchvision": "0.28.0+cu130"}
    assert findings(monkeypatch, "13.0", with_it)["torchvision"].remedy == ""
    assert findings(monkeypatch, "13.0", {})["torchvision"].remedy == "bash scripts/install.sh --gpu"
    assert findings(monkeypatch, None, with_it)["torchvision"].remedy == "pip uninstall torchvision"
    assert findings(monkeypatch, None, {})["torchvision"].remedy == ""


def test_packages_for_gpus_are_asked_for_beside_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = findings(monkeypatch, "13.0", {"vllm": "0.28.0", "deepspeed": "0.18.0"})
    assert on_gpu["vllm"].remedy == ""
    assert on_gpu["deepspeed"].found == "0.18.0 (tested: 0.19.8)"
    assert on_gpu["liger-kernel"].remedy == "bash scripts/install.sh --gpu"
    # Nothing breaks without it.
    assert on_gpu["flash-attn"].remedy == ""
    assert not {"vllm", "flash-attn"} & set(findings(monkeypatch, None, {}))


def test_a_gpu_that_the_build_of_torch_leaves_idle_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, H100)
    device = findings(monkeypatch, None, {})["device"]
    assert "leaves idle" in device.found and device.remedy == "bash scripts/install.sh --gpu"
    fake_smi(tmp_path, monkeypatch, "NVIDIA H100, 81559, 9.0, 550.54.15")
    device = findings(monkeypatch, "13.0", {})["device"]
    assert device.remedy == "update the driver" and "CUDA 13.0 needs 580" in device.found


def test_few_cpus_are_said_where_a_gpu_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100 * GB}))
    fake_smi(tmp_path, monkeypatch, H100)
    assert findings(monkeypatch, None, {})["machine"].remedy.endswith("ray_kwargs.ray_init.num_cpus=13")
    fake_smi(tmp_path, monkeypatch, status=1)
    assert findings(monkeypatch, None, {})["machine"].remedy == ""


CARDS = re.findall(
    r"^\| (24|48|80|141) GB \| (0\.6B|1\.7B|4B) \| (.*?) \| (\d+) GB \|$",
    (Path(__file__).resolve().parent.parent / "docs" / "gpus.md").read_text(),
    re.MULTILINE,
)


def test_every_card_of_the_page_has_every_model() -> None:
    assert [(int(card), model) for card, model, *_ in CARDS] == [
        (card, model) for card in (24, 48, 80, 141) for model in ("0.6B", "1.7B", "4B")
    ]


@pytest.mark.parametrize(("card", "model", "settings", "main"), CARDS)
def test_what_the_page_says_of_a_card_fits_it(card: str, model: str, settings: str, main: str) -> None:
    from omegaconf import OmegaConf
    from test_srpo_recipes import composed

    from data_processing.preflight.jobs import read_job
    from data_processing.preflight.machine import memory_problems

    short = {
        "offload_policy": "actor_rollout_ref.actor.fsdp_config.offload_policy",
        "gpu_memory_utilization": "actor_rollout_ref.rollout.gpu_memory_utilization",
    }
    pairs = [setting.split("=") for setting in re.findall(r"`([^`]+)`", settings)]
    config = composed("one_gpu", *(f"{short[name]}={value}" for name, value in pairs))
    job = read_job(OmegaConf.to_container(config, resolve=True))
    assert memory_problems(int(card) * GB, 1, QWEN3[model], [], job) == []
    assert round(main_memory(QWEN3[model], 1, offload=job.offload) / GB) == int(main)


def test_what_the_page_says_of_sft_on_a_card_is_what_fits_it() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "gpus.md").read_text()
    cards = re.findall(r"^\| (\d+) GB \| (\w+) \| (\w+) \| (\w+) \|$", page, re.MULTILINE)
    assert [card for card, *_ in cards] == ["24", "48", "80", "141"]
    for card, *said in cards:
        for shape, way in zip(QWEN3.values(), said, strict=True):
            full, lora = (footprint.sft(shape, 1, 8 * 512, liger=True, lora=lora) for lora in (False, True))
            room = footprint.USABLE * int(card) * GB
            assert (way == "full") == (full <= room) and lora <= room, (card, way)


def test_doctor_needs_no_framework() -> None:
    code = "import gream.doctor, gream.gpus, sys; print(any(m in sys.modules for m in ('torch', 'verl', 'psutil')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr
