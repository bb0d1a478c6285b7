"""Settings that earlier cells made in libraries hold in a task cell as they do in a plain one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from beside import Case, both

if TYPE_CHECKING:
    from pathlib import Path

    from kernels import Kernel

pytestmark = pytest.mark.jupyter

SAVED = """
import decimal, gc, locale, logging, random, socket, sys, warnings
import matplotlib, numpy as np, pandas as pd
_kept |= {"decimal", "gc", "locale", "logging", "random", "socket", "sys", "warnings", "matplotlib", "np", "pd"}
_saved = (
    list(warnings.filters), sys.getrecursionlimit(), gc.get_threshold(), np.get_printoptions(), np.geterr(),
    locale.setlocale(locale.LC_ALL), {**matplotlib.rcParams},
)
"""

RESTORED = """
warnings.filters[:], _limit, _thresholds, _printing, _errors, _locale, _rc = _saved
sys.setrecursionlimit(_limit); gc.enable(); gc.set_threshold(*_thresholds)
np.set_printoptions(**_printing); np.seterr(**_errors)
_ = locale.setlocale(locale.LC_ALL, _locale)
pd.reset_option("display"); matplotlib.rcParams.update(_rc)
decimal.setcontext(decimal.DefaultContext); socket.setdefaulttimeout(None)
logging.root.handlers.clear(); logging.root.setLevel(logging.WARNING); logging.disable(0)
logging.getLogger("mine").handlers.clear(); logging.getLogger("mine").setLevel(0)
logging.getLogger("mine").propagate = True
"""

LOG = "import logging\nlogging.getLogger('mine').info('heard')\nlogging.warning('of the root')"

CASES = {
    "a warning that raises": Case("import warnings\nwarnings.warn('late')", "warnings.simplefilter('error')"),
    "a warning by its class": Case(
        "import warnings\nwarnings.warn('late', FutureWarning)\nwarnings.warn('never', ResourceWarning)",
        "warnings.simplefilter('error', FutureWarning); warnings.simplefilter('ignore', ResourceWarning)",
    ),
    "a warning by its text": Case(
        "import warnings\nwarnings.warn('other')\nwarnings.warn('late one')",
        "warnings.simplefilter('ignore'); warnings.filterwarnings('error', message='late')",
    ),
    "a warning of a library that the cell imports": Case(
        "import warnings, pandas.errors\nwarnings.warn('slow', pandas.errors.PerformanceWarning)",
        "warnings.simplefilter('error', pd.errors.PerformanceWarning)",
    ),
    "logging to standard output": Case(
        LOG, "logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(name)s %(levelname)s %(message)s')"
    ),
    "a named logger": Case(
        LOG,
        "_handler = logging.StreamHandler(sys.stdout)\n"
        "_handler.setFormatter(logging.Formatter('{message}!', style='{'))\n"
        "logging.getLogger('mine').handlers[:] = [_handler]; logging.getLogger('mine').setLevel('DEBUG')\n"
        "logging.getLogger('mine').propagate = False",
    ),
    "logging that is disabled": Case(
        LOG, "logging.basicConfig(level=logging.INFO, stream=sys.stdout); logging.disable(logging.INFO)"
    ),
    "decimal": Case("import decimal\nprint(decimal.Decimal(1) / 7)", "decimal.getcontext().prec = 6"),
    "recursion": Case("import sys\nsys.getrecursionlimit()", "sys.setrecursionlimit(2345)"),
    "deeper recursion": Case(
        "def deep(n):\n    return n and 1 + deep(n - 1)\ndeep(8_000)", "sys.setrecursionlimit(20_000)"
    ),
    "the collector": Case(
        "import gc\nprint(gc.isenabled(), gc.get_threshold())", "gc.disable(); gc.set_threshold(1, 2, 3)"
    ),
    "numpy errors": Case("import numpy as np\nnp.float64(1) / np.float64(0)", "_ = np.seterr(all='raise')"),
    "numpy printing": Case("import numpy as np\nprint(np.array([1 / 3]))", "np.set_printoptions(precision=2)"),
    "numpy printing of an input": Case("print(thirds)", "thirds = np.array([1 / 3]); np.set_printoptions(precision=2)"),
    "pandas": Case(
        "import pandas as pd\nprint(pd.Series([1 / 3, 2e9]))",
        "pd.set_option('display.float_format', '{:.1f}'.format)".replace("'{:.1f}'.format", "None"),
    ),
    "pandas rows": Case(
        "import pandas as pd\nprint(pd.DataFrame({'a': range(30)}))", "pd.set_option('display.max_rows', 6)"
    ),
    "matplotlib": Case(
        "import matplotlib\nprint(matplotlib.rcParams['figure.figsize'], matplotlib.rcParams['lines.linewidth'])",
        "matplotlib.rcParams['figure.figsize'] = (3, 2); matplotlib.rcParams['lines.linewidth'] = 7",
    ),
    "locale": Case(
        "import locale\nprint(locale.setlocale(locale.LC_NUMERIC))", "locale.setlocale(locale.LC_NUMERIC, 'C.UTF-8');"
    ),
    "sockets": Case("import socket\nprint(socket.getdefaulttimeout())", "socket.setdefaulttimeout(3.5)"),
    "random": Case("import random\n[random.random(), random.choice('abc')]", "random.seed(1)", "random.random()"),
    "random, drawn from in between": Case(
        "import random\nrandom.gauss(0, 1)", "random.seed(1); random.random()", "(random.gauss(0, 1), random.random())"
    ),
    "random, seeded in the cell": Case("import random\nrandom.seed(9)", "random.seed(1)", "random.random()"),
    "numpy's random": Case(
        "import numpy as np\nnp.random.rand(3).tolist()", "np.random.seed(1)", "np.random.standard_normal()"
    ),
    "numpy's random, seeded in the cell": Case(
        "import numpy as np\nnp.random.seed(5)", "np.random.seed(1)", "np.random.standard_normal()"
    ),
    "random in a helper": Case("draw()", "def draw():\n    return random.random()\nrandom.seed(3)", "random.random()"),
}


@pytest.fixture(scope="module", autouse=True)
def _settings(loaded_kernel: Kernel) -> None:
    loaded_kernel.run(SAVED).ok()


@pytest.mark.parametrize("name", CASES)
def test_a_setting_of_an_earlier_cell_holds(kernel: Kernel, name: str) -> None:
    """Output, value, error, and what the next plain cell sees are those of a plain cell."""
    try:
        plain, task = both(kernel, CASES[name])
    finally:
        kernel.run(RESTORED).ok()
    assert plain == task


def test_a_log_file_is_written_to_by_both(kernel: Kernel, tmp_path: Path) -> None:
    """A handler that writes to a file is made anew, and adds to it."""
    kernel.run(f"logging.basicConfig(filename={str(tmp_path / 'log')!r}, level=10, format='%(message)s')").ok()
    try:
        for magic in ("", "%%flyte_task\n"):
            kernel.run(magic + "import logging\nlogging.debug('line')").ok()
    finally:
        kernel.run(RESTORED).ok()
    assert "line\nline\n" == (tmp_path / "log").read_text()


def test_what_cannot_travel_is_named_once_and_the_rest_goes(kernel: Kernel) -> None:
    """A handler of the user's own, and a filter for a class of the notebook, stay behind; levels and others go."""
    setup = (
        "class Own(logging.Handler):\n    def emit(self, record): pass\n"
        "class OwnWarning(Warning): pass\n"
        "logging.root.addHandler(Own()); logging.root.setLevel(7)\n"
        "warnings.simplefilter('error', FutureWarning); warnings.simplefilter('error', OwnWarning)"
    )
    cell = "%%flyte_task\nimport logging, warnings\nprint(logging.root.level)\nwarnings.warn('late', FutureWarning)"
    try:
        kernel.run(setup).ok()
        first, second = kernel.run(cell), kernel.run(cell)
    finally:
        kernel.run(RESTORED).ok()
    assert [
        "logging: the Own of the logger root stays in the notebook",
        "warning filters: a filter for the notebook's own class OwnWarning stays in the notebook",
    ] == first.notes
    assert [] == second.notes
    assert ["7\n", "7\n"] == [first.stdout, second.stdout]
    assert "RuntimeUserError" == first.ename


def test_a_change_in_the_cell_stays_there_and_is_said_once(kernel: Kernel) -> None:
    """The notebook's own setting is as it was."""
    cell = (
        "%%flyte_task\nimport decimal, warnings, numpy as np, pandas as pd\ndecimal.getcontext().prec = 9\n"
        "warnings.simplefilter('ignore')\nnp.seterr(all='raise')\npd.set_option('display.max_rows', 3);"
    )
    first, second = kernel.run(cell).ok(), kernel.run(cell).ok()
    changed = ["the decimal context", "numpy's error handling", "pandas options", "warning filters"]
    end = " changed in the task only; make such a change in a cell without %%flyte_task"
    assert [what + end for what in changed] == first.notes
    assert [] == second.notes
    assert (
        "(28, 'warn', 60)"
        == kernel.run("(decimal.getcontext().prec, np.geterr()['over'], pd.get_option('display.max_rows'))").result
    )


def test_other_runs_draw_other_numbers(kernel: Kernel) -> None:
    """Actions that are gathered, retries, runs in the background: each begins with fresh entropy, as on a cluster."""
    kernel.run(
        "import random\nimport numpy as np\nflyte.init()\nrandom.seed(1); np.random.seed(1)\n"
        "env = flyte.TaskEnvironment(name='drawing', resources=flyte.Resources(cpu=1, memory='250Mi'))\n"
        "@env.task\nasync def draw(number: int) -> tuple[float, float]:\n    import numpy as np\n"
        "    return random.random(), float(np.random.rand())\n"
        "@env.task\nasync def many(count: int) -> list[tuple[float, float]]:\n    import asyncio\n"
        "    return list(await asyncio.gather(*(draw(number) for number in range(count))))"
    ).ok()
    found = kernel.value("flyte.run(many, 100).outputs()[0]")
    assert 100 == len({first for first, _ in found}) == len({second for _, second in found})
    tried = kernel.run(
        "%%flyte_task --retries 1\nimport os, random\nif os.environ['FLYTE_ATTEMPT_NUMBER'] == '0':\n"
        "    raise ValueError\n"
        "drawn = random.random()"
    )
    expected = kernel.value("(random.seed(1), random.random())[1]")
    tried.ok()
    assert expected != kernel.value("drawn")
