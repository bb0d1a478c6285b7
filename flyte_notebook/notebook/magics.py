"""The magics: ``%%flyte_task`` and ``%flyte``."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand, output_can_be_silenced

from flyte_notebook import capabilities, catalogue
from flyte_notebook.notebook import defaults, experiments, option_help, options, output
from flyte_notebook.notebook.cellrun import CellRun
from flyte_notebook.notebook.render import Text
from flyte_notebook.notebook.reruns import NoRerunError
from flyte_notebook.sdk import enforcement
from flyte_notebook.storage import StoreError, load, save
from flyte_notebook.views.failures import explanation
from flyte_notebook.views.history import run_list, tree
from flyte_notebook.views.history.saved import SavedRuns

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.history import History, Run
    from flyte_notebook.notebook.cards import Cards
    from flyte_notebook.notebook.render import Renderer
    from flyte_notebook.sdk.session import Session
    from flyte_notebook.views.experiments.fit import ShownFit

SUB_COMMANDS = ("doctor", "explain", "fit", "last", "rerun", "runs", "save", "saved", "semantics", "system_retries")
SEMANTICS = enforcement.SEMANTICS
COMPLETIONS = {
    "": SUB_COMMANDS,
    "explain": catalogue.names(),
    "rerun": tuple(f"--{name}" for name in ("memory", "cpu", "timeout", "retries")),
    "semantics": SEMANTICS,
    "system_retries": ("0", "1", "2", "3"),
}
"""The words that may follow ``%flyte``, and those that may follow a sub-command."""


class CellDefaults(Magics):
    """The defaults of a cell's options, each a trait that ``%config`` lists and sets."""

    locals().update(defaults.TRAITS)


@magics_class
class FlyteTaskMagics(CellDefaults):
    """Defaults for the options of ``%%flyte_task``; an option in a cell overrides them.

    ``silenced`` counts the loop's silenced polling errors.
    """

    def __init__(self, shell: Any, renderer: Renderer, cards: Cards, silenced: Callable[[], int | None]) -> None:
        super().__init__(shell)
        self._cards = cards
        self._shell = shell
        self._renderer = renderer
        self._silenced = silenced

    def forget(self) -> None:
        """Remove the magics and their defaults from the shell."""
        tables = self._shell.magics_manager.magics
        tables["cell"].pop("flyte_task", None)
        tables["line"].pop("flyte", None)
        self._shell.configurables.remove(self)

    @no_var_expand
    @output_can_be_silenced
    @cell_magic
    def flyte_task(self, line: str, cell: str) -> Any:
        """Run a cell as a task; the text that users see is `option_help.help_text`."""
        said = defaults.filled(options.parse(line), self)
        run = CellRun(self._shell, said, cell, self._cards, line=line)
        try:
            return run.run()
        except Exception as error:
            failure = self._renderer.failure_of(error) if said.no_raise and not run.interrupted else None
            rendered = None if failure is None else self._renderer(error)
            if rendered is None:
                raise
            if rendered[0] is not None:
                rendered[0]()
            self._shell.displayhook.update_user_ns(failure)
            return None

    @no_var_expand
    @line_magic
    def flyte(self, line: str) -> Any:
        """Look at this kernel's tasks. ``%flyte`` alone lists the commands.

        %flyte doctor            what is enforced here, how, and how to get more
        %flyte explain [NAME]    what an error means and how to recover; without a
                                 name, the last failure
        %flyte fit [NAME x=5]    the smallest memory limit that a task passes;
                                 without a name, that of the last run
        %flyte last              the newest run: its actions, limits and outcomes
        %flyte rerun [OPTIONS]   run again what failed last, with other --memory,
                                 --cpu, --timeout or --retries
        %flyte runs              all runs of this kernel
        %flyte save [PATH]       save the last run to a file, or in your cache
        %flyte saved [PATH]      the runs that were saved, as fn.load() has them
        %flyte semantics NAME    whose error classes failures get: those of
                                 today's cluster, or of the reference
        %flyte system_retries N  how often in a row a lost worker is replaced
                                 without using up a retry
        """
        command = line.strip()
        if not command:
            return Text((inspect.getdoc(type(self).flyte) or "").replace("``", ""))
        if command == "doctor":
            return capabilities.examine(silenced_polling_errors=self._silenced())
        word, _, rest = command.partition(" ")
        takes = {
            "explain": self._explain,
            "fit": self._fit,
            "rerun": self._rerun,
            "save": lambda path: Text(_save_last(path, enforcement.history)),
            "saved": _saved,
            "semantics": self._semantics,
            "system_retries": self._system_retries,
        }
        if word in takes:
            return takes[word](rest.strip())
        if command == "last":
            run = enforcement.history.last_run
            if run is None:
                raise UsageError("%flyte last: nothing has run yet; run a %%flyte_task cell or flyte.run(task) first")
            self._shell.display_pub.publish(data=tree.run_bundle(run), metadata={})
            return None
        if command == "runs":
            self._shell.display_pub.publish(data=_table(list(enforcement.history)), metadata={})
            return None
        close = difflib.get_close_matches(word.lower(), SUB_COMMANDS, n=1)
        hint = f"did you mean %flyte {close[0]}?" if close else f"there are {', '.join(SUB_COMMANDS)}"
        raise UsageError(f"%flyte {command}: there is no such command; {hint}")

    def _rerun(self, line: str) -> Any:
        """Run again what failed last, as the button of its card does; in this cell, and waiting for its end."""
        override = options.parse_override(line)
        _open_session("rerun")
        failure = enforcement.history.last_failure
        if failure is None:
            raise UsageError(
                f"{options.RERUN}: nothing has failed in this kernel; if it was restarted, run the failed cell again"
            )
        rerun = self._cards.rerun_of(failure)
        try:
            rerun.check()
            rerun.check_override(override)
            self._say(f"running {rerun.words(override)} again")
            result = rerun.run(override, rerun.begin(override, background=False))
        except NoRerunError as error:
            raise UsageError(f"{options.RERUN}: {error}") from None
        self._cards.land(result, output.cell_sink(self._shell))
        kept = "for a cluster" if rerun.remote else "any more"
        gone = f"the inputs are not kept {kept}, and were read again by name"
        note = gone if rerun.read_by_name else rerun.known_inputs_words
        if note:
            self._say(note)
        return None if result.silent else result.value

    def _say(self, words: str) -> None:
        self._shell.display_pub.publish(data={"text/plain": f"[flyte_notebook: {words}]"}, metadata={})

    def _fit(self, line: str) -> ShownFit:
        return experiments.fit_again(line, self._shell.user_ns, _open_session("fit"))

    def _semantics(self, name: str) -> Text:
        session = _open_session("semantics")
        chosen = next((known for known in SEMANTICS if known == name), None)
        if chosen is None and name:
            raise UsageError(
                f"%flyte semantics: {name!r} is neither cluster nor reference; write %flyte semantics reference"
            )
        session.semantics = chosen or session.semantics
        words = {
            "cluster": "failures raise what today's cluster raises",
            "reference": "failures raise what the published reference promises; a card says where a cluster differs",
        }
        return Text(f"{session.semantics}: {words[session.semantics]}")

    def _system_retries(self, count: str) -> Text:
        session = _open_session("system_retries")
        if count and not count.isdecimal():
            raise UsageError(
                f"%flyte system_retries: {count!r} is not a number of retries; write %flyte system_retries 2"
            )
        enforcement.change_settings(session, system_retries=int(count) if count else None)
        times = session.system_retries
        if not times:
            return Text("0: a worker that is lost is not replaced; its RuntimeSystemError has the code Interrupted")
        return Text(
            f"{times}: a worker that is lost is replaced up to {times} time{'' if times == 1 else 's'} in a row; then "
            "its RuntimeSystemError has the code MaxSystemFailuresExceeded"
        )

    def _explain(self, name: str) -> Any:
        """Explain what a name stands for: a variable that holds an error, a class, a code; else the last failure."""
        thing = self._shell.user_ns.get(name, name)
        if not name:
            failure = enforcement.history.last_failure
            if failure is None:
                raise UsageError("%flyte explain: nothing has failed yet; name an error, as in %flyte explain OOMError")
            thing = failure.error
        try:
            return explanation.shown(catalogue.explain(thing))
        except (LookupError, TypeError) as error:
            raise UsageError(f"%flyte explain: {error.args[0]}") from None


def _table(ran: list[Run]) -> dict[str, Any]:
    return {"text/html": tree.runs_html(ran), "text/plain": run_list.runs_text(ran)}


def _open_session(command: str) -> Session:
    session = enforcement.current()
    if session is None:
        raise UsageError(f"%flyte {command}: limits are not enforced now; run %reload_ext flyte_notebook")
    return session


FlyteTaskMagics.flyte_task.__doc__ = option_help.help_text()


def _save_last(path: str, history: History) -> str:
    """Save the newest run, and return a sentence that says where. Raises UsageError."""
    run = history.last_run
    if run is None:
        raise UsageError("%flyte save: nothing has run yet; run a %%flyte_task cell or flyte.run(task) first")
    try:
        place = save(run, _path(path))
    except StoreError as error:
        raise UsageError(f"%flyte save: {error}") from None
    return f"{run.name} is saved in {place}"


def _saved(path: str) -> SavedRuns:
    """Return the runs in a file. Raises UsageError."""
    try:
        return SavedRuns(load(_path(path)))
    except StoreError as error:
        raise UsageError(f"%flyte saved: {error}") from None


def _path(line: str) -> str | None:
    """Return the path in the line, without quotation marks; ``None`` without one."""
    quoted = len(line) > 1 and line[0] == line[-1] and line[0] in "\"'"
    return (line[1:-1] if quoted else line) or None
