"""Whatever tasks raise and show, what their notebook holds of it has a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from programs import facts_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.cgroup

MI = 1 << 20

PROGRAM = """
import gc

class Large(Exception):
    pass

def failing(error, **values):
    error.__dict__.update(values)
    raise error

def chained(number):
    error = flyte.errors.RuntimeUserError("Code", chr(0x1F600) * 1_000_000)
    if number:
        try:
            chained(number - 1)
        except flyte.errors.RuntimeUserError as below:
            raise error from below
    raise error

FAILURES = {
    "attribute": lambda: failing(Large("text"), data=bytes(100_000_000)),
    "arguments": lambda: failing(Large(*[f"text {number}" for number in range(200_000)])),
    "text": lambda: failing(ValueError("x" * 25_000_000)),
    "text that travels": lambda: failing(ValueError("x" * 3_900_000)),
    "wide text": lambda: failing(ValueError(chr(0x1F600) * 3_000_000)),
    "small as a pickle": lambda: failing(Large("text"), data=[set() for _ in range(100_000)]),
    "code": lambda: failing(flyte.errors.RuntimeUserError("x" * 10_000_000, "text")),
    "values of Flyte's": lambda: failing(flyte.errors.RuntimeUserError("Code", "text"), data=[[]] * 2_000_000),
    "note": lambda: failing(ValueError("text"), __notes__=["x" * 10_000_000]),
    "causes": lambda: chained(4),
    "name": lambda: failing(type("x" * 10_000_000, (Exception,), {})("text")),
    "file and line": lambda: exec(compile(f"x = '{'x' * 3_000_000}'; 1 / 0", "x" * 10_000_000, "exec")),
}
env = flyte.TaskEnvironment(name="large", resources=flyte.Resources(cpu=1, memory="900Mi"))

@env.task
async def fail(how: str) -> int:
    FAILURES[how]()

@env.task
async def show() -> int:
    print("x" * 40_000_000)
    raise Large("text")

def told(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

def resident():
    gc.collect()
    return told("VmRSS")

def failed(task, *arguments):
    try:
        flyte.run(task, *arguments)
    except flyte.errors.BaseRuntimeError as error:
        return type(error.failure).__name__

sys.stdout = open(os.devnull, "w")
with fn.enable():
    session = enforcement.current()
    failed(fail, "none")
    grown = {}
    for how in FAILURES:
        before, said = resident(), failed(fail, how)
        grown[how] = [said, told("VmHWM") - before, resident() - before]
    # A part of the real budget, which thirty of these would not fill.
    session.history._budget._most_bytes, before = 16 << 20, resident()
    for _ in range(12):
        failed(fail, "text that travels")
    kept = resident() - before
    grown["show"] = [failed(show), told("VmHWM") - before, 0]
sys.stdout = sys.__stdout__
facts(grown=grown, kept=kept)
"""


def test_failures_grow_the_notebook_by_a_bounded_amount(tmp_path: Path) -> None:
    """One by 64 MiB at most on the way and by much less afterwards, many by no more than the history may hold."""
    found = facts_of(PROGRAM, tmp_path)
    for how, (said, most_bytes, kept_bytes) in found["grown"].items():
        assert ("Failure", True) == (said, most_bytes <= 64 * MI), (how, most_bytes >> 20)
        assert kept_bytes <= 24 * MI, (how, kept_bytes >> 20)
    assert found["kept"] <= 32 * MI
