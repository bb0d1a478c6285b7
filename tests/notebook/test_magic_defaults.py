"""Defaults of a person or a team: ``%config FlyteTaskMagics`` in a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flyte_notebook.notebook.defaults import TRAITS
from flyte_notebook.notebook.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

pytestmark = [pytest.mark.jupyter]

LIMITS = "(lambda limits: (limits.memory_bytes, limits.max_runtime_s))(fn.last_run.actions[0].limits)"
MI = 1 << 20


@pytest.fixture
def config(kernel: Kernel) -> Iterator[Kernel]:
    """Return the kernel, and take back what a test sets."""
    yield kernel
    for name in TRAITS:
        kernel.run(f"%config FlyteTaskMagics.{name} = None").ok()


def test_it_lists_every_option_that_is_for_all_cells(config: Kernel) -> None:
    """``%config FlyteTaskMagics`` names each with its meaning, ``%config`` names the class."""
    said = config.run("%config FlyteTaskMagics").ok().stdout
    listed = [name for name in TRAITS if f"FlyteTaskMagics.{name}=" in said]
    assert list(TRAITS) == listed
    assert "hard memory limit" in said
    assert "FlyteTaskMagics" in config.run("%config").ok().stdout
    never = {option.name.removeprefix("--").replace("-", "_") for option in OPTIONS} - set(TRAITS)
    assert {"sweep", "yes", "inputs", "outputs", "background"} == never


def test_a_default_holds_until_a_cell_says_otherwise(config: Kernel) -> None:
    """A default is used where the cell says nothing; an option in the cell overrides it."""
    config.run('%config FlyteTaskMagics.memory = "300Mi"').ok()
    config.run('%config FlyteTaskMagics.timeout = "50s"').ok()
    config.run("%%flyte_task\n1").ok()
    assert (300 * MI, 50.0) == config.value(LIMITS)
    config.run("%%flyte_task --memory 400Mi -t 1m\n1").ok()
    assert (400 * MI, 60.0) == config.value(LIMITS)


def test_an_environment_counts_more_than_a_default(config: Kernel) -> None:
    """A cell that names an environment gets that one's resources."""
    config.run('%config FlyteTaskMagics.memory = "300Mi"').ok()
    config.run("import flyte\nplace = flyte.TaskEnvironment('place', resources=flyte.Resources(memory='200Mi'))").ok()
    config.run("%%flyte_task --env place\n1").ok()
    assert (200 * MI, None) == config.value(LIMITS)


def test_a_cell_may_write_nought(config: Kernel) -> None:
    """``--retries 0`` is an option like any other, not one that was left out."""
    config.run("%config FlyteTaskMagics.retries = 2").ok()
    config.run("%%flyte_task --no-raise --retries 0\n1 / 0").ok()
    assert config.value("len(fn.last_run.actions[0].attempts)") == 1
    config.run("%%flyte_task --no-raise\n1 / 0").ok()
    assert config.value("len(fn.last_run.actions[0].attempts)") == 3


def test_a_default_for_kills_needs_a_limit(config: Kernel) -> None:
    """``on_oom`` raises a limit: it is no default of a cell that has none, and one of a cell that has."""
    config.run('%config FlyteTaskMagics.on_oom = "x2:1Gi"').ok()
    config.run("%%flyte_task\n1").ok()
    assert config.value(LIMITS) == (None, None)
    config.run("%%flyte_task --memory 200Mi\nlen(bytearray(300 << 20))").ok()
    assert config.value(LIMITS) == (400 * MI, None)


def test_a_flag_holds_for_every_cell(config: Kernel) -> None:
    """With ``no_raise`` a failure is shown, and the next cell runs."""
    config.run("%config FlyteTaskMagics.no_raise = True").ok()
    reply = config.run("%%flyte_task\n1 / 0").ok()
    assert "ZeroDivisionError" in reply.shown_text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("memory", "'1 gb'", "memory: 1 gb is not a quantity"),
        ("memory", "'fit'", "memory: fit is not one limit; write a quantity, for example 1Gi"),
        ("retries", "'many'", "retries: many is not a number of retries"),
        ("quiet", "'yes'", "quiet is True or False, not 'yes'"),
    ],
)
def test_a_wrong_value_is_refused_at_once(config: Kernel, name: str, value: str, words: str) -> None:
    """The error says what is wrong, and nothing is set."""
    reply = config.run(f"%config FlyteTaskMagics.{name} = {value}")
    assert words in reply.evalue + reply.stderr + reply.stdout
    config.run("%%flyte_task\n1").ok()
