"""The shell's own state holds in a task cell: features of ``__future__``, which values are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from beside import Case, both

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

pytestmark = pytest.mark.jupyter

FUTURE = "from __future__ import annotations"
VALUES = "1\n'two'\nx = 3\nNone\nfor y in range(2):\n    y\nx + 1"


@pytest.fixture(autouse=True)
def _as_it_was(kernel: Kernel) -> Iterator[None]:
    yield
    kernel.run(
        "get_ipython().ast_node_interactivity = 'last_expr'\n"
        "import __future__\nget_ipython().compile.flags &= ~__future__.annotations.compiler_flag"
    ).ok()


def test_a_feature_of_an_earlier_cell_holds(kernel: Kernel) -> None:
    """Annotations that name nothing are texts."""
    plain, task = both(kernel, Case("def f(x: Nothing) -> None: pass\nf.__annotations__", FUTURE))
    assert plain == task
    assert "{'x': 'Nothing', 'return': 'None'}" == task.result


def test_a_feature_of_a_task_cell_holds_in_later_cells(kernel: Kernel) -> None:
    """Plain ones and tasks."""
    kernel.run(f"%%flyte_task\n{FUTURE}\n1").ok()
    for magic in ("", "%%flyte_task\n"):
        assert "{'x': 'Nothing'}" == kernel.run(f"{magic}def f(x: Nothing): pass\nf.__annotations__").ok().result


def test_without_it_annotations_are_evaluated(kernel: Kernel) -> None:
    """Nothing of an earlier test is left."""
    plain, task = both(kernel, Case("def f(x: int): pass\nf.__annotations__"))
    assert plain == task
    assert "{'x': int}" == task.result


@pytest.mark.parametrize("which", ["all", "last", "last_expr", "none", "last_expr_or_assign"])
@pytest.mark.parametrize(
    "cell", [VALUES, "x = 4", "x: int = 5", "x = 1\nx += 5", "x = y = 2", "for x in range(2):\n    x"]
)
def test_the_values_are_shown_that_a_plain_cell_shows(kernel: Kernel, which: str, cell: str) -> None:
    """Every value, those of the last statement, none, or what it assigns."""
    kernel.run(f"get_ipython().ast_node_interactivity = {which!r}").ok()
    shown = []
    for magic in ("", "%%flyte_task --quiet\n"):
        reply = kernel.run(magic + cell).ok()
        kinds = {"execute_result", "display_data"}
        texts = [content["data"]["text/plain"] for kind, content in reply.events if kind in kinds]
        shown.append([text for text in texts if not text.startswith("[flyte_notebook")])
    assert shown[0] == shown[1]


OF_PLAIN = "get_ipython().display_formatter.formatters['text/plain']"
OF_HTML = "get_ipython().display_formatter.formatters['text/html']"
KIND = "class Kind:\n    pass\nshown = 'a kind'\n"
DISPLAYED = {
    "precision": ("get_ipython().run_line_magic('precision', '2')", "display(3.14159)"),
    "precision of a list": ("get_ipython().run_line_magic('precision', '%e')", "display([1.5])"),
    "no pretty printing": (
        "get_ipython().run_line_magic('pprint', 'off')",
        "display({number: 'x' * 30 for number in range(9)})",
    ),
    "a printer for a class of the notebook": (
        f"{KIND}{OF_PLAIN}.for_type(Kind, lambda x, p, cycle: p.text(shown))",
        "display(Kind())",
    ),
    "a printer for a class of Python": (
        OF_HTML + ".for_type(complex, lambda x: f'<i>{x}</i>')",
        "display(1 + 2j)",
    ),
    "a printer for a class of a library": (
        f"import pandas as pd\n{OF_HTML}.for_type(pd.Series, lambda x: 'series')",
        "import pandas as pd\ndisplay(pd.Series([1]))",
    ),
}


@pytest.mark.parametrize("name", DISPLAYED)
def test_what_a_task_displays_is_shown_as_the_notebook_shows_it(kernel: Kernel, name: str) -> None:
    """Precision, pretty printing and printers that were registered."""
    setup, cell = DISPLAYED[name]
    kernel.run("from IPython.core.formatters import DisplayFormatter\nbefore = get_ipython().display_formatter").ok()
    kernel.run("get_ipython().display_formatter = DisplayFormatter(parent=get_ipython())\n" + setup).ok()
    try:
        plain, task = kernel.run(cell).ok(), kernel.run("%%flyte_task --quiet\n" + cell).ok()
    finally:
        kernel.run("get_ipython().display_formatter = before").ok()
    assert plain.shown == task.shown
    assert plain.shown
