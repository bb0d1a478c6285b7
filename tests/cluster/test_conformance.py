"""An error of a cell is the same on a cluster as here, with the code of the error sent and without it.

`docs/cluster.md` has the table of what was observed; ``FLYTE_NOTEBOOK_WRITE_DOCS=1 pytest tests/cluster`` writes it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from cluster_kernel import IMAGE, connected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel, Reply
    from loopback.handle import Plane

pytestmark = [
    pytest.mark.jupyter,
    pytest.mark.linux,
    pytest.mark.cgroup,
    pytest.mark.leaves("descriptor", reason="the SDK's client keeps connections as long as the plane is there"),
]

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "cluster.md"
WRITE = "FLYTE_NOTEBOOK_WRITE_DOCS"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way in which a cell fails. ``line`` is the blamed one, empty where an end from outside has none there.

    ``differs`` says why the cluster's error is another, ``lost`` why it is another one without its code; empty where it
    is the same. ``here``: it can happen on this machine. ``stopped``: it is stopped when it has printed something.
    """

    name: str
    body: str
    options: str = ""
    line: str = ""
    differs: str = ""
    lost: str = ""
    here: bool = True
    stopped: bool = False


EITHER: Final = "of the two paths in the backend that tell of such an end, the other one says what a local run says"
PLAIN: Final = "the pod of an ordinary task writes nothing of ours into its log"

ROWS: Final = (
    Row(name="out of memory", body="len([0] * 50_000_000)", options="--memory 200Mi"),
    Row(name="ValueError", body="int('no')", line="int('no')"),
    Row(name="ValueError, three attempts", body="int('no')", options="--retries 2", line="int('no')"),
    Row(name="an exception of the notebook", body="raise OwnError('mine')", line="raise OwnError('mine')"),
    Row(name="sys.exit(3)", body="import sys\nsys.exit(3)", line="sys.exit(3)"),
    Row(name="os._exit(3)", body="import os\nos._exit(3)", differs=EITHER),
    Row(name="SIGSEGV", body="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", differs=EITHER),
    Row(name="SIGKILL that is no OOM", body="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", differs=EITHER),
    Row(name="an allocation that is refused", body="bytearray(1 << 50)", line="bytearray(1 << 50)"),
    Row(name="max_runtime", body="import time\ntime.sleep(60)", options="--timeout 1s"),
    Row(name="a stop", body="import time\nprint('on', flush=True)\ntime.sleep(60)", stopped=True),
    Row(name="ValueError of a nested task", body="await half(-3)", options="--env env", lost=PLAIN),
    Row(name="OOM of a nested task", body="await hungry(50_000_000)", options="--env env"),
    Row(
        name="a class of flyte.errors",
        body="import flyte.errors\nraise flyte.errors.CustomError('TableEmpty', 'nothing to summarise')",
        line="raise flyte.errors.CustomError('TableEmpty', 'nothing to summarise')",
    ),
    Row(name="an image that cannot be pulled", body="1", options="--image example/missing:1", here=False),
)

Seen = tuple[str, str, str, str]


@pytest.fixture(scope="module")
def kernel(plane: Plane) -> Iterator[Kernel]:
    """Give a kernel that is connected to the plane."""
    with connected(plane) as kernel:
        kernel.run(
            "class OwnError(Exception):\n    pass\n\n"
            "@env.task\nasync def hungry(n: int) -> int:\n    return len([0] * n)"
        ).ok()
        yield kernel


def facts(reply: Reply) -> Seen:
    """Return class, kind, code and blamed line of a failure."""
    line = reply.failure["line"]
    return (*(reply.failure[key] for key in ("error", "kind", "code")), "" if line is None else line["text"])


def run(kernel: Kernel, row: Row, go: Path, *, remote: bool) -> Seen:
    """Run the cell of a row here or on the plane."""
    named = "--image" in row.options or "--env" in row.options
    where = "" if not remote else f"--remote {'' if named else f'--image {IMAGE}'}"
    if not row.stopped:
        return facts(kernel.run(f"%%flyte_task {row.options} {where}\n{row.body}"))
    reply = kernel.run(f"%%flyte_task {row.options} {where} --background\n{row.body}").ok()
    kernel.run("handle = _").ok()
    kernel.hold_until(lambda: bool(reply.stdout), go)
    kernel.run("handle.stop()\nassert handle.wait(30)").ok()
    error, kind, code = kernel.value("(type(handle.error).__name__, handle.failure.kind, handle.failure.code)")
    return error, kind, code, ""


@pytest.fixture(scope="module")
def observed() -> dict[str, list[Seen | None]]:
    """Collect what each row gave here, on the plane, and there without the code."""
    return {}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_error_is_the_same_there(
    kernel: Kernel, plane: Plane, observed: dict[str, list[Seen | None]], tmp_path: Path, row: Row
) -> None:
    """Class, kind and code; and the line where Python has raised it."""
    here = run(kernel, row, tmp_path / "here", remote=False) if row.here else None
    faults: dict[str, Any] = {"missing_images": ["example/missing:1"]}
    with plane.faults(**faults):
        there = run(kernel, row, tmp_path / "there", remote=True)
    with plane.faults(**faults, omit_code=True):
        without = run(kernel, row, tmp_path / "without", remote=True)
    observed[row.name] = [here, there, without]
    if here is not None and not row.differs:
        assert here[:3] == there[:3]
    if not row.lost:
        assert there[:3] == without[:3], "the code is in the message, or in the record of the pod"
    assert there[3] == without[3] == row.line


def test_the_page_has_what_was_observed(observed: dict[str, list[Seen | None]]) -> None:
    """All rows, as they are."""
    if len(observed) < len(ROWS):
        pytest.skip("not all rows ran")
    page = DOCS.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    made = before + BEGIN + _table(observed) + END + after
    if WRITE in os.environ:
        DOCS.write_text(made, "utf-8")
    assert made == page or WRITE in os.environ, f"run: {WRITE}=1 pytest tests/cluster"


def _table(observed: dict[str, list[Seen | None]]) -> str:
    head = "| A cell fails by | Here | On the cluster | There, sent without the code | Line, and why it differs |\n"
    return head + "|-|-|-|-|-|\n" + "".join(_row(row, observed[row.name]) for row in ROWS)


def _row(row: Row, seen: list[Seen | None]) -> str:
    there = seen[1]
    cells = ["-" if one is None else " ".join(f"`{part or chr(39) * 2}`" for part in one[:3]) for one in seen]
    same = ["the same" if one == cells[0] and index else one for index, one in enumerate(cells)]
    line = f"`{there[3]}`" if there is not None and there[3] else "not known"
    why = "; ".join(filter(None, [row.differs, row.lost]))
    return f"| {' | '.join([row.name, *same, f'{line}; {why}' if why else line])} |\n"
