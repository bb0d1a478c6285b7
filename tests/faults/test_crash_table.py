"""Whatever a class does while an object of it travels is an error of that call; nothing hangs, the next run works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from crash_table import HANGS_S, Row, rows
from programs import facts_of

if TYPE_CHECKING:
    Found = dict[str, tuple[str, str, float]]

pytestmark = pytest.mark.cgroup

PROGRAM = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
import crash_table
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()

def cell(options, body, variables):
    shell.user_ns.update(variables)
    shell.run_cell_magic("flyte_task", options, body)

shell.run_line_magic("load_ext", "flyte_notebook")
enforcement.current().engine.wait_until_proven()
pid = os.getpid()
found = crash_table.tried(cell)
shell.run_line_magic("unload_ext", "flyte_notebook")
assert pid == os.getpid()
facts(found=found)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return what came of every row, all of them in one kernel and one session."""
    found: Found = facts_of(PROGRAM, tmp_path_factory.mktemp("crashes"), bound_s=600)["found"]
    return found


@pytest.mark.timeout(660)
@pytest.mark.parametrize("row", rows(), ids=str)
def test_a_crash_while_a_value_travels_is_an_error_of_that_call(found: Found, row: Row) -> None:
    """It has the right class and code, and the next run in the same kernel and session has its own, soon."""
    kind, code, took_s = found[str(row)]
    assert row.expected == (kind, code)
    assert took_s < HANGS_S
