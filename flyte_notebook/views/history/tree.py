"""Runs as HTML: one run as a tree of its actions, and all runs of a kernel as a list that opens.

A tree stays about one screen however many actions ran: more than a few calls of one task by the same caller become one
row with counts, and their failures are listed below it. No information is given by a colour or a sign alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.units import format_duration, format_memory
from flyte_notebook.views.failures.html import failure_html
from flyte_notebook.views.history.family import Family
from flyte_notebook.views.history.run_list import run_text, took_words
from flyte_notebook.views.markup import console_link, line, with_code
from flyte_notebook.views.style import style_of
from flyte_notebook.views.text import clean_line, sentence
from flyte_notebook.views.text import title as title_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyte_notebook.history import Action, Attempt, Run

TREE_BYTES: Final = 400 * 1024
"""The maximum size of a tree, and of a list of runs."""

CARDS: Final = 8
MAX_ROWS: Final = 60
MAX_DEPTH: Final = 12
ALONE: Final = 5
"""How many calls of one task by the same caller have a row each; if there are more, they are counted."""

FAILED: Final = 10
"""How many failures among the counted calls are listed."""

MAX_ATTEMPTS: Final = 6
MAX_RUNS: Final = 50

_CROSS: Final = '<span class="fnb-wrong" aria-hidden="true">✗</span>'
_TICK: Final = '<span aria-hidden="true">✓</span>'
_HEADLINE: Final = 300  # characters
_CLASS: Final = "flyte-notebook-run"
_STYLE: Final = (
    style_of(_CLASS)
    + f"""
.{_CLASS}{{border-left-color:var(--fnb-edge);container-type:inline-size;--fnb-wrong:var(--vscode-errorForeground,#c62828)}}
@media (prefers-color-scheme:dark){{.{_CLASS}{{--fnb-wrong:var(--vscode-errorForeground,#ff8a80)}}}}
body[data-jp-theme-light=true] .{_CLASS}{{--fnb-wrong:#c62828}}
body[data-jp-theme-light=false] .{_CLASS}{{--fnb-wrong:#ff8a80}}
.{_CLASS} .fnb-body ul{{list-style:none;margin:0;padding:0}}
.{_CLASS} .fnb-body ul ul{{margin:0 0 0 .45rem;padding:0 0 0 .9rem;border-left:1px solid var(--fnb-edge)}}
.{_CLASS} .fnb-body li{{margin:0;padding:.05rem 0}}
.{_CLASS} .fnb-body li>.fnb-row{{padding-left:1.15em}}
.{_CLASS} .fnb-body li>details{{margin:0}}
.{_CLASS} .fnb-body li>details>summary{{font-size:1em;font-weight:400;color:inherit;padding-left:1.15em;
text-indent:-1.15em;list-style-position:inside}}
.{_CLASS} .fnb-body li>details>div{{margin:.3rem 0 .5rem 1.15em}}
.{_CLASS} .fnb-body .fnb-wrong{{color:var(--fnb-wrong)}}
.{_CLASS} .fnb-body .fnb-memory{{white-space:nowrap}}
.{_CLASS} .fnb-body svg.fnb-small{{display:inline-block;width:5rem;height:.6rem;margin:0 .3rem 0 0;
vertical-align:baseline}}
.{_CLASS} .fnb-body .fnb-head,.{_CLASS} .fnb-body .fnb-runs>li>details>summary{{display:grid;
gap:0 .7rem;padding:.1rem 0;text-indent:0;
grid-template-columns:.8rem minmax(0,1.3fr) minmax(0,1.5fr) 4rem 6rem 6rem minmax(0,1.6fr) 5rem}}
.{_CLASS} .fnb-body .fnb-head{{font-size:.85em;color:var(--fnb-soft);border-bottom:1px solid var(--fnb-edge);
margin-bottom:.2rem}}
.{_CLASS} .fnb-body .fnb-runs>li>details>summary::before{{content:"\\25B8"}}
.{_CLASS} .fnb-body .fnb-runs>li>details[open]>summary::before{{content:"\\25BE"}}
.{_CLASS} .fnb-body .fnb-runs>li>details>div>ul{{margin-bottom:.5rem}}
.{_CLASS} .fnb-body .fnb-runs .fnb-what{{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
white-space:nowrap}}
@container (max-width:40rem){{.{_CLASS} .fnb-body .fnb-head{{display:none}}
.{_CLASS} .fnb-body .fnb-runs>li>details>summary{{display:flex;flex-wrap:wrap}}
.{_CLASS} .fnb-body .fnb-runs .fnb-what{{position:static;clip-path:none;width:auto;height:auto;color:var(--fnb-soft)}}}}
"""
)


def run_bundle(run: Run) -> dict[str, Any]:
    """Return the MIME bundle of a run: ``text/html`` and ``text/plain``."""
    return {"text/html": run_html(run), "text/plain": run_text(run)}


def run_html(run: Run, *, cards: bool = True) -> str:
    """Return a run as a tree of its actions: one ``section``, at most `TREE_BYTES` in UTF-8, safe for any input.

    With ``cards`` each of the first `CARDS` failures opens its card; the others open their headline.
    """
    label, attributes = f"Run {run.name} of {run.task_name}", f' data-run="{line(run.name, 200)}"'
    page = _section(f"<p>{_heading(run)}</p>{_Tree(run).html()}", label, attributes)
    if cards:
        tree = _Tree(run, cards=CARDS, spare=TREE_BYTES - len(page.encode()))
        page = _section(f"<p>{_heading(run)}</p>{tree.html()}", label, attributes)
    return page


def runs_html(runs: Sequence[Run]) -> str:
    """Return runs as a list in columns, the last one at the bottom; each row opens the tree of its run."""
    if not runs:
        return _section("<p>nothing has run yet</p>", "Runs of this kernel")
    shown = runs[-MAX_RUNS:]
    left = TREE_BYTES - len(_STYLE) - 2_000 * len(shown)
    trees = []
    for run in reversed(shown):  # users mostly open the latest runs
        tree = _Tree(run).html()
        left -= len(tree.encode())
        trees.append(tree if left > 0 else '<p class="fnb-soft">too much to show here; open this run alone</p>')
    titles = ("run", "task", "actions", "highest peak", "its limit", "outcome", "duration")
    head = "".join(f"<span>{title}</span>" for title in titles)
    rows = "\n".join(_run_row(run, titles, tree) for run, tree in zip(shown, reversed(trees), strict=True))
    more = len(runs) - len(shown)
    earlier = f'<p class="fnb-soft">{more} earlier runs are not shown</p>' if more else ""
    head = f'<div class="fnb-head" aria-hidden="true"><span></span>{head}</div>'
    return _section(f'{earlier}{head}<ul class="fnb-runs">{rows}</ul>', "Runs of this kernel")


def _section(body: str, label: str, attributes: str = "") -> str:
    return (
        f'<section class="{_CLASS}"{attributes} role="region" aria-label="{line(label, 200)}"><style>{_STYLE}</style>\n'
        f'<div class="fnb-body tex2jax_ignore mathjax_ignore">{body}</div></section>'
    )


def _heading(run: Run) -> str:
    count = len(run.actions)
    actions = f" · {count} action{'' if count == 1 else 's'}" if count else ""
    name = f"<strong><bdi>{line(run.task_name, 100)}</bdi></strong> · run <bdi>{line(run.name, 60)}</bdi>"
    console = console_link(run.url)
    return f"{name}{actions} · {_end(run)}{took_words(run)}{console and ' · '}{console}"


def _end(run: Run) -> str:
    """Return how a run ended, as HTML."""
    outcome = run.actions[0].outcome if run.actions else None
    failure = run.failure or (outcome if isinstance(outcome, Failure) else None)
    if failure is not None:
        return f'{_CROSS} <span class="fnb-wrong">failed: {line(title_of(failure), 80)}</span>'
    if run.cached:
        return "from the cache"
    return "… running" if outcome is None else f"{_TICK} succeeded"


def _run_row(run: Run, titles: Sequence[str], tree: str) -> str:
    attempts = [attempt for action in run.actions for attempt in action.attempts]
    highest = max(attempts, key=lambda attempt: attempt.trace.peak_bytes or 0, default=None)
    root = run.actions[0].attempts if run.actions else []
    cells = (
        f"<bdi>{line(run.name, 40)}</bdi>",
        f"<bdi>{line(run.task_name, 60)}</bdi>",
        str(len(run.actions)),
        _bytes(highest.trace.peak_bytes if highest is not None else None),
        _limit(highest) if highest is not None else "-",
        _end(run),
        format_duration(run.duration_s) if root else "-",
    )
    told = " ".join(
        f'<span><span class="fnb-what">{title} </span>{cell}</span>' for title, cell in zip(titles, cells, strict=True)
    )
    return f"<li><details><summary>{told}</summary><div>{tree}</div></details></li>"


class _Tree:
    """Writes the tree of one run, with limits on the number and the size of its cards."""

    def __init__(self, run: Run, *, cards: int = 0, spare: int = 0) -> None:
        self._run = run
        self._family = Family(run)
        self._cards = cards
        self._spare = spare
        # An action without an outcome in a finished run was cancelled.
        self._open = "running" if not run.actions or run.actions[0].outcome is None else "not finished"
        self._rows = 0
        self._told = 0

    def html(self) -> str:
        """Return the tree."""
        if not self._run.actions:
            return '<p class="fnb-soft">no action ran</p>'
        tree = self._level(self._family.roots, depth=0)
        more = len(self._run.actions) - self._told
        rest = f'<p class="fnb-soft">… and {more:,} more actions</p>' if more > 0 else ""
        return tree + rest

    def _level(self, actions: Sequence[Action], depth: int) -> str:
        """Return siblings as a list, with many calls of one task as one item."""
        if not actions or depth >= MAX_DEPTH:
            return ""
        of_task: dict[str, list[Action]] = {}
        for action in actions:
            of_task.setdefault(action.task_name, []).append(action)
        items = []
        for action in actions:
            if self._rows >= MAX_ROWS:
                break
            group = of_task[action.task_name]
            if len(group) <= ALONE:
                items.append(self._item(action, depth))
            elif action is group[0]:
                items.append(self._group(group, depth))
        return f"<ul>{''.join(items)}</ul>" if items else ""

    def _item(self, action: Action, depth: int) -> str:
        self._told += 1
        return f"<li>{self._attempts(action)}{self._level(self._family.children(action), depth + 1)}</li>"

    def _group(self, group: Sequence[Action], depth: int) -> str:
        self._told += len(group)
        self._rows += 1
        failed = [action for action in group if isinstance(action.outcome, Failure)]
        running = sum(action.outcome is None for action in group)
        counts = [f"{len(group) - len(failed) - running:,} {_TICK} succeeded"]
        if failed:
            counts.append(f'<span class="fnb-wrong">{len(failed):,}</span> {_CROSS} failed{self._caught(failed)}')
        if running:
            counts.append(f"{running:,} … {self._open}")
        attempts = [attempt for action in group for attempt in action.attempts]
        highest = max(attempts, key=lambda attempt: attempt.trace.peak_bytes or 0, default=None)
        said = ", ".join(counts)
        if highest is not None:
            longest = format_duration(max(attempt.duration_s for attempt in attempts))
            said += f" · longest {longest} · highest {_memory(highest)}"
        name = f"<strong><bdi>{line(group[0].task_name, 80)}</bdi></strong>"
        row = f'<div class="fnb-row">{name} × {len(group):,}: {said}</div>'
        listed = [f"<li>{self._attempts(action, last_only=True)}</li>" for action in failed[:FAILED] if self._room()]
        if len(failed) > len(listed):
            listed.append(f'<li class="fnb-soft">… and {len(failed) - len(listed):,} more that failed</li>')
        inner = f"<ul>{''.join(listed)}</ul>" if listed else ""
        below = [child for action in group for child in self._family.children(action)]
        return f"<li>{row}{inner}{self._level(below, depth + 1)}</li>"

    def _room(self) -> bool:
        return self._rows < MAX_ROWS

    def _caught(self, failed: Sequence[Action]) -> str:
        caught = sum(self._family.was_caught(action) for action in failed)
        return "" if not caught else " (caught)" if caught == len(failed) else f" ({caught:,} caught)"

    def _attempts(self, action: Action, *, last_only: bool = False) -> str:
        """Return the rows of an action: one for each attempt."""
        name = f"<strong><bdi>{line(action.task_name, 80)}</bdi></strong>"
        if last_only:
            name += f' <bdi class="fnb-soft">{line(action.name, 40)}</bdi>'
        if not action.attempts:
            self._rows += 1
            return f'<div class="fnb-row"><span aria-hidden="true">…</span> {name} {self._open}</div>'
        shown = action.attempts[-1:] if last_only else action.attempts[-MAX_ATTEMPTS:]
        rows = [self._attempt(action, attempt, name) for attempt in shown]
        more = len(action.attempts) - len(shown)
        if more and not last_only:
            rows.insert(0, f'<div class="fnb-row fnb-soft">… {more:,} earlier attempts of {name}</div>')
        return "".join(rows)

    def _attempt(self, action: Action, attempt: Attempt, name: str) -> str:
        self._rows += 1
        number = f", attempt {attempt.number}" if len(action.attempts) > 1 else ""
        facts = f" · {format_duration(attempt.duration_s)} · {_memory(attempt)}"
        failure = attempt.outcome
        if not isinstance(failure, Failure):
            return f'<div class="fnb-row">{_TICK} {name}{number} succeeded{facts}</div>'
        title = line(title_of(failure), 80)
        what = f'{_CROSS} {name}{number} <span class="fnb-wrong">failed: {title}'
        if failure.worker != attempt.worker:
            return f'<div class="fnb-row">{what} of a task that it called</span>{facts}</div>'
        until = [one for one in action.attempts if one.number <= attempt.number]
        then = "retried" if attempt is not action.attempts[-1] else self._family.then(action)
        words = f"{what}, code <bdi>{line(failure.code, 60)}</bdi></span>{f' ({then})' if then else ''}{facts}"
        return f"<details><summary>{words}</summary><div>{self._opened(failure, until)}</div></details>"

    def _opened(self, failure: Failure, attempts: Sequence[Attempt]) -> str:
        if self._cards > 0:
            card = failure_html(failure, story=tuple((f"attempt {one.number}", one) for one in attempts))
            size = len(card.encode())
            if size <= self._spare:
                self._cards -= 1
                self._spare -= size
                return card
        return f'<p dir="auto">{with_code(sentence(clean_line(failure.headline, _HEADLINE)))}</p>'


def _memory(attempt: Attempt) -> str:
    """Return peak against limit of an attempt, as a small picture and in words."""
    peak, limit = attempt.trace.peak_bytes, attempt.limits.memory_bytes
    words = f"{_bytes(peak)} of {_limit(attempt)}" if limit else f"{_bytes(peak)}, no limit"
    if peak is None:
        return "memory not measured" if not limit else f"memory not measured, limit {_limit(attempt)}"
    if not limit:
        return words
    used = min(1000 * peak / max(peak, limit), 1000)
    return (
        '<span class="fnb-memory">'
        '<svg class="fnb-small" aria-hidden="true" viewBox="0 0 1000 16" preserveAspectRatio="none">'
        '<rect class="fnb-track" x="0" y="1" width="1000" height="14" fill="none" stroke="gray" '
        'vector-effect="non-scaling-stroke"/>'
        f'<rect class="fnb-used" x="0" y="1" width="{used:.0f}" height="14"/></svg>{words}</span>'
    )


def _limit(attempt: Attempt) -> str:
    limit = attempt.limits.memory_bytes
    return "no limit" if limit is None else format_memory(limit)


def _bytes(memory_bytes: int | None) -> str:
    return "-" if memory_bytes is None else format_memory(memory_bytes)
