"""The report as one HTML page: no script, no external resource; every text of the data is escaped on its way in."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from gream.page import html_page
from gream.page.markup import is_flat_list, is_scalar, is_table, missing, panel, table_of, title_of
from gream.page.svg import bar_chart, histogram, interval_bar, line_chart, number

from ..metrics import SHOWN
from ..results import BASELINES, Interval, Result
from .data import QUALITY, STATISTICS, Curve, ReportData
from .users import users_section

_HEADS = {
    "recall@1": "Recall@1",
    "recall@5": "Recall@5",
    "recall@10": "Recall@10",
    "ndcg@5": "NDCG@5",
    "ndcg@10": "NDCG@10",
    "mrr": "MRR",
}
_SECTIONS = {
    "accuracy": "Accuracy",
    "training": "Training",
    "semantic-ids": "Semantic ids",
    "data": "Data",
    "users": "Users",
    "provenance": "Provenance",
}


def render_page(data: ReportData) -> str:
    """The whole page."""
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in _SECTIONS.items())
    body = {
        "accuracy": _accuracy(data),
        "training": _training(data),
        "semantic-ids": _semantic_ids(data),
        "data": _data(data),
        "users": users_section(data),
        "provenance": _provenance(data),
    }
    sections = "\n".join(
        f'<section id="{anchor}"><h2>{title}</h2>{body[anchor]}</section>' for anchor, title in _SECTIONS.items()
    )
    return html_page(
        f"{data.name} - GREAM report",
        f'<header><p class="kicker">GREAM report</p><h1>{escape(data.name)}</h1>{_lead(data)}<nav>{links}</nav>'
        f"{_tiles(data)}</header>\n<main>{sections}</main>\n"
        "<footer>Made by <code>python -m eval report</code> from the files of the run folder.</footer>",
    )


def _lead(data: ReportData) -> str:
    statistics = data.statistics or {}
    known = [
        f"{number(statistics[key])} {key}"
        for key in ("users", "items", "interactions")
        if isinstance(statistics.get(key), int | float)
    ]
    return f'<p class="lead">{escape(", ".join(known))}.</p>' if known else ""


def _tiles(data: ReportData) -> str:
    tiles = []
    models = [result for result in data.results if result.mode not in BASELINES and result.split == "test"]
    baselines = [result for result in data.results if result.mode in BASELINES]
    if models:
        best = max(models, key=lambda result: result.metrics["ndcg@10"].value)
        for metric in ("recall@10", "ndcg@10"):
            tiles.append(
                _tile(f"{_HEADS[metric]}, {best.name}", _fixed(best.metrics[metric].value), _range(best, metric))
            )
        if baselines:
            rival = max(baselines, key=lambda result: result.metrics["ndcg@10"].value)
            ours, theirs = best.metrics["ndcg@10"].value, rival.metrics["ndcg@10"].value
            figure = f"{ours / theirs - 1:+.0%}" if theirs else "n/a"
            tiles.append(_tile("NDCG@10 against the best baseline", figure, f"{rival.name}: {_fixed(theirs)}"))
    if data.rewards is not None:
        change = data.rewards.difference
        tiles.append(
            _tile(
                "Reward, SFT to SRPO",
                f"{change.value:+.3f}",
                f"{_fixed(data.rewards.before.value)} to {_fixed(data.rewards.after.value)}; "
                f"95 % {change.low:+.3f} to {change.high:+.3f}",
            )
        )
    if models:
        lists = sum(result.users for result in models)
        invalid = sum(result.invalid_rate * result.users for result in models) / lists
        doubled = sum(result.duplicates for result in models)
        tiles.append(
            _tile(
                "Recommended items that do not exist",
                f"{invalid:.1%}",
                f"{number(lists)} lists, {doubled} with doubles",
            )
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _tile(name: str, figure: str, more: str) -> str:
    return (
        f'<div class="tile"><div class="name">{escape(name)}</div><div class="figure">{escape(figure)}</div>'
        f'<div class="more">{escape(more)}</div></div>'
    )


def _range(result: Result, metric: str) -> str:
    interval = result.metrics[metric]
    return f"95 % {_fixed(interval.low)} to {_fixed(interval.high)}, {number(result.users)} users"


def _accuracy(data: ReportData) -> str:
    if not data.results:
        return missing("No evaluation yet", "run 'python -m eval baselines', 'direct' or 'reasoning'")
    largest = {name: max(result.metrics[name].high for result in data.results) for name in SHOWN}
    best = {name: max(result.metrics[name].value for result in data.results) for name in SHOWN}
    rows = "".join(
        f"<tr><th scope=row>{escape(result.name)}{_details(result)}</th>"
        + "".join(
            _metric_cell(result.metrics[name], largest[name], result.metrics[name].value == best[name])
            for name in SHOWN
        )
        + f"<td>{result.invalid_rate:.1%}</td><td>{result.duplicates}</td>"
        f"<td>{'-' if result.malformed_rate is None else f'{result.malformed_rate:.1%}'}</td>"
        f"<td>{_seconds(result.seconds_per_user)}</td></tr>"
        for result in data.results
    )
    heads = "".join(f"<th scope=col>{_HEADS[name]}</th>" for name in SHOWN)
    return (
        "<p>One held-out item per user is to be found among all items of the catalogue; nothing is sampled. Bars are "
        "95 % bootstrap intervals over users, on an axis from zero that a column shares.</p>"
        f'<div class="scroll"><table class="metrics"><thead><tr><th scope=col>Evaluation</th>{heads}'
        "<th scope=col>Invalid<br>items</th><th scope=col>Lists with<br>doubles</th>"
        "<th scope=col>Malformed<br>chains</th><th scope=col>Seconds<br>per user</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="note">Baselines leave out items the user already has; a model may repeat them unless it was asked '
        "with --exclude-history. A chain is malformed where the model never came to its answer; its list is made all "
        "the same. MRR counts within the list.</p>" + _reward_sentence(data)
    )


def _reward_sentence(data: ReportData) -> str:
    if data.rewards is None:
        return missing("No comparison of rewards before and after SRPO", "run 'python -m eval rewards' after SRPO")
    change = data.rewards.difference
    return (
        f"<p>On {number(data.rewards.prompts)} validation prompts the mean reward went from "
        f"{_fixed(data.rewards.before.value)} (step {data.rewards.before_step}) to "
        f"<b>{_fixed(data.rewards.after.value)}</b> (step {data.rewards.after_step}): a paired difference of "
        f"<b>{change.value:+.4f}</b>, 95 % interval {change.low:+.4f} to {change.high:+.4f}.</p>"
    )


def _details(result: Result) -> str:
    asked = [] if result.mode == result.name else [str(result.mode)]
    if result.split != "test":
        asked.append(f"{result.split} split")
    lines = [", ".join([*asked, f"{number(result.users)} users"]), result.checkpoint or ""]
    # A path may break behind its slashes.
    return "".join(f"<small>{escape(line).replace('/', '/<wbr>')}</small>" for line in lines if line)


def _metric_cell(interval: Interval, largest: float, best: bool) -> str:
    mark = ' class="best"' if best else ""
    return (
        f"<td><span{mark}>{_fixed(interval.value)}</span>"
        f"{interval_bar(interval.low, interval.value, interval.high, largest)}"
        f'<span class="range">{interval.low:.3f} &ndash; {interval.high:.3f}</span></td>'
    )


def _fixed(value: float) -> str:
    return f"{value:.4f}"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "&lt; 0.001"


def _training(data: ReportData) -> str:
    figures = "".join(_curve_figure(curve) for curve in data.curves if curve.points)
    absent = "".join(
        missing(f"{curve.title}: no value of {curve.key} in {curve.source}", "not trained yet, or not logged")
        for curve in data.curves
        if not curve.points
    )
    intro = "<p>Faint: each logged step. Strong: the running mean, with its last value.</p>" if figures else ""
    return f'{intro}<div class="grid">{figures}</div>{absent}' if figures else absent


def _curve_figure(curve: Curve) -> str:
    points = curve.points or ()
    caption = f"<code>{escape(curve.key)}</code> of <code>{escape(curve.source)}</code>"
    if curve.not_finite:
        caption += f"; {number(curve.not_finite)} values that are not finite are left out"
    zero = all(0 <= value <= 1 for _, value in points)
    return (
        f"<figure><h3>{escape(curve.title)}</h3>{line_chart(curve.title, points, zero=zero)}"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _semantic_ids(data: ReportData) -> str:
    if data.quality is None:
        return missing(f"No {QUALITY}", "run 'python -m data_processing semantic-ids'")
    scalars = {key: value for key, value in data.quality.items() if is_scalar(value) or is_flat_list(value)}
    groups = {key: value for key, value in data.quality.items() if isinstance(value, Mapping)}
    tables = {key: value for key, value in data.quality.items() if is_table(value)}
    panels = (panel("Overview", scalars) if scalars else "") + "".join(
        panel(title_of(key), value) for key, value in groups.items()
    )
    purity = [row for row in tables.get("purity", ()) if "category_purity" in row]
    if purity:
        rows = [
            (f"prefix of {row.get('prefix_length')}", float(row["category_purity"]), f"{row['category_purity']:.1%}")
            for row in purity
        ]
        panels += (
            f"<figure><h3>Category purity</h3>{bar_chart('Category purity by length of the prefix', rows)}"
            "<figcaption>Share of items whose category is the commonest one under their prefix.</figcaption></figure>"
        )
    return f'<div class="grid">{panels}</div>' + "".join(
        f"<h3>{escape(title_of(key))}</h3>{table_of(value)}" for key, value in tables.items() if key != "purity"
    )


def _data(data: ReportData) -> str:
    if data.statistics is None:
        return missing(f"No {STATISTICS}", "run 'python -m data_processing interactions'")
    scalars = {key: value for key, value in data.statistics.items() if not isinstance(value, Mapping)}
    groups = {key: value for key, value in data.statistics.items() if isinstance(value, Mapping)}
    # What was counted step by step reads better as a table, a step per row; counts by whole number as a chart.
    steps = {key: value for key, value in groups.items() if all(isinstance(row, Mapping) for row in value.values())}
    panels = panel("Overview", scalars) if scalars else ""
    for key, value in groups.items():
        title = title_of(key)
        if value and all(name.isdigit() and isinstance(count, int) for name, count in value.items()):
            chart = histogram(title, {int(name): count for name, count in value.items()})
            panels += f"<figure><h3>{escape(title)}</h3>{chart}</figure>"
        elif key not in steps:
            panels += panel(title, value)
    return f'<div class="grid">{panels}</div>' + "".join(
        f"<h3>{escape(title_of(key))}</h3>{table_of([{'step': title_of(name), **row} for name, row in value.items()])}"
        for key, value in steps.items()
    )


def _provenance(data: ReportData) -> str:
    if not data.results:
        return missing("No evaluation yet", "each records its command, seed and versions")
    rows = "".join(
        f"<tr><th scope=row>{escape(result.name)}</th><td>{result.seed}</td>"
        f"<td>{escape(', '.join(f'{key} {value}' for key, value in result.versions.items()))}</td></tr>"
        for result in data.results
    )
    commands = "".join(f"<li><code>{escape(result.command)}</code></li>" for result in data.results)
    return (
        '<div class="scroll"><table><thead><tr><th scope=col>Evaluation</th><th scope=col>Seed</th>'
        f"<th scope=col>Versions</th></tr></thead><tbody>{rows}</tbody></table></div><ul>{commands}</ul>"
    )
