"""A ``%%flyte_task`` cell beside the same plain cell, in one kernel: what a person sees of both, and what stays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernels import Kernel, Reply

ADDRESS = re.compile(r"0x[0-9a-f]+")

CLEAR = """for _name in [name for name in globals() if name not in _kept and not name.startswith("_")]:
    del globals()[_name]
"""


@dataclass(frozen=True)
class Case:
    """Cells that are run before, plain, the cell that is compared, and an expression that is looked at afterwards."""

    cell: str
    setup: str = ""
    after: str = "None"
    options: str = ""


@dataclass(frozen=True)
class Seen:
    """What a cell did, as a person sees it."""

    result: str | None
    stdout: str
    error: str | None
    after: str

    @classmethod
    def of(cls, reply: Reply, error: str | None, after: str) -> Seen:
        """Return it, without addresses, which differ from process to process."""
        result, stdout, after = (ADDRESS.sub("0x", text) for text in (reply.result or "", reply.stdout, after))
        return cls(result or None, stdout, error, after)


def both(kernel: Kernel, case: Case) -> tuple[Seen, Seen]:
    """Return what was seen of the plain cell, and of the task."""
    return _one(kernel, case, ""), _one(kernel, case, f"%%flyte_task {case.options}\n")


def _one(kernel: Kernel, case: Case, magic: str) -> Seen:
    kernel.run(CLEAR).ok()
    if case.setup:
        kernel.run(case.setup).ok()
    reply = kernel.run(magic + case.cell)
    error = None if reply.ename is None else f"{reply.ename}: {reply.evalue}"
    if magic and reply.ename == "RuntimeUserError":  # as from a cluster: the class of what was raised is its code
        error = str(kernel.value("f'{fn.last_failure.code}: {fn.last_failure.message}'"))
    after = kernel.run(case.after)
    return Seen.of(reply, error, after.result or f"{after.ename}: {after.evalue}")
