"""The places in LLaMA-Factory that the plugin stands on; it has no plugin interface, so they can move."""

from __future__ import annotations

from importlib.metadata import version

from gream.seams import Seam
from gream.seams import check_seams as check

SEAMS = (
    Seam("llamafactory.data.converter", "DATASET_CONVERTERS"),
    Seam("llamafactory.data.converter", "DatasetConverter"),
    Seam("llamafactory.data.converter", "register_dataset_converter"),
    Seam("llamafactory.data.formatter", "EmptyFormatter"),
    Seam("llamafactory.data.formatter", "StringFormatter"),
    Seam("llamafactory.data.template", "TEMPLATES"),
    Seam("llamafactory.data.template", "register_template"),
)
# Loading these two takes seconds and is left to the programs that need them.
PROGRAM_SEAMS = (
    # The launcher starts torchrun on its own file; the plugin's worker takes that file's place.
    Seam("llamafactory.launcher", "launch", reads=("__file__",)),
    Seam("llamafactory.train.tuner", "run_exp", parameters=("callbacks",)),
    # LoRA trains rows of added tokens too.
    Seam("llamafactory.model.adapter", "init_adapter", reads=("_setup_lora_tuning",)),
    Seam(
        "llamafactory.model.adapter",
        "_setup_lora_tuning",
        parameters=("config", "model", "model_args", "finetuning_args"),
        reads=("LoraConfig",),
    ),
    # Muon's products on a CPU.
    Seam("llamafactory.third_party.muon.muon", "zeropower_via_newtonschulz5", parameters=("G", "steps")),
    Seam("llamafactory.third_party.muon.muon", "Muon.step", reads=("zeropower_via_newtonschulz5",)),
    # A training that is over trains nothing.
    Seam("transformers", "Trainer._run_epoch"),
)


def check_seams(*, programs: bool = False) -> None:
    """Make sure that every place the plugin uses is where it was.

    Args:
        programs: Also of launching and training.

    Raises:
        GreamError: One has moved; names it.
    """
    check(SEAMS + PROGRAM_SEAMS if programs else SEAMS, package="llamafactory", version=version("llamafactory"))
