"""The options of a cell do what they say, in a real kernel; Tab and help know them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.notebook.magics import SUB_COMMANDS
from flyte_notebook.notebook.options import OPTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from kernels import Kernel

pytestmark = pytest.mark.jupyter


def test_memory_cpu_and_times_reach_the_task(kernel: Kernel) -> None:
    """Options are the task's own settings, in the SDK's words, and the limits of its action."""
    kernel.run(
        "%%flyte_task full -m 300Mi -c 500m -t 30s --deadline 10m --max-queued-time 1m -r 2 --max-inline-io 1Mi --quiet"
        "\n1"
    ).ok()
    assert ("300Mi", "500m", 2, 1 << 20) == kernel.value(
        "(full.resources.memory, full.resources.cpu, full.retries.count, full.max_inline_io_bytes)"
    )
    times = "full.timeout.max_runtime, full.timeout.deadline, full.timeout.max_queued_time"
    assert [30.0, 600.0, 60.0] == kernel.value(f"[time.total_seconds() for time in ({times})]")
    fields = ["memory_bytes", "cpu_cores", "max_runtime_s", "deadline_s", "max_queued_time_s"]
    limits = kernel.value(f"[getattr(fn.last_run.actions[0].limits, name) for name in {fields}]")
    assert [300 << 20, 0.5, 30.0, 600.0, 60.0] == limits


@pytest.mark.parametrize(
    ("option", "error"), [("-t 500ms", "MaxRuntimeExceededError"), ("--deadline 1s", "DeadlineExceededError")]
)
def test_times_are_enforced(kernel: Kernel, option: str, error: str) -> None:
    """An endless loop ends when its time is over, with the error that a cluster gives."""
    reply = kernel.run(f"%%flyte_task {option}\nwhile True: pass")
    assert error == reply.ename
    assert reply.evalue.startswith("Action a0 timed out: ")


def test_retries_try_again(kernel: Kernel, tmp_path: Path) -> None:
    """``--retries 1`` runs a second attempt after a failure, and its result counts."""
    kernel.run(f"tries = {str(tmp_path / 'tries')!r}")
    reply = kernel.run(
        "%%flyte_task --retries 1\nimport os\nif not os.path.exists(tries):\n    os.mkdir(tries)\n    raise ValueError"
        "\n'done'"
    )
    assert "'done'" == reply.ok().result
    assert [1, 2] == kernel.value("[attempt.number for attempt in fn.last_run.actions[0].attempts]")
    last = kernel.run("%flyte last").ok().shown_text
    assert "✗ cell (attempt 1)" in last
    assert "✓ cell (attempt 2)" in last


def test_an_environment_gives_the_defaults(kernel: Kernel) -> None:
    """``--env`` takes resources and variables from a TaskEnvironment of the notebook; options override them."""
    kernel.run(
        "lab = flyte.TaskEnvironment(name='laboratory', env_vars={'LAB': 'yes'}, "
        "resources=flyte.Resources(memory='200Mi', cpu=1))"
    )
    reply = kernel.run("%%flyte_task inside -e lab --cpu 0.5\nimport os\nos.environ['LAB']")
    assert "'yes'" == reply.ok().result
    assert ("laboratory.inside", "200Mi", "500m") == kernel.value(
        "(inside.name, inside.resources.memory, inside.resources.cpu)"
    )


def test_the_cache_hits_and_a_changed_helper_misses(kernel: Kernel) -> None:
    """With ``--cache auto`` the second run is not run; a changed function of the notebook makes it run again."""
    kernel.run(f"salt = {uuid.uuid4().hex!r}; big = bytes(2 << 20)\ndef helper(): return 1")
    cell = (
        "%%flyte_task --cache auto\nimport time\nwhen = (salt, time.time(), helper(), len(big))\nother = bytes(2 << 20)"
    )
    assert [] == kernel.run(cell).ok().notes
    first = kernel.value("when")
    assert ["the result is from the cache"] == kernel.run("del when, other").ok().notes + kernel.run(cell).ok().notes
    assert (first, 2 << 20) == kernel.value("(when, len(other))")
    assert "from the cache" in kernel.run("%flyte last").ok().shown_text
    kernel.run("def helper(): return 2")
    assert [] == kernel.run(cell).ok().notes
    assert kernel.value("when")[1:3] != first[1:3]
    plain = kernel.run(cell.replace("auto", "disable")).ok()
    assert [] == plain.notes


def test_a_cached_environment_keeps_what_the_cache_refers_to(kernel: Kernel) -> None:
    """A cell under an environment with a cache hits too, also when its outputs are in a file."""
    kernel.run(f"salt = {uuid.uuid4().hex!r}\nlab = flyte.TaskEnvironment(name='lab', cache='auto')")
    cell = "%%flyte_task -e lab\nlarge = salt.encode() * 100_000"
    kernel.run(cell).ok()
    kernel.run("del large")
    assert ["the result is from the cache"] == kernel.run(cell).ok().notes
    assert 3_200_000 == kernel.value("len(large)")


def test_outputs_above_max_inline_io_are_refused(kernel: Kernel) -> None:
    """The error names the output, its size and the limit, nothing is assigned, and the option is shown."""
    reply = kernel.run("%%flyte_task --max-inline-io 10Ki\nblob = b'x' * 20_000")
    assert ("RuntimeUserError", "InlineIOMaxBytesBreached") == (reply.ename, reply.failure["code"])  # from the task
    assert "the output `blob` of cell has 19.6 KiB" in reply.evalue
    assert "above max_inline_io_bytes=10240 (10 KiB); raise --max-inline-io, or return less" in reply.evalue
    assert not kernel.value("'blob' in globals()")


def test_inputs_above_max_inline_io_are_refused_before_anything_runs(kernel: Kernel) -> None:
    """No process starts; the card says so and names the input."""
    kernel.run("blob = b'x' * 20_000")
    reply = kernel.run("%%flyte_task --max-inline-io 10Ki\nlen(blob)")
    assert "InlineIOMaxBytesBreached" == reply.ename
    assert reply.evalue.startswith("the input `blob` of task cell has 19.")
    assert "above max_inline_io_bytes=10240 (10 KiB)" in reply.evalue
    assert "(it did not start)" in reply.card["text/plain"]
    assert "run_cell_magic" not in reply.traceback + reply.card["text/plain"]
    assert ("InlineIOMaxBytesBreached", 0) == kernel.value(
        "(type(fn.last_run.failure.error).__name__, len(fn.last_run.actions))"
    )


def test_what_this_machine_cannot_enforce_is_said_once(kernel: Kernel) -> None:
    """``--gpu``, ``--disk`` and ``--shm`` are the task's resources; one line each, the first time, says the rest."""
    reply = kernel.run("%%flyte_task odd --gpu 1 --disk 1Gi --shm auto\n1").ok()
    said = [f"[flyte_notebook: {name} is declared but not enforced on this machine]" for name in ("gpu", "disk", "shm")]
    assert said == reply.stderr.splitlines()
    assert "" == kernel.run("%%flyte_task --gpu 1 --disk 1Gi --shm auto\n1").ok().stderr
    assert (1, "1Gi", "auto") == kernel.value("(odd.resources.gpu, odd.resources.disk, odd.resources.shm)")


def test_more_cpu_than_there_is_is_said(kernel: Kernel) -> None:
    """A quota above the machine's cores runs with what there is, and says so."""
    reply = kernel.run("%%flyte_task --cpu 999\n1").ok()
    assert reply.stderr.startswith("[flyte_notebook: cpu=999 is more than this machine has; ")


def test_no_raise_shows_the_card_and_goes_on(kernel: Kernel) -> None:
    """The cell succeeds, shows its card, assigns nothing, and ``_`` is the failure."""
    reply = kernel.run("%%flyte_task --no-raise\nlost = 1\n1 / 0").ok()
    assert "ZeroDivisionError" == reply.failure["code"]
    assert "" == reply.traceback
    assert (True, "ZeroDivisionError", "1 / 0", False) == kernel.value(
        "(_ is fn.last_failure, _.code, _.line.text, 'lost' in globals())"
    )


@pytest.mark.parametrize(
    ("line", "body", "error"),
    [("", "def (", "SyntaxError"), ("", "nowhere", "NameError"), ("--memory 1Mi", "1", "UsageError")],
)
def test_no_raise_does_not_hide_that_nothing_ran(kernel: Kernel, line: str, body: str, error: str) -> None:
    """A cell that could not start has no failure to keep, and fails as ever."""
    reply = kernel.run(f"%%flyte_task --no-raise {line}\n{body}")
    assert ("error", error, []) == (reply.status, reply.ename, reply.shown)


def test_tab_completes_options_and_their_values(kernel: Kernel) -> None:
    """A real complete_request offers the magic, its options, their values, and names of the notebook."""
    kernel.run("lab = flyte.TaskEnvironment(name='lab'); numbers = [1]")
    assert ["%%flyte_task"] == kernel.complete("%%flyte_t")
    names = kernel.complete("%%flyte_task --")
    assert [option.name for option in OPTIONS] == names
    assert ["--memory"] == kernel.complete("%%flyte_task oomer --me")
    assert "250Mi" not in kernel.complete("%%flyte_task --memory 1")
    assert ["128Mi", "128Mi:1Gi:8", "1Gi"] == sorted(kernel.complete("%%flyte_task --memory 1"))
    assert ["lab"] == kernel.complete("%%flyte_task --env ")
    assert "numbers" in kernel.complete("%%flyte_task -i lab,")
    assert ["numbers"] == kernel.complete("%%flyte_task --memory 1Gi\nx = numb")
    assert list(SUB_COMMANDS) == kernel.complete("%flyte ")


def test_help_documents_every_option(kernel: Kernel) -> None:
    """``%%flyte_task?`` and a real inspect_request show every option with its meaning, and examples."""
    for shown in (kernel.inspect("%%flyte_task"), kernel.paged("%%flyte_task?")):
        for option in OPTIONS:
            assert f"{option.right.split()[0]} " in shown + " "
            assert option.meaning in " ".join(shown.split())
        assert "%%flyte_task oomer -m 250Mi -c 1 -t 30s -r 1" in shown
    asked = kernel.run("%%flyte_task --help\n1")
    assert "%%flyte_task? shows the help" in asked.stderr


def test_line_magics_tell_what_ran(kernel: Kernel) -> None:
    """``%flyte last``, ``%flyte runs`` and ``%flyte doctor`` show text; an unknown word names those there are."""
    kernel.run("%%flyte_task shown --memory 200Mi\n1").ok()
    last = kernel.run("%flyte last").ok().shown_text
    assert last.startswith("shown · run shown-")
    assert " of 200 MiB" in last
    kernel.run("%%flyte_task\n1").ok()
    assert ", no limit" in kernel.run("%flyte last").ok().shown_text
    runs = kernel.run("%flyte runs").ok().shown_text.splitlines()
    assert ["run", "task", "actions", "peak", "limit", "outcome"] == runs[0].split()
    assert "shown" in runs[-2]
    assert "memory" in (kernel.run("%flyte doctor").ok().result or "")
    commands = kernel.run("%flyte").ok().result or ""
    assert all(f"%flyte {name}" in commands for name in SUB_COMMANDS)
    assert "no such command; did you mean %flyte doctor?" in kernel.run("%flyte doctr").stderr
    unknown = kernel.run("%flyte what")
    there_are = ", ".join(SUB_COMMANDS)
    assert f"UsageError: %flyte what: there is no such command; there are {there_are}\n" == unknown.stderr
