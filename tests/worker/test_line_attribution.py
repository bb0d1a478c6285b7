"""Which line is blamed, what is charged to it, and that nobody waits for memory that cannot be read."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from flyte_notebook.worker.stacks import line_attribution, stack_sample
from flyte_notebook.worker.stacks.line_attribution import LineAttribution
from flyte_notebook.worker.stacks.pystack import Place, Thread
from flyte_notebook.worker.stacks.stack_sample import STUCK_S, SamplerThread

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
HERE = Place("cell", 3, "f")
THERE = Place("cell", 4, "f")
CALLER = Place("cell", 9, "<module>")


class Reader:
    """Stands for what reads a process: its threads, their stacks, and a gate that can be shut."""

    def __init__(self, *stacks: tuple[Place, ...] | None) -> None:
        self.stacks = list(stacks)
        self.gone = self.closed = False
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        yield

    def forget(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def threads(self) -> list[Thread]:
        self.asked.set()
        self.gate.wait(30)
        return [Thread(number, number) for number in range(len(self.stacks))]

    def awaited(self) -> tuple[Place, ...]:
        return ()

    def stack(self, thread: Thread) -> tuple[Place, ...] | None:
        return self.stacks[thread.address]


@pytest.fixture
def lookout(monkeypatch: pytest.MonkeyPatch) -> Iterator[SamplerThread]:
    """Give the test a thread of its own that looks."""
    own = SamplerThread()
    monkeypatch.setattr(line_attribution, "sampler", own)
    yield own
    own.close()


def begun(reader: Reader) -> Any:
    witness: Any = LineAttribution(-1)  # nothing is known of its threads
    witness.give(reader, "")
    return witness


def looked(witness: Any, now: float, used_bytes: int) -> None:
    """Have it looked, and seen."""
    witness.look(now, used_bytes)
    witness._wait(5)


pytestmark = pytest.mark.usefixtures("lookout")


def test_a_change_is_charged_to_the_line_that_is_seen_after_it() -> None:
    """Growth and what is given back stand beside their lines, the largest first; the stack's outermost line first."""
    reader = Reader((HERE, CALLER))
    witness = begun(reader)
    looked(witness, 0.0, 100 * MIB)
    reader.stacks = [(THERE, CALLER)]
    looked(witness, 0.1, 60 * MIB)
    facts = witness.facts(0.2)
    assert [[*HERE, 100 * MIB], [*THERE, -40 * MIB]] == facts["grew"]
    assert [list(CALLER), list(THERE)] == facts["last_line"]["stack"]
    assert "sampled" == facts["last_line"]["how"]


def test_what_could_not_be_read_is_charged_to_the_next_line() -> None:
    """A stack that could not be read loses nothing: the change counts to the line that is seen next."""
    reader = Reader(None)
    witness = begun(reader)
    looked(witness, 0.0, 50 * MIB)
    assert witness.facts(0.1)["last_line"] is None
    reader.stacks = [(HERE,)]
    looked(witness, 0.1, 80 * MIB)
    assert [[*HERE, 80 * MIB]] == witness.facts(0.2)["grew"]


def test_outside_of_the_users_code_there_is_no_line() -> None:
    """When the user's code is left, the line that was seen in it before is not where it stands."""
    reader = Reader((HERE,))
    witness = begun(reader)
    looked(witness, 0.0, 10 * MIB)
    reader.stacks = [()]
    looked(witness, 0.1, 90 * MIB)
    facts = witness.facts(0.2)
    assert facts["last_line"] is None
    assert [[*HERE, 10 * MIB]] == facts["grew"]


def test_with_several_threads_the_one_is_blamed_whose_page_faults_grew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that writes to fresh memory is meant; when a task is stopped for its time, the oldest is."""
    witness = begun(Reader((HERE,), (THERE,)))
    faults = {0: 1_000, 1: 10}
    monkeypatch.setattr(stack_sample, "activity", lambda _, native_id: (faults[native_id], False))
    looked(witness, 0.0, 1 * MIB)
    faults[1] += 500
    looked(witness, 0.1, 9 * MIB)
    looked(witness, 0.2, 9 * MIB)
    assert [list(THERE)] == witness.facts(0.2)["last_line"]["stack"]
    witness.stand(0.3, memory=False)
    assert {"stack": [list(HERE)], "age_s": 0.0, "how": "stopped"} == witness.facts(0.4)["last_line"]


def test_at_the_first_look_all_that_a_new_thread_faulted_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the main thread faulted before the attempt does not: a pool that fills memory at once is blamed."""
    faults = {0: 9_000, 1: 0}
    for module in (stack_sample, line_attribution):
        monkeypatch.setattr(module, "activity", lambda _, native_id: (faults[native_id], False))
    attribution: Any = LineAttribution(0)
    attribution.give(Reader((HERE,), (THERE,)), "")
    faults.update({0: 9_200, 1: 5_000})
    looked(attribution, 0.1, 600 * MIB)
    assert [list(THERE)] == attribution.facts(0.2)["last_line"]["stack"]


WAITS = Place("cell", 5, "f")


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give what the kernel says of the only thread."""
    said: dict[str, Any] = {"faults": 0, "waits": False, "writes": 1}

    def activity(*_: object) -> tuple[int, bool]:
        said["faults"] += said["writes"]
        return said["faults"], said["waits"]

    monkeypatch.setattr(stack_sample, "activity", activity)
    return said


def step(witness: Any, at: int, used_mi: int, stack: tuple[Place, ...]) -> None:
    """Have it looked at when its memory has come to so much."""
    witness._reader.stacks = [stack]
    looked(witness, at * 0.1, used_mi * MIB)


def test_a_thread_that_waits_had_grown_on_the_line_where_it_worked_last(thread: dict[str, Any]) -> None:
    """A loop that leaks a little and sleeps is seen asleep most of the time: the line that sleeps takes no memory."""
    witness = begun(Reader((HERE,)))
    step(witness, 1, 100, (HERE, CALLER))
    for number in range(5):
        thread |= {"faults": thread["faults"] + 1500, "waits": True, "writes": 0}
        step(witness, 2 + number, 106 + 6 * number, (WAITS, CALLER))
    facts = witness.facts(0.9, reached_bytes=134 * MIB)
    assert [[*HERE, 134 * MIB]] == facts["grew"]
    assert {"stack": [list(CALLER), list(HERE)], "how": "grew"} == {
        key: facts["last_line"][key] for key in ("stack", "how")
    }


def test_a_thread_that_was_never_seen_to_write_had_grown_where_it_did_not_wait(thread: dict[str, Any]) -> None:
    """On a machine that has no core for it a thread at work is seen to stand still."""
    witness = begun(Reader((HERE,)))
    thread["writes"] = 0
    step(witness, 1, 1, (HERE, CALLER))
    thread |= {"faults": 1500, "waits": True}
    step(witness, 2, 100, (WAITS, CALLER))
    facts = witness.facts(0.9, reached_bytes=134 * MIB)
    assert [[*HERE, 134 * MIB]] == facts["grew"]
    assert [list(CALLER), list(HERE)] == facts["last_line"]["stack"]


def test_a_thread_that_waits_for_others_who_grow_is_on_its_line(thread: dict[str, Any]) -> None:
    """Its own page faults cannot explain what a child process takes: the line that waits for it is meant."""
    witness = begun(Reader((HERE,)))
    thread["faults"] = 9_000
    step(witness, 1, 40, (HERE, CALLER))
    thread |= {"waits": True, "writes": 0}
    for number in range(5):
        step(witness, 2 + number, 60 + 20 * number, (WAITS, CALLER))
    facts = witness.facts(0.9, reached_bytes=150 * MIB)
    assert [[*WAITS, 110 * MIB], [*HERE, 40 * MIB]] == facts["grew"]
    assert [list(CALLER), list(WAITS)] == facts["last_line"]["stack"]
    assert "sampled" == facts["last_line"]["how"]


def test_what_ended_while_it_waited_is_on_the_line_that_waited(thread: dict[str, Any]) -> None:
    """Where memory is not the reason, a task that slept when it was last seen stood there."""
    witness = begun(Reader((HERE,)))
    step(witness, 1, 100, (HERE, CALLER))
    thread |= {"faults": 1500, "waits": True, "writes": 0}
    step(witness, 2, 106, (WAITS, CALLER))
    assert [list(CALLER), list(WAITS)] == witness.facts(0.9)["last_line"]["stack"]


def test_what_the_kernel_saw_and_no_sample_did_is_the_last_lines() -> None:
    """A task killed at its limit grew to the limit: the rest after the last sample counts to the last line."""
    witness = begun(Reader((HERE,)))
    looked(witness, 0.0, 100 * MIB)
    assert [[*HERE, 250 * MIB]] == witness.facts(0.1, reached_bytes=250 * MIB)["grew"]


def test_nobody_waits_for_a_process_whose_memory_is_held(lookout: SamplerThread) -> None:
    """While one process cannot be read, looking at it returns at once, a kill is not held up, and others are seen."""
    stuck, free = Reader((HERE,)), Reader((THERE,))
    stuck.gate.clear()
    held, seen = begun(stuck), begun(free)
    began = time.monotonic()
    held.look(0.0, 100 * MIB)
    held.look(0.1, 200 * MIB)
    held.stand(0.2, memory=False)
    assert time.monotonic() - began < STUCK_S
    assert held.facts(0.3)["last_line"] is None
    assert stuck.asked.wait(10)
    time.sleep(STUCK_S)
    looked(seen, 0.0, 100 * MIB)
    assert [list(THERE)] == seen.facts(0.1)["last_line"]["stack"]
    stuck.gate.set()
    held._wait(5)
    assert [list(HERE)] == held.facts(0.4)["last_line"]["stack"]


def test_a_worker_without_an_attempt_is_not_looked_at() -> None:
    """A spare is looked at from the moment it is given an attempt."""
    reader: Any = Reader((HERE,))
    witness = LineAttribution(-1, reader)
    assert not witness.sees
    witness.begin(10 * MIB)
    assert witness.sees
    witness.ended(1.0)
    assert not witness.sees
