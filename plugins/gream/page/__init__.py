"""Self-contained HTML pages: charts as inline SVG, tables, one style sheet; no script, no external resource."""

from __future__ import annotations

from pathlib import Path

from gream.page.markup import FILTERS

STYLE = Path(__file__).with_name("page.css")


def render(template: Path, **values: object) -> str:
    """The page that a template makes.

    Args:
        template: Jinja2 template, which may import the pieces of ``markup.html``; one that goes by the name of the
            module that renders it is part of that module's code. `gream.provenance` relies on it.
        values: What it shows; every text is escaped, unless it is `markupsafe.Markup`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([template.parent, STYLE.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals["style"] = Markup(STYLE.read_text(encoding="utf-8"))  # noqa: S704 - ours
    return environment.get_template(template.name).render(values).lstrip()
