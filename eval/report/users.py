"""The section of the report that shows single users: history, chain of reasoning, list and truth."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gream.page.markup import missing

from .data import ItemView, ReportData, UserView

# Items of a history that stand open; earlier ones unfold.
_RECENT = 6


def users_section(data: ReportData) -> str:
    """The chosen users of the evaluation that is shown."""
    if data.shown is None:
        return missing("No model was evaluated", "run 'python -m eval direct' or 'reasoning'")
    hits = sum(user.rank > 0 for user in data.users)
    window = data.shown.settings.get("history")
    return (
        f"<p>{len(data.users)} users of <b>{escape(data.shown.name)}</b>, drawn at random with a fixed seed from those "
        f"it found ({hits} shown) and those it missed ({len(data.users) - hits} shown), so the share of hits here is "
        "not the model's. Scores are log-probabilities of the item's id"
        f"{' given the chain' if data.shown.mode == 'reasoning' else ''}. The item the user really took next is marked."
        "</p>" + "".join(_user(user, window if isinstance(window, int) else len(user.history)) for user in data.users)
    )


def _user(user: UserView, window: int) -> str:
    badge = (
        f'<span class="badge">found at rank {user.rank}</span>'
        if user.rank
        else '<span class="badge miss">missed</span>'
    )
    seen = user.history[-window:]
    chain = "" if user.chain is None else f"<div><h4>Chain of reasoning</h4>{_chain(user)}</div>"
    return (
        f'<article class="user"><h3>{escape(user.name)} {badge}</h3>'
        f'<div class="{"columns" if chain else "columns two"}">'
        f"<div><h4>History, oldest first</h4>{_history(seen)}</div>{chain}"
        f"<div><h4>Recommended</h4>{_ranked(user)}</div></div></article>"
    )


def _history(items: Sequence[ItemView]) -> str:
    earlier, recent = items[:-_RECENT], items[-_RECENT:]
    folded = ""
    if earlier:
        shown = "".join(_item(item) for item in earlier)
        noun = "item" if len(earlier) == 1 else "items"
        folded = f'<details><summary>{len(earlier)} earlier {noun}</summary><ol class="items">{shown}</ol></details>'
    return f'{folded}<ol class="items">{"".join(_item(item) for item in recent)}</ol>'


def _item(item: ItemView, *, mark: str = "", score: float | None = None, kind: str = "") -> str:
    details = [f"<span>{escape(item.category)}</span>"] if item.category else []
    details.append(f'<span class="sid">{escape(item.semantic_id)}</span>')
    if score is not None:
        details.append(f"<span>{score:.2f}</span>")
    if mark:
        details.append(f'<span class="mark">{escape(mark)}</span>')
    opening = f'<li class="{kind}">' if kind else "<li>"
    return f'{opening}{escape(item.title)}<span class="meta">{"".join(details)}</span></li>'


def _ranked(user: UserView) -> str:
    rows = "".join(
        _item(item, score=score, mark="taken next", kind="truth") if rank == user.rank else _item(item, score=score)
        for rank, (item, score) in enumerate(user.ranked, start=1)
    )
    outside = ""
    if not user.rank:
        truth = _item(user.target, mark="taken next, not in the list", kind="truth")
        outside = f'<ul class="items outside">{truth}</ul>'
    return f'<ol class="items ranked">{rows}</ol>{outside}'


def _chain(user: UserView) -> str:
    if user.stages is None:
        return (
            '<p class="note">The chain does not follow the five stages; this is what the model wrote.</p>'
            f'<pre class="raw-chain">{escape(user.chain or "")}</pre>'
        )
    stages = [
        ("Evidence", user.stages.evidence),
        ("Preference", user.stages.preference),
        ("Intent", user.stages.intent),
        ("Recommendation", user.stages.recommendation),
    ]
    texts = "".join(f"<li><b>{name}</b>{escape(text)}</li>" for name, text in stages)
    kept = "".join(f"<li>{escape(item.title)}</li>" for item in user.rewritten)
    rewritten = f"<ol>{kept}</ol>" if kept else "no item of the catalogue"
    return f'<ol class="stages">{texts}<li><b>History without noise</b>{rewritten}</li></ol>'
