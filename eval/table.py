"""All evaluations of a run in one table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .compare import COMPARED, Comparison
from .metrics import SHOWN
from .results import Interval, Result
from .rewards import RewardComparison

_HEADS = {"recall@1": "R@1", "recall@5": "R@5", "recall@10": "R@10", "ndcg@5": "N@5", "ndcg@10": "N@10", "mrr": "MRR"}


def print_table(results: Sequence[Result], rewards: RewardComparison | None, console: Console) -> None:
    """Print an evaluation per row, each metric above its interval, and the reward comparison below.

    Args:
        results: In the order of the rows.
        rewards: None where none was made.
        console: Where to print; made for 100 columns.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("evaluation\nmode, users", overflow="fold")
    for name in SHOWN:
        table.add_column(_HEADS[name], justify="right", no_wrap=True)
    table.add_column("invalid\ndoubled", justify="right", no_wrap=True)
    table.add_column("s/user\nmalformed", justify="right", no_wrap=True)
    shown = [metrics for result in results for metrics in (result.metrics, *(result.alone or {}).values())]
    best = {name: max(metrics[name].value for metrics in shown) for name in SHOWN}
    protocols = [_protocol(result) for result in results]
    for index, result in enumerate(results):
        if index and protocols[index] != protocols[index - 1]:
            table.add_section()
        if index == 0 or protocols[index] != protocols[index - 1]:
            table.add_row(Text(protocols[index], style="dim"))
        table.add_row(
            _who(result),
            *_cells(result.metrics, best),
            _two_lines(f"{result.invalid_rate:.1%}", str(result.duplicates)),
            _two_lines(
                _seconds(result.seconds_per_user),
                "" if result.malformed_rate is None else f"{result.malformed_rate:.1%}",
            ),
        )
        for name, metrics in (result.alone or {}).items():
            table.add_row(_two_lines(f"  {name}", "  alone"), *_cells(metrics, best), "", "")
    console.print(table)
    console.print(
        "\nR Recall, N NDCG over the full catalogue; below each its 95 % bootstrap interval over users. "
        "With or without history: whether lists may name what the user already has; refit: validation items were "
        "fitted on too. Alone: what the parts of a fused list rank by themselves. "
        "Invalid: share of items that do not exist; doubled: lists that name an item twice; malformed: share of "
        "chains that never came to an answer.",
        style="dim",
    )
    if rewards is not None:
        console.print(f"\n{rewards_line(rewards)}")


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a group of users per row: each metric's difference above its interval and p-value.

    Args:
        comparison: What to show.
        console: Where to print; made for 100 columns.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("second minus first\nusers", overflow="fold")
    for name in COMPARED:
        table.add_column(f"{_HEADS[name]}\nfirst", justify="right", no_wrap=True)
        table.add_column("difference\n95 %", justify="right", no_wrap=True)
        table.add_column("\np", justify="right", no_wrap=True)
    for group in comparison.groups:
        cells: list[Text | str] = [_two_lines(group.name, f"{group.users:,}")]
        for name in COMPARED:
            metric = group.metrics[name]
            change = metric.difference
            sure = change.low > 0 or change.high < 0
            difference = _two_lines(f"{change.value:+.4f}", f"{_short(change.low)} {_short(change.high)}")
            if sure:
                difference.stylize("bold", 0, 7)
            cells += [f"{metric.first:.4f}", difference, _p_value(metric.p_value)]
        table.add_row(*cells)
    console.print(f"first:  {comparison.first}\nsecond: {comparison.second}")
    alone = ""
    if comparison.only_first or comparison.only_second:
        alone = (
            f"; {comparison.only_first:,} whom only the first and {comparison.only_second:,} whom only the second "
            "asked take no part"
        )
    console.print(f"{comparison.users:,} users of the {comparison.split} split whom both asked{alone}\n")
    console.print(table)
    console.print(
        "\nPaired by user: 95 % bootstrap interval of the difference, and p of the paired randomisation test, not "
        "corrected for the number of rows. Seen: in training interactions.",
        style="dim",
    )


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<.001"


def rewards_line(rewards: RewardComparison) -> str:
    """The reward comparison in one sentence."""
    change = rewards.difference
    return (
        f"Validation reward of {rewards.prompts} prompts: SFT {rewards.before.value:.4f}, "
        f"SRPO {rewards.after.value:.4f} (step {rewards.after_step}), "
        f"difference {change.value:+.4f} (95 % {change.low:+.4f} to {change.high:+.4f})"
    )


def _protocol(result: Result) -> str:
    return ("without history" if result.history == "excluded" else "with history") + (
        ", refit" if result.fitted == "train+valid" else ""
    )


def _who(result: Result) -> Text:
    details: list[str] = [result.mode] if result.mode != result.name else []
    if result.split != "test":
        details.append(result.split)
    details.append(f"{result.users:,}")
    return _two_lines(result.name, ", ".join(details))


def _cells(metrics: Mapping[str, Interval], best: Mapping[str, float]) -> list[Text]:
    return [_metric(metrics[name], metrics[name].value == best[name]) for name in SHOWN]


def _metric(interval: Interval, best: bool) -> Text:
    text = _two_lines(f"{interval.value:.4f}", f"{_short(interval.low)}-{_short(interval.high)}")
    if best:
        text.stylize("bold", 0, 6)
    return text


def _two_lines(upper: str, lower: str) -> Text:
    return Text.assemble(upper, "\n", (lower, "dim"))


def _short(value: float) -> str:
    """Three decimals without a leading zero, so that an interval stays narrow."""
    return f"{value:.3f}".replace("0.", ".", 1)


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
