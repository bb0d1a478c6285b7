"""For every test: it gets what it needs or says what is missing, and it leaves nothing behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import leaks
import pytest
import turns
from capabilities import CAPABILITIES, may_skip, on_ci

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HERE = Path(__file__).parent

MOST_PROCESSES = 8
"""So many test side by side at most, each with what it starts; ``-n 2`` asks for another number."""

TOLD = pytest.StashKey[set[str]]()
NOW = pytest.StashKey["leaks.Snapshot | None"]()
"""What was there at the end of the last test, if nothing that outlives a test has come or gone since."""
PROOFS = frozenset({"_session_leaves_nothing", "_module_leaves_nothing"})

PURE = (
    *("cells", "keeping", "views", "test_architecture.py", "test_diagnosis.py", "test_errors.py", "test_exports.py"),
    *("test_fitting.py", "test_growing.py", "test_history.py", "test_lock.py", "test_next_limit.py"),
    *("test_overrides.py", "test_progress.py", "test_scheduler.py", "test_sweeping.py", "test_trace.py"),
    "test_units.py",
    "test_cells_page.py",
)
"""Folders and files whose tests start nothing: a whole module is held to what was there before it, not each test."""

TOGETHER = ("browser", "notebook/test_magic_")
"""Files whose paths begin so are tested by one process, one after the other: they share a server, a browser, a kernel.

The browser starts and ends processes of its own: those are looked for at the end of the run.
"""


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
    config.pluginmanager.register(LooksAnew())
    names = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "XDG_CACHE_HOME")
    own = {name: str(Path(place, name.lower())) for name in names}
    # Which fonts there are takes matplotlib seconds to find out.
    own["MPLCONFIGDIR"] = os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))
    if not hasattr(config, "workerinput"):  # else this is one of several processes, and has those of all of them
        own[turns.PLACE_VARIABLE] = place
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes test side by side: half of the time a test waits for others."""
    return min(MOST_PROCESSES, 2 * (os.cpu_count() or 1))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give files to processes as ``--dist loadfile`` does, but those that share something all to one."""
    if "loadfile" != config.getoption("dist"):
        return None
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - where it is not installed nothing asks for this

    class ByWhatIsShared(LoadFileScheduling):  # type: ignore[misc,no-any-unimported]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return _together(file) or file

    return ByWhatIsShared(config, log)


@pytest.hookimpl(tryfirst=True)  # before any is left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let several processes begin with the files that one has to be alone for, then with those that take long.

    What may skip must be there: a test that has another name now may not any more.
    """
    names = {name for item in items for name in (_test_of(item), _test_of(item).partition("[")[0])}
    files = {name.partition("::")[0] for name in names}
    gone = [test for test in may_skip(everywhere=True).tests - names if test.partition("::")[0] in files]
    if gone and not config.getoption("lf", default=False) and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"tests/may_skip.toml names what is no test: {', '.join(sorted(gone))}")
    if hasattr(config, "workerinput"):
        marked = {
            name: {item.path for item in items if item.get_closest_marker(name) is not None}
            for name in ("slow", "alone")
        }
        long = {item.path for item in items if _together(item.nodeid)} | marked["slow"]
        items.sort(key=lambda item: (item.path not in marked["alone"], _is_pure(item), item.path not in long))
        # Within a file too: while one waits for the tests of the others to end, those that have none do nothing.
        places = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in items))}
        items.sort(key=lambda item: (places[item.path], item.get_closest_marker("alone") is None))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the compiled tests, also where the environment says otherwise: compiling is half of a collection."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = before


def pytest_collection_finish() -> None:
    """Leave what was imported out of all searches for cycles: half a second each."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)  # a tenth of the searches; what a test leaves open in a cycle `leaks.settle` looks for


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the clock of the test begins
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test of timing run alone."""
    with turns.taken(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose capability is missing."""
    for marker in item.iter_markers():
        if marker.name in CAPABILITIES and (missing := CAPABILITIES[marker.name]()) is not None:
            pytest.skip(missing.reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip that is not on the list into a failure on CI."""
    report = yield
    if not may_skip().allows(_test_of(item), {marker.name for marker in item.iter_markers()}):
        _no_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure on CI."""
    report = yield
    _no_skip(report)
    return report


def _no_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if on_ci() and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"On CI only what tests/may_skip.toml lists may skip, and this did: {reason}"


def _test_of(item: pytest.Item) -> str:
    """Return the name of a test as ``may_skip.toml`` has it, with its parameters."""
    return "::".join([item.path.relative_to(HERE).as_posix(), *item.nodeid.split("::")[1:]])


class LooksAnew:
    """What a fixture of more than one test starts is there before the next test.

    A plugin of its own: pytest does not ask this file about fixtures of the session.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, object, object]:
        """Forget what was there before it began."""
        try:
            return (yield)
        finally:
            self._forget(fixturedef, request)

    def pytest_fixture_post_finalizer(self, fixturedef: Any, request: pytest.FixtureRequest) -> None:
        """Forget what was there before it ended."""
        self._forget(fixturedef, request)

    def _forget(self, fixturedef: Any, request: pytest.FixtureRequest) -> None:
        if fixturedef.scope != "function" and fixturedef.argname not in PROOFS:
            request.config.stash[NOW] = None


@pytest.fixture(scope="session", autouse=True)
def _session_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    yield from _proof(request, "the whole run")


@pytest.fixture(scope="module", autouse=True)
def _module_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    leave = frozenset({"process"}) if _folder(request.node) in TOGETHER else frozenset()
    yield from _proof(request, f"module {Path(request.node.name).name}", leave)


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
    if _is_pure(request.node):
        yield
        return
    yield from _proof(request, request.node.name, frozenset(kind for marker in markers for kind in marker.args))


def _together(file: str) -> str | None:
    """Return what a file's path begins with that is tested by one process."""
    return next((start for start in TOGETHER if f"/{start}" in f"/{file}"), None)


def _is_pure(item: pytest.Item) -> bool:
    return _folder(item) in PURE


def _folder(node: pytest.Item | pytest.Module) -> str:
    return node.path.relative_to(HERE).parts[0]


def _proof(request: pytest.FixtureRequest, who: str, leave: frozenset[str] = frozenset()) -> Iterator[None]:
    told = request.config.stash.setdefault(TOLD, set())
    before = request.config.stash.get(NOW, None) or leaks.Snapshot.take()
    request.config.stash[NOW] = before
    yield
    lines, request.config.stash[NOW] = leaks.settled(before, leave=leave)
    # What a test was blamed for is not its module's fault as well: a leak is told once, by the innermost who saw it.
    left = {line.partition(" (")[0]: line for line in lines}
    news = [line for name, line in left.items() if name not in told]
    told.update(left)
    if news:
        pytest.fail("\n  ".join([f"{who} left behind, {leaks.GRACE_S:g} s after its end:", *news]), pytrace=False)
