"""Registers GREAM's template and dataset converter with LLaMA-Factory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gream.tasks import Material, Record, render_record

from llamafactory_gream.seams import check_seams

NAME = "gream"


def register() -> None:
    """Register template and converter under the name "gream"; again in the same process it does nothing.

    Raises:
        GreamError: The installed LLaMA-Factory lacks a place that the plugin uses.
    """
    check_seams()
    from llamafactory.data.converter import DATASET_CONVERTERS, DatasetConverter, register_dataset_converter
    from llamafactory.data.formatter import EmptyFormatter, StringFormatter
    from llamafactory.data.template import TEMPLATES, register_template

    @dataclass
    class TaskRecordConverter(DatasetConverter):
        """One compact record to one aligned row."""

        def __post_init__(self) -> None:
            self.material = Material.load(Path(self.data_args.dataset_dir))

        def __call__(self, example: Record) -> dict[str, Any]:
            *before, question, answer = render_record(example, self.material)
            return {
                "_prompt": [question],
                "_response": [answer],
                "_system": before[0]["content"] if before else "",
                "_tools": "",
                "_images": None,
                "_videos": None,
                "_audios": None,
            }

    if NAME not in DATASET_CONVERTERS:
        register_dataset_converter(NAME, TaskRecordConverter)
    if NAME not in TEMPLATES:
        # Renders what gream.dialogue.render_prompt renders, for tokenizers whatever their own chat template says.
        register_template(
            name=NAME,
            format_user=StringFormatter(slots=["<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n"]),
            format_assistant=StringFormatter(slots=["{{content}}<|im_end|>\n"]),
            format_system=StringFormatter(slots=["<|im_start|>system\n{{content}}<|im_end|>\n"]),
            format_prefix=EmptyFormatter(),
            stop_words=["<|im_end|>"],
            replace_eos=True,
        )


def registered() -> dict[str, bool]:
    """Which parts LLaMA-Factory knows in this process."""
    from llamafactory.data.converter import DATASET_CONVERTERS
    from llamafactory.data.template import TEMPLATES

    return {"converter": NAME in DATASET_CONVERTERS, "template": NAME in TEMPLATES}
