"""``report.html`` as a stage: made anew whenever something it shows has changed."""

from __future__ import annotations

from pathlib import Path

from gream.errors import GreamError
from gream.files import write_text
from gream.page import STYLE
from gream.provenance import code_of
from gream.stage import StageResult, run_stage

from .data import USERS_SHOWN, read_report_data, report_inputs
from .page import render_page

REPORT = "report.html"


def write_report(run: Path, *, user_ids: bool = False, overwrite: bool, keep: bool = False) -> StageResult:
    """Make ``report.html`` of a run.

    Args:
        run: Run folder.
        user_ids: Name the users shown by their ids in the data, which may be addresses of people.
        overwrite: Replace one that was made otherwise or by other code.
        keep: Accept one that other code made.

    Raises:
        GreamError: The folder holds nothing to report, or a file in it is broken.
    """
    inputs = report_inputs(run, user_ids)
    if not inputs:
        raise GreamError(f"{run}: holds nothing to report; name the folder of a run")

    def build(out: Path) -> None:
        write_text(out / REPORT, render_page(read_report_data(run, user_ids)))

    return run_stage(
        run,
        "report",
        config={"users": USERS_SHOWN, "user_ids": user_ids},
        inputs={"style": STYLE} | {path.relative_to(run).as_posix(): path for path in inputs},
        outputs=[REPORT],
        code=code_of(write_report),
        build=build,
        overwrite=overwrite,
        keep=keep,
    )
