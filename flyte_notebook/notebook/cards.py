"""Error cards in a notebook: shown in the cell that failed, kept up to date by their reruns."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections import OrderedDict, deque
from functools import partial
from typing import TYPE_CHECKING, Any

from flyte_notebook.cells.analysis import analyse
from flyte_notebook.core.bound import unique
from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.overrides import Override, describe, read
from flyte_notebook.core.reliance import losses
from flyte_notebook.core.units import format_memory
from flyte_notebook.errors import failure_in
from flyte_notebook.notebook import output, relies
from flyte_notebook.notebook.landing import land
from flyte_notebook.notebook.reruns import NoRerunError, Rerun
from flyte_notebook.views import bundle
from flyte_notebook.views.charts import chart
from flyte_notebook.views.failures import card
from flyte_notebook.views.failures.card import Click, FormData, OverrideForm, said_html
from flyte_notebook.views.failures.html import Passed, failure_rest_html
from flyte_notebook.views.text import memory_matters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flyte_notebook.cells.analysis import CellNames
    from flyte_notebook.core.overrides import FieldName
    from flyte_notebook.history import History, Run
    from flyte_notebook.notebook.background import BackgroundRun, BackgroundRuns
    from flyte_notebook.notebook.idle import WhenIdle
    from flyte_notebook.notebook.output import Sink
    from flyte_notebook.notebook.render import Renderer
    from flyte_notebook.notebook.reruns import Result
    from flyte_notebook.sdk.session import Session

logger = logging.getLogger("flyte_notebook.notebook")

LIVE_CARDS = 20
"""How many cards have a form; the form of an older card becomes plain text."""

LAST_WORDS = 5
"""How many forms that ended by a rerun keep their last message."""

KEPT_TASKS = LIVE_CARDS
"""For how many failed cells the task is kept, without its inputs."""


def warm() -> None:
    """Load the modules for the first card: this takes a second, and is done while a cell runs. Never raises."""
    _load(relies.WIDGETS, card.warm)
    _load(relies.CHARTS, chart.warm)


def _load(key: str, load: Callable[[], None]) -> None:
    try:
        load()
    except Exception as error:
        logger.debug("could not load what cards are made of", exc_info=True)
        losses.settle(relies.BY_KEY[key], error)


class Cards:
    """The cards of one shell. ``shown`` are the workers whose failures have a card in the running cell.

    ``advised`` are the cells, by name or text, with the limits for which a smaller one was advised; ``noted`` are the
    notes that are shown only once.
    """

    def __init__(
        self, shell: Any, session: Session, renderer: Renderer, idle: WhenIdle, background: BackgroundRuns
    ) -> None:
        self.shell = shell
        self.session = session
        self.renderer = renderer
        self.idle = idle
        self.background = background
        self.shown: set[str] = set()
        self.advised: set[tuple[str, int | None]] = set()
        self.noted: set[str] = set()
        self._live: OrderedDict[str, Card] = OrderedDict()
        self._tasks: OrderedDict[str, Any] = OrderedDict()
        self._finished: deque[OverrideForm] = deque()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def history(self) -> History:
        """The runs of this kernel."""
        return self.session.history

    def remember_task(self, run_name: str, task: Any) -> None:
        """Keep the task of a failed cell: it can be run again when its inputs are not kept any more."""
        with self._lock:
            self._tasks[run_name] = task
            while len(self._tasks) > KEPT_TASKS:
                self._tasks.popitem(last=False)

    def rerun_of(self, failure: Failure) -> Rerun:
        """Return the object that runs a failure again."""
        first = self.history.run_of(self.history.origin_of(failure.worker))
        task = None if first is None else self._tasks.get(first.name)
        return Rerun(failure, self.shell.user_ns, self.session, task)

    def show(self, failure: Failure, sink: Sink | None = None) -> None:
        """Show a failure in a cell: that of ``sink``, else the running one. Thread-safe."""
        self.shown.add(failure.worker)
        sink = sink or output.cell_sink(self.shell)
        run = self.history.run_of(failure.worker)
        if run is not None and run.background and any(one.failure is failure for one in list(self._live.values())):
            sink.display({"data": {"text/plain": "[flyte_notebook: its card is below the cell that began it]"}})
            return
        shown = Card(self, failure, sink)
        shown.publish(with_form=not self._closed)
        if not shown.has_form:
            return
        too_many: list[Card] = []
        with self._lock:
            self._live[shown.key] = shown
            closed = self._closed
            idle = [key for key, one in self._live.items() if not one.busy]
            if len(self._live) > LIVE_CARDS:
                too_many = [self._live.pop(key) for key in idle[: len(self._live) - LIVE_CARDS]]
        for one in too_many:
            one.end(f"the {LIVE_CARDS} newest cards have a form; to run this one again, run its cell")
        if closed:
            self.close()

    def notice(self, raw_cell: str) -> None:
        """Note the text of an ended cell: variables that it assigned or changed are not overwritten without asking."""
        cards = list(self._live.values())
        if not cards:
            return
        try:
            names = analyse(self.shell.transform_cell(raw_cell))
        except (SyntaxError, ValueError, RecursionError):
            names = None
        for one in cards:
            one.notice(names)

    def close(self) -> None:
        """End every form; nothing can be run again once the extension is unloaded."""
        with self._lock:
            self._closed = True
            cards = list(self._live.values())
            self._live.clear()
        for one in cards:
            one.end("the extension was unloaded; run the cell again")
        while self._finished:
            self._finished.popleft().close()

    def finished(self, form: OverrideForm) -> None:
        """Keep the last message of a form for a while, for pages that are loaded again."""
        self._finished.append(form)
        while len(self._finished) > LAST_WORDS:
            self._finished.popleft().close()

    def forget(self, key: str) -> None:
        """Forget a card whose form has ended."""
        with self._lock:
            self._live.pop(key, None)

    def land(self, result: Result, sink: Sink) -> str:
        """Assign a cell's results in the notebook, and return a short description of them. On the main thread."""
        values = result.values
        if values is None:
            return "its value is in `fn.last_run.outputs`"
        land(values, self.shell.user_ns, lambda data: sink.display({"data": data}), silent=result.silent)
        names = ", ".join(f"`{name}`" for name in values.outputs)
        return f"{names} {'is' if len(values.outputs) == 1 else 'are'} in the notebook" if names else ""


class Card:
    """One failure in one cell, with a form if there is a kernel to handle clicks.

    ``busy``: a rerun runs, or its outputs wait until the kernel is idle or the user has answered.
    """

    def __init__(self, cards: Cards, failure: Failure, sink: Sink) -> None:
        self.key = unique()
        self.failure = failure
        self.busy = False
        self._cards = cards
        self._sink = sink
        self._rerun = cards.rerun_of(failure)
        if self._rerun.lands:
            self._rerun.remember()
        self._form: OverrideForm | None = None
        self._lock = threading.Lock()
        self._story: list[str] = []
        self._rest = ""
        self._tried: Passed | None = None
        self._passed_with: Passed | None = None

    @property
    def has_form(self) -> bool:
        """Whether it can be run again from the card."""
        return self._form is not None

    def publish(self, *, with_form: bool) -> None:
        """Show the card, and below it the form."""
        self._sink.display({"data": self._bundle(), "transient": {"display_id": f"fnb-card-{self.key}"}})
        if (
            not with_form
            or not self._rerun.possible
            or self.failure.reason == "stopped"
            or not hasattr(self._cards.shell, "kernel")
        ):
            return
        try:
            self._form = OverrideForm(
                self._data(), check=self._check, click=self._click, on_rerun=self._start, later=_later
            )
        except Exception as error:  # on any error of the widgets, the card is still shown
            logger.debug("could not make the form of a card", exc_info=True)
            losses.settle(relies.BY_KEY[relies.WIDGETS], error)
            return
        self._sink.display({"data": self._form.bundle(), "transient": {"display_id": f"fnb-form-{self.key}"}})

    def notice(self, names: CellNames | None) -> None:
        """Note how an ended cell changed names, and say what a click does now."""
        self._rerun.notice(names)
        form = self._form
        if form is not None and not self.busy:
            form.look()

    def _bundle(self) -> dict[str, Any]:
        shown = self._cards.renderer.with_cell_names(self.failure)
        story = self._cards.history.story(self.failure.worker)
        self._rest = failure_rest_html(shown, story=story)
        reruns = tuple(self._story)
        return bundle.failure_bundle(shown, story=story, reruns=reruns, passed=self._passed_with, rest=self._rest)

    def _data(self) -> FormData:
        failure = self.failure
        suggestion = failure.suggestions[0] if failure.suggestions else None
        return FormData(
            limits=failure.limits,
            retries=failure.max_attempts - 1,
            suggested=None if suggestion is None else suggestion.limits,
            of_memory=memory_matters(failure),
            rest=self._rest,
        )

    def _click(self, override: Override, today: bool) -> Click:  # noqa: FBT001 - the form's two arguments
        rerun = self._rerun
        then = rerun.inputs_words
        rerun.today = today and bool(then)
        words = "with today's inputs" if rerun.today else then
        code = rerun.code(override)
        needs = "a copy needs `import flyte`" if "flyte." in code and "flyte" not in self._cards.shell.user_ns else ""
        return Click(
            code=code,
            words="; ".join(filter(None, [words, rerun.code_words, needs])),
            today=f"with today's {', '.join(rerun.changed_inputs)}" if then else "",
        )

    def _check(self, texts: Mapping[FieldName, str]) -> Override | dict[FieldName, str]:
        return read(texts, self._rerun.machine)

    def _start(self, override: Override) -> None:
        """Begin a rerun and return at once: this may be the thread that has to handle the next click."""
        try:
            self._rerun.check()
        except NoRerunError as error:
            self._again(f"✗ {error}")
            return
        self.busy = True
        words = describe(override) or "the same settings"
        if self._form is not None:
            self._form.running(f"Running with {words}…")
        run = self._rerun.begin(override, background=True)
        self._tried = Passed(title=f"Passed with {words}", keep=self._rerun.keep(override))
        call, ended = partial(self._rerun.run, override, run), partial(self._ended, run, words)
        self._cards.background.begin(run, self._sink, call=call, ended=ended)

    def _ended(self, run: Run, words: str, ended: BackgroundRun) -> Callable[[], object] | None:
        """Show the end of a rerun; in its thread."""
        try:
            if ended.error is None:
                return self._succeeded(ended.value, run, words)
            self._failed(ended.error, run, words)
        except Exception as error:  # a thread of its own: no other code would report it
            logger.exception("could not show the end of a rerun")
            self._again(f"✗ the end of the rerun could not be shown: {type(error).__name__}: {error}")
        return None

    def _failed(self, error: BaseException, run: Run, words: str) -> None:
        failure = run.failure or failure_in(error)
        if isinstance(error, NoRerunError) or not isinstance(failure, Failure):
            what = str(error) if isinstance(error, NoRerunError) else f"{type(error).__name__}: {error}"
            self._again(f"✗ with {words}: {what}")
            return
        self._story.append(f"✗ rerun with {words}: {type(failure.error).__name__}: {failure.headline}{self._by_name}")
        if self._cards.history.run_of(failure.worker) is not None:  # else no run started that could be run again
            self.failure = failure
            self._rerun.failure = failure
        self._update()
        self._again(f"✗ with {words}: {type(failure.error).__name__}. The card above shows this rerun.")

    def _again(self, words: str) -> None:
        """Reset the form."""
        self.busy = False
        form = self._form
        if form is not None:
            form.again(self._data(), words)

    def _succeeded(self, result: Result, run: Run, words: str) -> Callable[[], object] | None:
        attempt = run.actions[0].attempts[-1] if run.actions else None
        peak = "" if attempt is None or attempt.trace.peak_bytes is None else format_memory(attempt.trace.peak_bytes)
        said = f"✓ rerun with {words} succeeded" + (f", peak {peak}" if peak else "")
        if result.values is None:
            value = "" if result.value is None else f", result `{_short(result.value)}`"
            self._passed(f"{said}{value}; its value is in `fn.last_run.outputs`")
            return None
        return self._cards.idle.call(lambda: self._land(result, said))

    def _land(self, result: Result, said: str) -> None:
        """Assign the outputs in the notebook, or ask first if one of the names was bound again. On the main thread."""
        assert result.values is not None
        changed = self._rerun.changed_since([*result.values.outputs, *result.values.outcome.deleted])
        form = self._form
        if not changed or form is None:
            self._assign(result, said)
            return
        names, them = ", ".join(f"`{name}`" for name in changed), "it" if len(changed) == 1 else "them"
        form.ask(
            f"{said}. {names} changed in the notebook since this cell failed. Replace {them}?",
            [
                ("Replace", lambda: self._cards.idle.call(lambda: self._assign(result, said))),
                ("Keep the notebook's", lambda: self._passed(f"{said}; the notebook keeps its {names}")),
            ],
        )

    def _assign(self, result: Result, said: str) -> None:
        try:
            landed = self._cards.land(result, self._sink)
            if result.value is not None and not result.silent:
                data, metadata = self._cards.shell.display_formatter.format(result.value)
                self._sink.display({"data": data, "metadata": metadata})
        except Exception as error:  # user code may run when values are loaded and shown
            logger.exception("could not give the notebook what a rerun returned")
            landed = f"but its outputs could not all be brought back: {type(error).__name__}: {error}"
        self._passed(f"{said}{f'; {landed}' if landed else ''}{self._by_name}")

    @property
    def _by_name(self) -> str:
        return "; its inputs were read again by name" if self._rerun.read_by_name else ""

    def _passed(self, words: str) -> None:
        self.busy = False
        self._story.append(words)
        self._passed_with = self._tried
        self._update()
        self.end(words, rerun=True)

    def _update(self) -> None:
        self._sink.display(
            {"data": self._bundle(), "transient": {"display_id": f"fnb-card-{self.key}"}, "update": True}
        )

    def end(self, words: str, *, rerun: bool = False) -> None:
        """Replace the form by plain text, as it has no further use.

        ``rerun``: a rerun ended it; then a page that is loaded again must show the result.
        """
        with self._lock:
            form, self._form = self._form, None
        if form is None:
            return
        # What passed is said by the card; only a page that was loaded again has another card than this.
        data = {"text/html": "", "text/plain": ""} if rerun else {"text/html": said_html(words), "text/plain": words}
        self._sink.display({"data": data, "transient": {"display_id": f"fnb-form-{self.key}"}, "update": True})
        if rerun:
            form.finish(words)
            self._cards.finished(form)
        else:
            form.close()
        self._cards.forget(self.key)


def _later(seconds: float, call: Callable[[], object]) -> None:
    """Call something after a while, in a thread of its own; its output belongs to the running cell."""
    timer = threading.Timer(seconds, contextvars.copy_context().run, [call])
    timer.daemon = True
    timer.name = "flyte-notebook enter"
    timer.start()


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a user's class may raise any error
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
    return text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - one line
