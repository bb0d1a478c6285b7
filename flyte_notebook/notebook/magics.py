"""The magics: ``%%flyte_task`` and ``%flyte``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand, output_can_be_silenced

from flyte_notebook import capabilities
from flyte_notebook.notebook import options, render
from flyte_notebook.notebook.cellrun import CellRun
from flyte_notebook.sdk import enforcement
from flyte_notebook.views import runs

if TYPE_CHECKING:
    from collections.abc import Callable

SUB_COMMANDS = ("doctor", "last", "runs")


@magics_class
class FlyteMagics(Magics):
    """``%%flyte_task`` and ``%flyte`` of one shell. ``silenced`` counts the loop's silenced polling errors."""

    def __init__(self, shell: Any, silenced: Callable[[], int | None]) -> None:
        super().__init__(shell)
        self._shell = shell
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
            rendered = render.render(error) if said.no_raise else None
            if rendered is None:
                raise
            bundle, _ = rendered
            self._shell.display_pub.publish(data=bundle, metadata={})
            self._shell.displayhook.update_user_ns(error.failure)  # type: ignore[attr-defined]  # it was rendered
            return None

    @no_var_expand
    @line_magic
    def flyte(self, line: str) -> Any:
        """Look at this kernel's tasks.

        %flyte doctor   what is enforced here, by which mechanism, and what would give more
        %flyte last     the run that began last: its actions, their limits, peaks and outcomes
        %flyte runs     all runs of this kernel
        """
        command = line.strip() or "doctor"
        if command == "doctor":
            return capabilities.examine(silenced_polling_errors=self._silenced())
        if command == "last":
            run = enforcement.history.last_run
            if run is None:
                raise UsageError("%flyte last: nothing has run yet; run a %%flyte_task cell or flyte.run(task) first")
            return render.Text(runs.run_text(run))
        if command == "runs":
            return render.Text(runs.runs_text(list(enforcement.history)))
        close = f"%flyte {command}: there is no such command; there are " + ", ".join(SUB_COMMANDS)
        raise UsageError(close)


FlyteMagics.flyte_task.__doc__ = options.help_text()
