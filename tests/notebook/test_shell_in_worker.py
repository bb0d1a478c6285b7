"""IPython in a worker: absent until needed, then a real shell whose displays go up the channel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flyte_notebook.cells.shell_in_worker import plain

if TYPE_CHECKING:
    from pathlib import Path

WORKER = """
import json, os, sys
from flyte_notebook.worker.process import context
from flyte_notebook.cells import shell_in_worker
told = []
context.connect(told.append, os.environ["HOME"])
shell_in_worker.install_lazily()
shell_in_worker.forbid_prompts()
names_before = set(globals())
source = sys.argv[1]
exec(compile(source, "cell", "exec"), globals())
shell_in_worker.finish_cell()
sys.stdout.flush()
answer = {
    "messages": [message["message"] for message in told if message["kind"] == "display"],
    "ipython": "IPython" in sys.modules,
    "new": sorted(set(globals()) - names_before - {"names_before", "source", "answer"}),
}
print("ANSWER" + json.dumps(answer))
"""


def run(source: str, home: Path, **environ: str) -> tuple[dict[str, Any], str]:
    """Run a cell in a process of its own; return what it told and what it wrote to its standard output and error."""
    surroundings = {
        **os.environ,
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONUNBUFFERED": "",
        **environ,
    }
    done = subprocess.run(
        [sys.executable, "-c", WORKER, source],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=surroundings,
        cwd=home,
    )
    text, mark, answer = done.stdout.partition("ANSWER")
    assert mark, done.stdout + done.stderr
    return json.loads(answer), text + done.stderr


def test_a_cell_that_displays_nothing_loads_no_ipython(tmp_path: Path) -> None:
    """Plain code, and figures of another backend, never load IPython, and nothing is told."""
    answer, _ = run("x = 1\nprint(callable(display), callable(get_ipython))", tmp_path)
    assert answer == {"messages": [], "ipython": False, "new": ["x"]}


def test_display_sends_the_whole_bundle_up_the_channel(tmp_path: Path) -> None:
    """The first ``display`` makes the shell; what an object shows of itself goes up with its metadata."""
    answer, text = run(
        """
class Rich:
    def __repr__(self): return "plain"
    def _repr_html_(self): return "<b>rich</b>", {"isolated": True}
print("first")
handle = display(Rich(), display_id="one")
handle.update("newer")
from IPython.display import clear_output
clear_output(wait=True)
display({"text/plain": "raw", "image/png": b"png"}, raw=True)
""",
        tmp_path,
    )
    rich, newer, clear, raw = answer["messages"]
    assert rich == {
        "data": {"text/plain": "plain", "text/html": "<b>rich</b>"},
        "metadata": {"text/html": {"isolated": True}},
        "transient": {"display_id": "one"},
        "update": False,
    }
    assert (newer["data"], newer["update"]) == ({"text/plain": "'newer'"}, True)
    assert clear == {"clear": True}
    assert raw["data"] == {"text/plain": "raw", "image/png": "cG5n"}
    assert text == "first\n"


@pytest.mark.parametrize(
    "source",
    [
        "from IPython.display import display as show\nshow(1)",
        "import IPython.core.display_functions as functions\nfunctions.display(1)",
        "import IPython\nIPython.display.display(1)",
        "import importlib.util\nimportlib.util.find_spec('IPython')\nfrom IPython.display import display\ndisplay(1)",
    ],
)
def test_an_import_of_ipython_by_user_code_sets_the_same_shell_up(tmp_path: Path, source: str) -> None:
    """Whichever way IPython is imported first, its ``display`` goes up the channel and does not print."""
    source += "\nimport IPython\nprint(IPython.get_ipython() is get_ipython(), type(IPython.__loader__).__name__)"
    answer, text = run(source, tmp_path)
    assert [message["data"] for message in answer["messages"]] == [{"text/plain": "1"}]
    assert text == "True SourceFileLoader\n"


def test_two_threads_that_need_ipython_at_once_get_one_shell(tmp_path: Path) -> None:
    """An import in one thread and a first ``display`` in others do not wait for each other for ever."""
    answer, _ = run(
        """
import threading
def show(number):
    if number % 2:
        import IPython
    display(number)
threads = [threading.Thread(target=show, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join(60)
""",
        tmp_path,
    )
    assert sorted(message["data"]["text/plain"] for message in answer["messages"]) == [str(n) for n in range(8)]


def test_the_shell_leaves_namespace_files_and_threads_alone(tmp_path: Path) -> None:
    """No history, no profile, no ``In``, ``Out``, ``open`` or ``exit`` in the user's namespace."""
    answer, text = run(
        """
import builtins, threading
shell = get_ipython()
names = sorted(thread.name for thread in threading.enumerate())
print(open is builtins.open, names, shell.user_ns is globals(), shell.history_manager.enabled)
""",
        tmp_path,
    )
    assert text == "True ['MainThread'] True False\n"
    assert answer["new"] == ["__builtin__", "_dh", "_ih", "_oh", "builtins", "names", "shell", "threading"]
    assert list(tmp_path.rglob("*")) == []


def test_what_another_user_left_for_ipython_is_not_found(tmp_path: Path) -> None:
    """The shell's own directory, with its database and its extensions, is the session's: nobody else writes there."""
    (tmp_path / "everybodys").mkdir()
    _, text = run(
        "print(get_ipython().ipython_dir, get_ipython().profile_dir.location)",
        tmp_path,
        TMPDIR=str(tmp_path / "everybodys"),
    )
    assert f"{tmp_path} {tmp_path}\n" == text


def test_magics_and_shell_commands_work_and_write_to_standard_output(tmp_path: Path) -> None:
    """``!command``, its captured form, ``%cd``, ``%%time`` and ``%timeit`` do what they do in a notebook."""
    answer, text = run(
        """
name = "world"
print("first", flush=False)
get_ipython().system("echo hello {name}; exit 3")
print("status", _exit_code)
lines = get_ipython().getoutput("echo one; echo two $name")
print(list(lines))
get_ipython().run_line_magic("cd", "-q /")
import os
print(os.getcwd())
get_ipython().run_cell_magic("time", "", "timed = 1\\n")
get_ipython().run_line_magic("timeit", "-n1 -r1 pass")
def inside():
    local = "of the function"
    get_ipython().system("echo {local}")
inside()
import io, sys
sys.stdout = io.StringIO()
get_ipython().system("echo to the descriptor")
sys.stdout = sys.__stdout__
""",
        tmp_path,
        SHELL="/bin/sh",
    )
    lines = text.splitlines()
    assert lines[:5] == ["first", "hello world", "status 3", "['one', 'two world']", "/"]
    assert "Wall time" in text
    assert "per loop" in text
    assert "timed" in answer["new"]
    assert lines[lines.index("of the function") + 1] == "to the descriptor"


PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\n"


@pytest.mark.slow
@pytest.mark.parametrize("last", ["plt.show()", "", "get_ipython().run_line_magic('matplotlib', 'inline')"])
def test_figures_go_up_as_png_once(tmp_path: Path, last: str) -> None:
    """A figure that is shown, or left open at the end of the cell, is published once as a PNG in base64."""
    answer, text = run(PLOT + last, tmp_path, MPLBACKEND="module://matplotlib_inline.backend_inline")
    data = [message["data"] for message in answer["messages"]]
    assert [sorted(bundle) for bundle in data] == [["image/png", "text/plain"]], text
    assert data[0]["image/png"].startswith("iVBORw0KGgo")
    assert "Traceback" not in text


def test_figures_of_another_backend_stay_where_they_are(tmp_path: Path) -> None:
    """With a backend that shows nothing, nothing is published and IPython stays away."""
    answer, _ = run(PLOT, tmp_path, MPLBACKEND="agg")
    assert (answer["messages"], answer["ipython"]) == ([], False)


def test_windows_are_refused_with_the_right_magic(tmp_path: Path) -> None:
    """A graphical event loop cannot be had in a worker; the error names what can."""
    _, text = run("try:\n    get_ipython().enable_gui('qt')\nexcept RuntimeError as error:\n    print(error)", tmp_path)
    assert text == "a task cannot open qt windows; use %matplotlib inline\n"


@pytest.mark.parametrize("call", ["input('name? ')", "breakpoint()", "__import__('getpass').getpass()"])
def test_prompts_give_one_clear_error(tmp_path: Path, call: str) -> None:
    """``input()``, ``breakpoint()`` and ``getpass()`` raise at once and say what to do instead."""
    _, text = run(f"try:\n    {call}\nexcept RuntimeError as error:\n    print(error)", tmp_path)
    assert "doesn't work inside a task" in text
    assert len(text.splitlines()) == 1


def test_values_are_made_plain_for_the_channel() -> None:
    """Bytes become base64, keys strings, what JSON has no word for its repr; nesting without end is cut."""
    given = {1: (True, None, 2.5, b"png", float("inf")), "set": {3}, "object": range(2)}
    expected = {"1": [True, None, 2.5, "cG5n", "inf"], "set": [3], "object": "range(0, 2)"}
    assert expected == plain(given)
    endless: list[Any] = []
    endless.append(endless)
    assert json.dumps(plain(endless))


def test_numbers_and_arrays_of_numpy_are_made_plain() -> None:
    """Numpy's scalars and arrays arrive as numbers and lists."""
    numpy = pytest.importorskip("numpy")
    assert plain([numpy.float64(0.5), numpy.int64(2), numpy.bool_(1), numpy.arange(2)]) == [0.5, 2, True, [0, 1]]
