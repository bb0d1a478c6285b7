"""The report on this machine: which limits are enforced, by which mechanism, how exactly, and how to get more."""

from __future__ import annotations

import html
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flyte_notebook.core import supported
from flyte_notebook.core.reliance import losses
from flyte_notebook.core.tested import VERSIONS
from flyte_notebook.core.units import format_cpu, format_memory
from flyte_notebook.limiters import machine
from flyte_notebook.sdk import enforcement, places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flyte_notebook.core.limits import Enforcement
    from flyte_notebook.core.reliance import Loss
    from flyte_notebook.engine.link import Workers
    from flyte_notebook.sdk.session import Session

EXACTNESS = {
    "cgroup_v2": "the kernel refuses the first page above the limit; the peak is the kernel's own counter",
    "cgroup_v1": "the kernel refuses the first page above the limit; the peak is the kernel's own counter",
    "watchdog": "read every 5 ms: a fast allocation may pass the limit by about 100 MiB before it is killed; "
    "the peak is the largest sample",
    "none": "nothing holds the limit",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report: a subject, its state, and its accuracy."""

    subject: str
    holds: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Doctor:
    """The report. ``str()`` of it is for a terminal; a notebook shows it as a table.

    ``hints`` are sentences about missing limits, each with the command to get them; empty when nothing is missing.
    """

    enforcement: Enforcement
    findings: tuple[Finding, ...]
    hints: tuple[str, ...]

    def __str__(self) -> str:
        width = max(len(finding.subject) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.subject:<{width}}  {finding.holds}")
            if finding.detail:
                lines.append(f"{'':<{width}}  {finding.detail}")
        lines += [f"hint: {hint}" for hint in self.hints]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th scope='row' style='text-align:left'>{html.escape(finding.subject)}</th>"
            f"<td style='text-align:left'>{html.escape(finding.holds)}"
            f"{'<br><small>' + html.escape(finding.detail) + '</small>' if finding.detail else ''}</td></tr>"
            for finding in self.findings
        )
        hints = "".join(f"<li>{html.escape(hint)}</li>" for hint in self.hints)
        return f"<table>{rows}</table>" + (f"<ul>{hints}</ul>" if hints else "")


_added: list[Finding] = []


def add_finding(finding: Finding) -> Callable[[], None]:
    """Add a line to the report that only the kernel of a notebook can give; return a function to undo this."""
    _added.append(finding)
    return lambda: _added.remove(finding)


def examine(*, silenced_polling_errors: int | None = None) -> Doctor:
    """Examine this machine in the open session, or in one opened for this purpose, with a worker that really ran.

    Raises ``EngineError`` when no isolated worker can be started; its text says why.
    """
    session = enforcement.current()
    if session is not None:
        return _report(session, silenced_polling_errors)
    session = enforcement.open_session()
    try:
        return _report(session, silenced_polling_errors)
    finally:
        enforcement.close_session()


def versions_line() -> str:
    """Return the versions of the software used here, on one line."""
    names = (("flyte-notebook", "flyte_notebook"), ("flyte", "flyte"))
    found = [f"{name} {_version(distribution)}" for distribution, name in names]
    return " · ".join([*found, f"Python {platform.python_version()}"])


def enforcement_line(found: Enforcement) -> str:
    """Return what this machine enforces, on one line."""
    return f"memory: {found.memory_words} · cpu: {found.cpu_words} · time: yes"


def _start_of_workers(workers: Workers) -> Finding:
    """Describe how the process of an action is started, and why the faster way is not used."""
    if not workers.forked:
        why = f": {workers.why}" if workers.why else ""
        return Finding(subject="start", holds="a fresh interpreter for every action", detail=f"not forked{why}")
    detail = "its memory is its own, as in a fresh interpreter, and counts in full"
    if workers.why:
        detail += f"; the last one got a fresh interpreter: {workers.why}"
    words = "forked from a server that has imported the SDK and nothing else"
    return Finding(subject="start", holds=words, detail=detail)


def _files(session: Session) -> Finding:
    """Describe where values are stored, which users may read them, and which files of other sessions are there."""
    found = places.current()
    words = "values that are large go with the session"
    if found is not None and found.lasting is not None:
        words = f"cached results and returned files stay in {found.lasting.path}"
    elif found is not None:
        words += f", cached ones too: {found.why}"
    alone = session.engine.left_alone
    if alone:
        words += f"; sessions of elsewhere, or that cannot be proven to be over, are left alone: {alone}"
    return Finding(subject="files", holds=f"this user's alone, in {session.engine.directory.path}", detail=words)


def _lines(why: str) -> Finding:
    """Describe whether the line at which a task was killed can be known."""
    if why:
        return Finding(subject="lines", holds="not known for a killed task", detail=f"its stack cannot be read: {why}")
    words = "read from the task's memory, before a stop and every 2 to 100 ms; it is not slowed down"
    return Finding(subject="lines", holds="known for a killed task", detail=words)


def lost_findings(found: Iterable[Loss]) -> list[Finding]:
    """Return a line for each lost feature: the feature, and the changed behaviour of the library."""
    return [Finding(subject="lost", holds=loss.lost, detail=f"{loss.library}: {loss.why}") for loss in found]


def newer_findings() -> list[Finding]:
    """Return a line about libraries that are newer than those tested with this version."""
    newer = {library: supported.newer_than(version, library) for library, version in VERSIONS.items()}
    words = [f"{library} {version} ({VERSIONS[library]})" for library, version in newer.items() if version]
    if not words:
        return []
    detail = "what is relied on was tried out here all the same; what is lost, if anything, stands below"
    return [Finding(subject="newer than tested", holds=", ".join(words), detail=detail)]


def lost_words(found: Iterable[Loss]) -> str:
    """Return the lost features in one line, empty when there are none."""
    return "; ".join(f"{loss.lost} ({loss.library})" for loss in found)


def _version(distribution: str) -> str:
    return supported.version(distribution) or "(not installed, run from its source)"


def _report(session: Session, silenced: int | None) -> Doctor:
    session.engine.wait_until_proven()
    found = session.engine.enforcement
    baseline = session.engine.baseline_bytes
    cores = machine.cpu_count()
    findings = [
        Finding(subject="versions", holds=versions_line()),
        Finding(subject="memory", holds=found.memory_words, detail=EXACTNESS[found.memory]),
        Finding(subject="cpu", holds=found.cpu_words, detail=f"{format_cpu(cores)} are there to share"),
        Finding(subject="time", holds="yes", detail="max_runtime, max_queued_time and deadline, to about 10 ms"),
        Finding(
            subject="machine",
            holds=f"{format_memory(machine.capacity_bytes())} of memory, "
            f"{format_memory(machine.available_bytes())} free now",
            detail="tasks wait in order for memory that others have reserved",
        ),
        Finding(
            subject="isolation",
            holds="works (tested just now)",
            detail=f"it holds {format_memory(baseline)} before any code of yours" if baseline else "",
        ),
        _files(session),
        _start_of_workers(session.engine.workers()),
        _lines(session.engine.no_line),
    ]
    if session.system_retries:
        findings.append(
            Finding(
                subject="lost workers",
                holds=f"replaced up to {session.system_retries} times in a row",
                detail="%flyte system_retries 0 has them fail at once",
            )
        )
    if silenced is not None:
        findings.append(
            Finding(
                subject="event loop",
                holds="polling errors of gRPC are not printed",
                detail=f"{silenced} so far",
            )
        )
    findings += [*_added, *newer_findings(), *lost_findings(losses.found)]
    return Doctor(enforcement=found, findings=tuple(findings), hints=found.hints)
