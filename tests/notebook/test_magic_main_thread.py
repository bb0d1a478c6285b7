"""The body of a task cell runs where a plain cell runs: on the main thread, under a running event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from beside import Case, both

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = pytest.mark.jupyter

NESTED = "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    return 5\n"

CASES = {
    "an alarm": Case(
        "import signal, time\ndef late(number, frame):\n    raise TimeoutError('late')\n"
        "signal.signal(signal.SIGALRM, late)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.05)\ntry:\n    time.sleep(5)\nexcept TimeoutError as error:\n"
        "    print(error)\n"
        "signal.signal(signal.SIGALRM, signal.SIG_DFL)\n0"
    ),
    "a handler of signals": Case(
        "import signal\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)\nsignal.getsignal(signal.SIGUSR1)"
    ),
    "the thread": Case("import threading\nthreading.current_thread() is threading.main_thread()"),
    "the loop": Case("import asyncio\nloop = asyncio.get_event_loop()\nprint(loop.is_running())\ndel loop"),
    "the running loop": Case("import asyncio\nasyncio.get_running_loop() is asyncio.get_event_loop()"),
    "a future": Case(
        "import asyncio\nfound = asyncio.get_event_loop().create_future()\nfound.set_result(1)\n"
        "print(found.done())\ndel found"
    ),
    "a task that nobody awaits": Case(
        "import asyncio\nheard = []\nasync def tell():\n    heard.append(1)\nasyncio.create_task(tell())\nprint(heard)",
        after="heard",
    ),
    "ensure_future": Case("import asyncio\nasync def tell():\n    print('told')\nasyncio.ensure_future(tell());"),
    "asyncio.run": Case(NESTED + "asyncio.run(main())"),
    "run_until_complete": Case(NESTED + "asyncio.get_event_loop().run_until_complete(main())"),
    "two loops, one in the other": Case(
        NESTED
        + "async def outer():\n    return asyncio.get_event_loop().run_until_complete(main()) + 1\nasyncio.run(outer())"
    ),
    "a task, then run_until_complete": Case(
        NESTED + "task = asyncio.get_event_loop().create_task(main())\n"
        "print(asyncio.get_event_loop().run_until_complete(task))\ndel task"
    ),
    "a StopIteration": Case("next(iter(()))"),
    "an interrupt": Case("raise KeyboardInterrupt"),
    "a context variable": Case(
        "import contextvars\nkept = contextvars.ContextVar('kept')\nkept.set(5)\nprint(kept.get())\ndel kept"
    ),
    "a loop of its own in a thread": Case(
        NESTED
        + "import threading\nfound = []\nthread = threading.Thread(target=lambda: found.append(asyncio.run(main())))\n"
        "thread.start()\nthread.join()\nprint(found)\ndel thread"
    ),
}


@pytest.mark.parametrize("ending", ["", "\nimport asyncio\nawait asyncio.sleep(0)"], ids=["as it is", "with an await"])
@pytest.mark.parametrize("name", CASES)
def test_a_task_cell_is_where_a_plain_cell_is(kernel: Kernel, name: str, ending: str) -> None:
    """What it prints, gives and raises is the same; an ``await`` in the cell changes nothing."""
    case = CASES[name]
    plain, task = both(kernel, Case(case.cell + ending, case.setup, case.after))
    assert plain == task
