"""One kernel with the extension loaded, for the tests of many modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kernels import started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

LOAD = """from flyte_notebook.history import History
History.__init__.__defaults__ = (10_000, *History.__init__.__defaults__[1:])  # some tests count the runs
%load_ext flyte_notebook
import gc, os
import flyte, flyte.errors
import flyte_notebook as fn
from flyte_notebook.sdk import enforcement
enforcement.current().engine.wait_until_proven()
gc.collect()
gc.freeze()  # what was imported is no cycle, and a search for them takes a tenth of a second
del enforcement, gc
_kept = {*globals(), "_kept"}
"""

CLEAR = """for _name in [name for name in globals() if name not in _kept and not name.startswith("_")]:
    del globals()[_name]
for _name in ("_", "__", "___"):
    globals().pop(_name, None)  # one that a cell assigned would stay, and not be the last result any more
__import__("builtins").__dict__.pop("_", None)  # nor where something else displayed values, as doctest does
"""


@pytest.fixture(scope="session")
def loaded_kernel() -> Iterator[Kernel]:
    """Give a kernel with the extension loaded, and ``flyte``, ``fn`` and ``os`` imported, to all who share it.

    Its first worker, which proves that there can be some, has come and gone: a test may be over before that.
    """
    with started() as kernel:
        kernel.run(LOAD).ok()
        yield kernel


@pytest.fixture
def kernel(loaded_kernel: Kernel) -> Kernel:
    """Give the shared kernel without the variables of earlier tests."""
    loaded_kernel.run(CLEAR).ok()
    return loaded_kernel
