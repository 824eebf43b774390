"""``python -m verl_srpo.report LOG...``: what SRPO runs measured, step by step, on one page; several runs side by side.

A log is what verl's file logger writes (``VERL_FILE_LOGGER_PATH``): one JSON object ``{"step", "data"}`` per line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from gream.errors import GreamError, exit_with_error_line
from gream.files import write_text
from gream.page import render
from gream.page.svg import COLOURS, lines_chart
from markupsafe import Markup

from verl_srpo.rollouts import read_metrics

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Series = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """One log.

    Attributes:
        name: Shown to the reader.
        metrics: For each metric, its (step, value) by step; what is no finite number is left out.
    """

    name: str
    metrics: dict[str, Series]


# Section, title, metric (the end of a name, where it starts with *), what it says, whether the axis starts at 0.
_CHARTS = (
    ("Reward", "Reward", "srpo/reward", "Mean over the rollouts of a step.", True),
    ("Reward", "Validation reward", "*/reward/mean@", "Mean over the validation prompts.", True),
    ("Reward", "Exact hits", "srpo/exact_hits", "Share of rollouts that name the item.", True),
    ("Reward", "Hits per group", "srpo/hits_per_group", "Rollouts of a prompt that name the item.", True),
    ("Reward", "Pass@K", "srpo/pass_at_", "Chance that K rollouts of a prompt hold a hit.", True),
    ("Reward", "Level reached", "srpo/match_level/", "Share of rollouts whose first so many levels are right.", True),
    ("Groups", "Groups without differences", "srpo/zero_variance_groups", "They teach nothing.", True),
    ("Groups", "Generated", "srpo/groups/generated", "Groups generated for the step.", True),
    ("Groups", "Kept", "srpo/groups/kept", "Generated groups whose rewards differ.", True),
    ("Groups", "Replaced", "srpo/groups/replaced", "Generated groups whose rewards do not differ.", True),
    ("Groups", "Surplus", "srpo/groups/surplus", "Groups left for the next step.", True),
    ("Groups", "Reward of all generated", "srpo/groups/reward_generated", "Replaced groups included.", True),
    ("Answers", "Well-formed", "srpo/format_ok", "Share with one thought and one answer.", True),
    ("Answers", "Invalid ids", "srpo/invalid_id", "Share of answers that no item has.", True),
    ("Answers", "Length", "response_length/mean", "Tokens of a response.", True),
    ("Answers", "Cut off", "response_length/clip_ratio", "Share of responses that ended for want of room.", True),
    ("Policy", "Advantage, deviation", "srpo/advantage_std", "0: nothing moves the policy.", True),
    ("Policy", "Advantage, mean", "srpo/advantage_mean", "0 but for rounding.", False),
    ("Policy", "Bonus", "srpo/bonus_share", "The bonus's part of all that moves the policy.", True),
    ("Policy", "Entropy", "actor/entropy", "Nats per token.", True),
    ("Policy", "Divergence", "actor/kl_loss", "From the SFT model, nats per token.", True),
    ("Policy", "Gradient", "actor/grad_norm", "Norm before clipping.", True),
    ("Policy", "Rollout and actor", "training/rollout_probs_diff_mean", "How far their probabilities differ.", True),
    ("Policy", "Gap, fresh", "srpo/policy_gap/fresh", "Rollout to actor, nats per token, this step's groups.", True),
    ("Policy", "Gap, carried", "srpo/policy_gap/carried", "The same of the step before's surplus.", True),
    ("Time", "Seconds", "timing_s/step", "Of a step.", True),
)


def read_run(path: Path, name: str) -> Run:
    """The metrics of a log; of a step that was logged twice, later values win.

    Raises:
        GreamError: The file cannot be read, a line before the last is broken, or there is no metric.
    """
    steps: dict[str, dict[float, float]] = {}
    for record in read_metrics(path):
        for metric, value in record["data"].items():
            if isinstance(value, int | float) and math.isfinite(value):
                steps.setdefault(metric, {})[float(record["step"])] = float(value)
    if not steps:
        raise GreamError(f"{path}: holds no step yet")
    return Run(name, {metric: sorted(values.items()) for metric, values in steps.items()})


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each log: its folders, as far as they tell it from the others."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.absolute().parent.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _matching(run: Run, pattern: str) -> list[str]:
    if pattern.startswith("*"):
        return sorted(metric for metric in run.metrics if pattern[1:] in metric and metric.startswith("val-core"))
    if pattern.endswith(("/", "_")):
        return sorted(metric for metric in run.metrics if metric.startswith(pattern))
    return [pattern] if pattern in run.metrics else []


def report_page(runs: Sequence[Run]) -> str:
    """The page: a summary of the last steps, then the charts; a metric that no run has is left out."""
    sections: dict[str, list[tuple[str, Markup, str, str]]] = {}
    rows: list[dict[str, str | float]] = []
    for section, title, pattern, says, zero in _CHARTS:
        for metric in sorted({metric for run in runs for metric in _matching(run, pattern)}):
            series = [run.metrics.get(metric, []) for run in runs]
            name = title if metric == pattern or pattern.startswith("*") else f"{title} {metric.removeprefix(pattern)}"
            below = min(value for points in series for _, value in points) < 0
            chart = lines_chart(name, series, zero=zero and not below)
            sections.setdefault(section, []).append((name, chart, says, metric))
            row: dict[str, str | float] = {"metric": metric}
            for run, points in zip(runs, series, strict=True):
                if points:
                    row[f"{run.name}: first"], row[f"{run.name}: last"] = points[0][1], points[-1][1]
            rows.append(row)
    template = Path(__file__).with_suffix(".html")
    return render(template, runs=runs, colours=COLOURS, sections=sections, rows=rows)


@app.command()
def report(
    logs: Annotated[list[Path], typer.Argument(help="Metrics files of verl's file logger.")],
    out: Annotated[Path, typer.Option(help="File to write the page to.")] = Path("srpo.html"),
) -> None:
    """Draw the metrics of SRPO runs on one page."""
    runs = [read_run(path, name) for path, name in zip(logs, names_of(logs), strict=True)]
    page = report_page(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    print(f"{out}: {len(runs)} runs", flush=True)


if __name__ == "__main__":
    exit_with_error_line(app)
