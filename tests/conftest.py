"""For every test: it gets what it needs or says what is missing, and it leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import leaks
import pytest
from capabilities import CAPABILITIES, on_ci

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

IMPOSSIBLE = "cannot be here: "
"""Begins the reason of the only skips that CI accepts."""

TOLD = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Mark what this run starts, and give it directories of its own.

    In its own temporary directory a leak is surely ours; and no profile, history or setting of the person at this
    machine reaches a test, or is written to by one.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in its background deaf to interrupts, and every script of a test would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before, before_tempdir = dict(os.environ), tempfile.tempdir
    place = tempfile.mkdtemp(prefix="tests-")
    own = {name: str(Path(place, name.lower())) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
    os.environ.update({leaks.RUN_MARKER: uuid.uuid4().hex, "TMPDIR": place, **own})
    tempfile.tempdir = place

    def put_back() -> None:
        for name in (leaks.RUN_MARKER, "TMPDIR", *own):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
        tempfile.tempdir = before_tempdir
        shutil.rmtree(place, ignore_errors=True)

    config.add_cleanup(put_back)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose capability is missing."""
    for marker in item.iter_markers():
        if marker.name in CAPABILITIES and (missing := CAPABILITIES[marker.name]()) is not None:
            pytest.skip(IMPOSSIBLE + missing.reason if missing.impossible else missing.reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure on CI."""
    return _no_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure on CI."""
    return _no_skip((yield))


def _no_skip(report: pytest.TestReport | pytest.CollectReport) -> pytest.TestReport | pytest.CollectReport:
    if on_ci() and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if IMPOSSIBLE not in reason:
            report.outcome = "failed"
            report.longrepr = f"On CI nothing is skipped, and this was: {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _session_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    yield from _proof(request, "the whole run")


@pytest.fixture(scope="module", autouse=True)
def _module_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    yield from _proof(request, f"module {Path(request.node.name).name}")


@pytest.fixture(autouse=True)
def _test_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold each test to what was there before it.

    What a fixture of a wider scope started is there before, and may stay: the same proof is asked at the end of the
    module and of the run. ``@pytest.mark.leaves("thread", reason=...)`` excuses a kind of thing.
    """
    markers = list(request.node.iter_markers("leaves"))
    for marker in markers:
        wrong = set(marker.args) - set(leaks.KINDS)
        assert not wrong, f"leaves() knows {leaks.KINDS}, not {wrong}"
        assert marker.kwargs.get("reason"), "leaves() needs a reason"
    yield from _proof(request, request.node.name, frozenset(kind for marker in markers for kind in marker.args))


def _proof(request: pytest.FixtureRequest, who: str, leave: frozenset[str] = frozenset()) -> Iterator[None]:
    told = request.config.stash.setdefault(TOLD, set())
    before = leaks.Snapshot.take()
    yield
    # What a test was blamed for is not its module's fault as well: a leak is told once, by the innermost who saw it.
    left = {line.partition(" (")[0]: line for line in leaks.settle(before, leave=leave)}
    news = [line for name, line in left.items() if name not in told]
    told.update(left)
    if news:
        pytest.fail("\n  ".join([f"{who} left behind, {leaks.GRACE_S:g} s after its end:", *news]), pytrace=False)
