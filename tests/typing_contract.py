"""Read by mypy only: the public signatures, as their users write them. A change that breaks this breaks users."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import assert_type

    import flyte_notebook as fn
    from flyte_notebook.core.limits import Limits
    from flyte_notebook.core.outcome import Failure, Outcome, SourceLine, Suggestion, TerminationReason
    from flyte_notebook.core.trace import MemoryTrace
    from flyte_notebook.history import Action, Attempt, History, Run

    def reads_history(history: History) -> None:
        """Read runs, actions and attempts."""
        run = history.last_run
        assert_type(run, Run | None)
        assert run is not None
        assert_type(run.actions, list[Action])
        assert_type(run.failure, Failure | None)
        for action in run.actions:
            assert_type(action.parent, str | None)
            assert_type(action.limits, Limits)
            assert_type(action.outcome, Outcome | None)
            for attempt in action.attempts:
                reads_attempt(attempt)

    def reads_attempt(attempt: Attempt) -> None:
        """Read one attempt."""
        assert_type(attempt.number, int)
        assert_type(attempt.duration_s, float)
        assert_type(attempt.trace, MemoryTrace)
        assert_type(attempt.trace.peak_bytes, int | None)
        assert_type(attempt.trace.to_json(), str)

    def reads_failure(failure: Failure) -> None:
        """Read why something failed."""
        assert_type(failure.error, BaseException)
        assert_type(failure.kind, str)
        assert_type(failure.code, str)
        assert_type(failure.worker, str)
        assert_type(failure.reason, TerminationReason)
        assert_type(failure.line, SourceLine | None)
        assert_type(failure.suggestions, tuple[Suggestion, ...])

    def enables() -> None:
        """Switch enforcement on and off, and look at what ran."""
        with fn.enable(max_processes=8) as enforced:
            assert_type(enforced, fn.Enforced)
        fn.disable()
        assert_type(fn.runs, History)
        assert_type(fn.last_run, Run | None)
        assert_type(fn.last_failure, Failure | None)
        report = fn.doctor()
        assert_type(report.hints, tuple[str, ...])
        assert_type(str(report), str)

    async def fits(task: object) -> None:
        """Find the smallest limit that a task passes."""
        found = fn.fit(task, x=5)
        assert_type(found, fn.Fit)
        assert_type(found.memory, str | None)
        assert_type(found.memory_bytes, int | None)
        assert_type(found.line, str)
        assert_type(await fn.fit.aio(task, 5), fn.Fit)
        assert_type(fn.last_fit, fn.Fit | None)

    def keeps(run: Run) -> None:
        """Save, load, compare and export."""
        assert_type(fn.save(run), Path)
        assert_type(fn.save(run, "runs.sqlite"), Path)
        loaded = fn.load(Path("runs.sqlite"))
        assert_type(loaded, fn.Runs)
        assert_type(loaded["oomer"], Run)
        assert_type(loaded[-1], Run)
        assert_type(loaded[:2], fn.Runs)
        assert_type(loaded.names, tuple[str, ...])
        assert_type(fn.compare(run, loaded, yesterday=loaded[0]), fn.Comparison)
        assert_type(run.to_json(), str)

    async def sweeps(task: object) -> None:
        """Run a task across limits and values."""
        found = fn.sweep(task, memory="128Mi:1Gi:8", over={"x": [1, 2]}, y=3)
        assert_type(found, fn.Sweep)
        assert_type(found.points[0].limit_bytes, int | None)
        assert_type(found.points[0].peak_bytes, int | None)
        assert_type(found.points[0].duration_s, float)
        assert_type(found.headline, str)
        assert_type(await fn.sweep.aio(task, over="x=1,2", yes=True), fn.Sweep)
        assert_type(fn.last_sweep, fn.Sweep | None)

    async def grows(task: object) -> None:
        """Call a task again with more memory after each OOM."""
        grown = fn.retry_on_oom(task, factor=1.5, up_to="2Gi")
        await grown(x=5)
        await fn.retry_on_oom(task, step="512Mi").aio(5)
        fn.retry_on_oom(task, 2)  # type: ignore[call-arg] # keyword-only

    def explains(failure: Failure) -> None:
        """Ask what an error means."""
        explanation = fn.explain(failure.error)
        assert_type(explanation, fn.Explanation)
        assert_type(explanation.codes, tuple[str, ...])
        assert_type(explanation.real_here, bool)
        assert_type(explanation.facts, str | None)
        fn.explain("OOMError")
        fn.explain(fn.errors.ReferenceTaskError)

    def refuses() -> None:
        """Write what a checker must refuse: an ignore that is not needed is an error too."""
        Limits(memory_bytes="250Mi")  # type: ignore[arg-type] # quantities are parsed in units, not here
        Limits(1)  # type: ignore[call-arg] # keyword-only
        Limits().memory_bytes = 5  # type: ignore[misc] # frozen
