"""The body of a cell that is a task behaves as the body of a plain cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from kernels import Kernel

pytestmark = pytest.mark.jupyter


def test_the_body_is_module_code(kernel: Kernel) -> None:
    """Classes see globals, functions of the cell pickle, ``__main__`` is the module, nothing is local to a function."""
    reply = kernel.run(
        "%%flyte_task\nimport pickle, sys\nn = 3\nclass K:\n    size = n\n    def __init__(self):\n        self.n = n\n"
        "def f():\n    return [K() for _ in range(n)]\n"
        "copies = pickle.loads(pickle.dumps((f, f())))\n"
        "(copies[0] is f, [type(k) is K for k in copies[1]], __name__, sys.modules['__main__'].K is K)"
    )
    assert "(True, [True, True, True], '__main__', True)" == reply.ok().result


def test_texts_over_several_lines_are_intact(kernel: Kernel) -> None:
    """Indentation, percent signs and exclamation marks inside of a text are not touched."""
    reply = kernel.run('%%flyte_task\ndef f():\n    return """one\n  %two\n!three\n\tfour\\n"""\ntext = f()')
    assert [] == reply.ok().notes
    assert "one\n  %two\n!three\n\tfour\n" == kernel.value("text")


def test_a_cell_may_await_at_top_level(kernel: Kernel) -> None:
    """``await``, ``async for`` and ``async with`` work in statements and in the last expression."""
    reply = kernel.run(
        "%%flyte_task\nimport asyncio, contextlib\nasync def numbers():\n    yield 1\n    yield 2\n"
        "@contextlib.asynccontextmanager\nasync def place():\n    yield 'here'\n"
        "found = [n async for n in numbers()]\nasync for last in numbers(): pass\nasync with place() as where: pass\n"
        "await asyncio.sleep(0, (found, last, where))"
    )
    assert "([1, 2], 2, 'here')" == reply.ok().result


def test_a_cell_without_await_may_start_a_loop_of_its_own(kernel: Kernel) -> None:
    """``asyncio.run(main())`` copied from a script works."""
    reply = kernel.run("%%flyte_task\nimport asyncio\nasync def main():\n    return 5\nasyncio.run(main())")
    assert "5" == reply.ok().result


def test_comments_alone_are_a_cell(kernel: Kernel) -> None:
    """A body without a statement runs and gives nothing."""
    reply = kernel.run("%%flyte_task\n# nothing yet")
    assert (None, "", []) == (reply.ok().result, reply.stderr, reply.shown)


def test_output_streams_to_the_cell(kernel: Kernel) -> None:
    """What is printed, by Python, by a child and by a thread, arrives on the stream it was written to, in order."""
    reply = kernel.run(
        "%%flyte_task\nimport os, subprocess, sys, threading\nprint('one')\nos.write(1, b'two\\n')\n"
        "subprocess.run(['echo', 'three'])\nt = threading.Thread(target=print, args=('four',)); t.start(); t.join()\n"
        "print('bad', file=sys.stderr)\ndel t"
    ).ok()
    assert "one\ntwo\nthree\nfour\n" == reply.stdout
    assert "bad\n" == reply.stderr


HOOK = "get_ipython().events.register('post_execute', lambda: print('hook'))\n"


@pytest.mark.parametrize(
    ("last", "fails"), [("print('body')", False), ("await asyncio.sleep(0)", False), ("1 / 0", True)]
)
def test_what_is_registered_for_the_end_of_a_cell_runs_once(kernel: Kernel, last: str, *, fails: bool) -> None:
    """IPython's ``post_execute`` is for each cell once, whether it ends well or not."""
    reply = kernel.run(f"%%flyte_task\nimport asyncio\n{HOOK}{last}")
    assert fails == (reply.ename is not None)
    assert 1 == reply.stdout.count("hook"), reply.stdout


def test_a_figure_is_shown_once_and_before_its_cell_gives_anything_back(kernel: Kernel) -> None:
    """A figure that is an output is shown when its cell ends, and is closed when it is pickled: it comes once."""
    reply = kernel.run(
        "%%flyte_task\nimport matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\naxes.plot([1, 2])"
    )
    assert 1 == sum("image/png" in shown for shown in reply.ok().shown)
    reply = kernel.run("import matplotlib.pyplot as plt\nplt.get_fignums()")
    assert ("[]", []) == (reply.ok().result, reply.shown)


def test_a_figure_that_comes_back_is_a_picture(kernel: Kernel) -> None:
    """Also one that the task showed, and so closed, in a notebook that has not loaded pyplot yet."""
    kernel.run(
        "%%flyte_task\nimport matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\naxes.plot([1, 2])\nplt.show()"
    ).ok()
    reply = kernel.run("figure").ok()
    (data,) = [content["data"] for kind, content in reply.events if kind == "execute_result"]
    assert "image/png" in data


def test_an_open_file_stays_in_the_task(kernel: Kernel) -> None:
    """One to read from as well as one to write to; it does not come back as another object."""
    reply = kernel.run("%%flyte_task\nsource = open('/etc/hostname')\nsink = open('/dev/null', 'w')\nn = 3").ok()
    files = "`sink` (_io.TextIOWrapper), `source` (_io.TextIOWrapper)"
    assert [f"{files} cannot be pickled and stay in the task"] == reply.notes
    assert (False, False, 3) == kernel.value("('source' in globals(), 'sink' in globals(), n)")


def test_a_task_that_is_no_cell_ends_as_a_cell_does(kernel: Kernel) -> None:
    """What a task leaves open is shown when it ends, and what is registered for the end of a cell runs once."""
    task = (
        "env = flyte.TaskEnvironment(name='ends')\n@env.task\nasync def ends() -> int:\n"
        "    import matplotlib.pyplot as plt\n    from IPython import get_ipython\n"
        f"    {HOOK}    plt.plot([1, 2])\n    return 7\n"
    )
    reply = kernel.run(task + "flyte.run(ends).outputs()[0]")
    assert "7" == reply.ok().result
    assert (1, 1) == (reply.stdout.count("hook"), sum("image/png" in shown for shown in reply.shown))


def test_rich_display_works(kernel: Kernel) -> None:
    """HTML, figures and data frames are shown by ``display``, at the end of the cell, and as the last value."""
    reply = kernel.run(
        "%%flyte_task\nfrom IPython.display import HTML\nimport matplotlib.pyplot as plt, pandas as pd\n"
        "display(HTML('<b>hi</b>'))\nplt.plot([1, 2])\npd.DataFrame({'column': [1]})"
    ).ok()
    html, *_, figure = reply.shown
    assert "<b>hi</b>" == html["text/html"]
    assert "image/png" in figure
    (last,) = [content["data"] for kind, content in reply.events if kind == "execute_result"]
    assert "column" in last["text/html"]


def test_shell_commands_and_line_magics_work(kernel: Kernel) -> None:
    """``!command``, ``x = !command``, line magics and cell magics inside run in the worker."""
    kernel.run("word = 'variable'")
    reply = kernel.run(
        "%%flyte_task\n!echo shell $word {word.upper()}\nlisted = !echo a b\n%time timed = 5\nhere = %pwd\nlisted[0]"
    ).ok()
    assert reply.stdout.startswith("shell variable VARIABLE\n")
    assert "Wall time" in reply.stdout
    assert "'a b'" == reply.result
    assert kernel.value("(timed, here == os.getcwd())") == (5, True)
    inside = kernel.run("%%flyte_task\n%%time\ninner = 6\ninner + 1").ok()
    assert ("7", 6) == (inside.result, kernel.value("inner"))


def test_magics_around_the_cell_work(kernel: Kernel) -> None:
    """``%%time`` and ``%%capture`` above ``%%flyte_task`` time and capture it."""
    timed = kernel.run("%%time\n%%flyte_task\n1 + 1").ok()
    assert "Wall time" in timed.stdout
    assert "2" == timed.result
    quiet = kernel.run("%%capture seen\n%%flyte_task\nprint('said')\n5").ok()
    assert ("", None) == (quiet.stdout, quiet.result)
    assert "said\n" == kernel.value("seen.stdout")


def test_ipython_is_loaded_only_when_it_is_needed(kernel: Kernel) -> None:
    """Before the first line that uses it, a cell does not pay for it."""
    kernel.run(
        "%%flyte_task\nimport sys\nbefore = 'IPython' in sys.modules\n%pwd\nafter = 'IPython' in sys.modules"
    ).ok()
    assert (False, True) == kernel.value("(before, after)")


TASKS = """
env = flyte.TaskEnvironment(name="lab", resources=flyte.Resources(memory="180Mi"))
offset = 100
def shifted(n): return n + offset
@env.task
async def other(n: int) -> int:
    return shifted(n)
@env.task
def blocking(n: int) -> int:
    return shifted(n) + 1
"""


def test_tasks_of_other_cells_are_called_under_their_own_limits(kernel: Kernel) -> None:
    """A call inside of the cell becomes an action of its own, child of the cell's, in a process of its own."""
    kernel.run(TASKS).ok()
    reply = kernel.run("%%flyte_task caller --memory 200Mi\n(await other(3), await blocking.aio(3))")
    assert "(103, 104)" == reply.ok().result
    assert [
        ("caller", None, 200 << 20),
        ("lab.other", "a0", 180 << 20),
        ("lab.blocking", "a0", 180 << 20),
    ] == kernel.value("[(a.task_name, a.parent, a.limits.memory_bytes) for a in fn.last_run.actions]")
    assert "104" == kernel.run("%%flyte_task\nblocking(3)").ok().result


def test_tasks_of_the_cell_itself_are_called_under_their_own_limits(kernel: Kernel) -> None:
    """A task that the cell defines can be called in it, and in the notebook afterwards."""
    reply = kernel.run(
        "%%flyte_task\nimport flyte\ninner = flyte.TaskEnvironment(name='inner', "
        "resources=flyte.Resources(memory='170Mi'))\n@inner.task\nasync def twice(n: int) -> int:\n    return 2 * n\n"
        "await twice(4)"
    )
    assert "8" == reply.ok().result
    assert [None, 170 << 20] == kernel.value("[a.limits.memory_bytes for a in fn.last_run.actions]")
    assert "10" == kernel.run("await twice(5)").ok().result


def test_a_named_cell_can_be_called_in_another(kernel: Kernel) -> None:
    """A cell's task is a task like any other inside of a cell, recoverable when it dies."""
    kernel.run("x = 1")
    kernel.run("%%flyte_task hungry --memory 60Mi --no-raise\nlarge = b'x' * (x * 100_000_000)\nlen(large)")
    reply = kernel.run(
        "%%flyte_task\nimport flyte, flyte.errors\ntry:\n    size = await hungry(x=1)\n"
        "except flyte.errors.OOMError as error:\n    caught = error.code\n"
        "    size = await hungry.override(resources=flyte.Resources(memory='1Gi'))(x=1)"
    )
    reply.ok()
    assert ("OOMKilled", 100_000_000) == kernel.value("(caught, size)")


def test_the_surroundings_are_those_of_the_notebook(kernel: Kernel, tmp_path: Path) -> None:
    """Each attempt sees the current directory, the environment, ``sys.path`` and what modules say now."""
    module = tmp_path / "local_module.py"
    module.write_text("def v(): return 1\n")
    kernel.run(
        f"import sys\nbefore = os.getcwd(), list(sys.path)\nos.chdir({str(tmp_path)!r})\n"
        "sys.path.insert(0, os.getcwd())\nos.environ['SEEN'] = 'yes'\nimport local_module"
    ).ok()
    look = "%%flyte_task\nseen = os.getcwd(), os.environ.get('SEEN'), local_module.v()"
    kernel.run(look).ok()
    assert (str(tmp_path), "yes", 1) == kernel.value("seen")
    module.write_text("def v(): return 22222\n")
    kernel.run("os.environ['SEEN'] = 'no'")
    kernel.run(look).ok()
    assert (str(tmp_path), "no", 22222) == kernel.value("seen")
    kernel.run("os.chdir(before[0]); sys.path[:] = before[1]; del os.environ['SEEN']").ok()


@pytest.mark.parametrize("call", ["input('who? ')", "breakpoint()"])
def test_nobody_can_be_asked(kernel: Kernel, call: str) -> None:
    """A prompt gives one clear error at once, on its line, that says what to do instead."""
    reply = kernel.run(f"%%flyte_task\n{call}")
    assert "RuntimeUserError" == reply.ename
    assert "doesn't work inside a task. " in reply.evalue
    assert "> 2 | " + call in reply.traceback


def test_the_end_of_a_process_is_the_end_of_a_script(kernel: Kernel, tmp_path: Path) -> None:
    """After the result atexit handlers run and open files are flushed; what takes longer than 2 s is cut off."""
    kernel.run(f"place = {str(tmp_path)!r}")
    reply = kernel.run(
        "%%flyte_task\nimport atexit, time\natexit.register(time.sleep, 60)\n"
        "atexit.register(lambda: open(place + '/handler', 'w').write('ran'))\n"
        "kept_open = open(place + '/text', 'w'); kept_open.write('flushed')\nstarted_s = time.time()\n1"
    )
    assert "1" == reply.ok().result
    assert kernel.value("__import__('time').time() - started_s") < 20
    assert "ran" == (tmp_path / "handler").read_text()
    assert "flushed" == (tmp_path / "text").read_text()


def test_pools_of_processes_end_before_exit_handlers_and_pools_of_threads_are_left(kernel: Kernel) -> None:
    """As at the end of a program, where joblib waits for processes that still start; a thread holds up no task."""
    reply = kernel.run(
        "%%flyte_task\nimport atexit, concurrent.futures, threading, time\n"
        "atexit.register(print, 'at exit')\nthreading._register_atexit(print, 'pools')\n"
        "threads = concurrent.futures.ThreadPoolExecutor(1)\n_ = threads.submit(time.sleep, 60)\nprint('body')"
    ).ok()
    assert "body\npools\nat exit\n" == reply.stdout


def test_what_a_cell_started_does_not_outlive_it(kernel: Kernel) -> None:
    """Children and threads that are left running are ended with the task."""
    kernel.run(
        "%%flyte_task\nimport subprocess, threading, time\nchild = subprocess.Popen(['sleep', '60']).pid\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()"
    ).ok()
    gone = (
        "import time\nfor _ in range(200):\n    try: os.kill(child, 0)\n"
        "    except ProcessLookupError: break\n    time.sleep(0.05)\nelse: raise TimeoutError('the child lives')"
    )
    kernel.run(gone).ok()


def test_a_helper_of_another_cell_shows_its_own_line(kernel: Kernel) -> None:
    """A failure inside of a function of the notebook names the cell where it is written."""
    kernel.run("def helper(n):\n    return 1 / n").ok()
    written = kernel.run("print(len(In) - 2)").stdout.strip()
    reply = kernel.run("%%flyte_task\nhelper(0)")
    assert f"Cell In[{written}], line 2, in helper\n  > 2 | return 1 / n" in reply.traceback
    assert f"Cell In[{written}], line 2, in helper" in reply.card["text/plain"]
    assert "ipykernel_" not in reply.traceback + reply.card["text/plain"] + reply.failure["traceback"]
