"""The magics: ``%%flyte_task`` and ``%flyte``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand, output_can_be_silenced

from flyte_notebook import capabilities, catalogue
from flyte_notebook.notebook import options
from flyte_notebook.notebook.cellrun import CellRun
from flyte_notebook.notebook.render import Text
from flyte_notebook.sdk import enforcement
from flyte_notebook.views import explanation, runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.job import Semantics
    from flyte_notebook.notebook.render import Renderer

SUB_COMMANDS = ("doctor", "explain", "last", "runs", "semantics")
SEMANTICS: tuple[Semantics, ...] = ("cluster", "reference")
COMPLETIONS = {"": SUB_COMMANDS, "explain": catalogue.names(), "semantics": SEMANTICS}
"""What may follow ``%flyte``, and what may follow a sub-command."""


@magics_class
class FlyteMagics(Magics):
    """``%%flyte_task`` and ``%flyte`` of one shell. ``silenced`` counts the loop's silenced polling errors."""

    def __init__(self, shell: Any, renderer: Renderer, silenced: Callable[[], int | None]) -> None:
        super().__init__(shell)
        self._shell = shell
        self._renderer = renderer
        self._silenced = silenced

    @no_var_expand
    @output_can_be_silenced
    @cell_magic
    def flyte_task(self, line: str, cell: str) -> Any:
        """Run a cell as a task; the text that users see is `options.help_text`."""
        said = options.parse(line)
        run = CellRun(self._shell, said, cell)
        try:
            return run.run()
        except Exception as error:
            failure = self._renderer.failure_of(error) if said.no_raise and not run.interrupted else None
            rendered = None if failure is None else self._renderer(error)
            if rendered is None:
                raise
            self._shell.display_pub.publish(data=rendered[0], metadata={})
            self._shell.displayhook.update_user_ns(failure)
            return None

    @no_var_expand
    @line_magic
    def flyte(self, line: str) -> Any:
        """Look at this kernel's tasks.

        %flyte doctor          what is enforced here, by which mechanism, and what would give more
        %flyte explain [NAME]  what an error means and how to recover; without a name, the last failure
        %flyte last            the run that began last: its actions, their limits, peaks and outcomes
        %flyte runs            all runs of this kernel
        %flyte semantics NAME  whose error classes failures get: those of today's cluster, or of the reference
        """
        command = line.strip() or "doctor"
        if command == "doctor":
            return capabilities.examine(silenced_polling_errors=self._silenced())
        if command.partition(" ")[0] == "explain":
            return self._explain(command.partition(" ")[2].strip())
        if command.partition(" ")[0] == "semantics":
            return self._semantics(command.partition(" ")[2].strip())
        if command == "last":
            run = enforcement.history.last_run
            if run is None:
                raise UsageError("%flyte last: nothing has run yet; run a %%flyte_task cell or flyte.run(task) first")
            return Text(runs.run_text(run))
        if command == "runs":
            return Text(runs.runs_text(list(enforcement.history)))
        close = f"%flyte {command}: there is no such command; there are " + ", ".join(SUB_COMMANDS)
        raise UsageError(close)

    def _semantics(self, name: str) -> Text:
        session = enforcement.current()
        if session is None:
            raise UsageError("%flyte semantics: limits are not enforced now; run %reload_ext flyte_notebook")
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


FlyteMagics.flyte_task.__doc__ = options.help_text()
