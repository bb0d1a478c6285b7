"""What a rerun changes: read from texts, refused with one sentence, and written as the code that does the same."""

from __future__ import annotations

import ast
import itertools
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.core.limits import Limits
from flyte_notebook.core.overrides import (
    MOST_RETRIES,
    Machine,
    Override,
    call_code,
    changes,
    cpu_value,
    describe,
    magic_code,
    quick_choices,
    read,
    resources_with,
    seconds_text,
    timeout_code,
)
from flyte_notebook.core.units import CPU_EXAMPLE, DURATION_EXAMPLE, MEMORY_EXAMPLE
from flyte_notebook.notebook.options import parse_override

if TYPE_CHECKING:
    from flyte_notebook.core.overrides import FieldName

MI = 2**20
GI = 2**30
HERE = Machine(memory_bytes=4 * GI, cpu_cores=2.0, worker_bytes=40 * MI)

BAD: dict[str, tuple[FieldName, str, str]] = {
    "a letter for a digit": ("memory", "6OOMi", f"6OOMi is not a memory quantity; {MEMORY_EXAMPLE}"),
    "a unit of people": ("memory", "250MB", "250MB is not a quantity; write 250M (10^6) or 250Mi (2^20)"),
    "no memory": ("memory", "0", "0 means no memory; write more than zero, for example 250Mi"),
    "less than a worker": (
        "memory",
        "1Ki",
        "1Ki is less than Python and Flyte need (40 MiB). Write for example 128Mi.",
    ),
    "more than the machine": ("memory", "1Ti", "1Ti is more than this machine has (4 GiB)"),
    "more than can be counted": (
        "memory",
        "9Ei",
        "9Ei is more memory than can be counted (8Ei); write less, for example 250Mi",
    ),
    "no cores": ("cpu", "0", f"0 is less than a thousandth of a core; {CPU_EXAMPLE}"),
    "cores in words": ("cpu", "two", f"two is not a CPU quantity; {CPU_EXAMPLE}"),
    "more cores": ("cpu", "2.5", "2.5 is more than this machine has (2 CPU)"),
    "no time": ("timeout", "0", "0 means no time; write more than zero, for example 30s"),
    "time in words": ("timeout", "30 secs", "30 secs is not a duration; write 30s"),
    "negative time": ("timeout", "-5s", f"-5s is not a duration; {DURATION_EXAMPLE}"),
    "half a retry": ("retries", "1.5", "'1.5' is not a number of retries; write a whole number from 0 to 100"),
    "negative retries": ("retries", "-1", "'-1' is not a number of retries; write a whole number from 0 to 100"),
    "too many retries": ("retries", "101", "'101' is not a number of retries; write a whole number from 0 to 100"),
    "digits of another script": ("retries", "٣", "'٣' is not a number of retries; write a whole number from 0 to 100"),
}


@pytest.mark.parametrize(("name", "text", "sentence"), BAD.values(), ids=BAD)
def test_a_bad_value_gets_one_sentence(name: FieldName, text: str, sentence: str) -> None:
    """What was written, why it cannot be, and what would be right; and no override at all."""
    assert {name: sentence} == read({name: text}, HERE)


def test_each_bad_field_has_its_own_sentence() -> None:
    """A field that is right beside them gets none, and nothing is overridden."""
    problems = read({"memory": "x", "cpu": "1", "timeout": "x", "retries": "x"}, HERE)
    assert isinstance(problems, dict)
    assert ["memory", "timeout", "retries"] == list(problems)


def test_a_long_or_hostile_text_gets_a_short_sentence() -> None:
    """The sentence repeats at most the beginning of what was pasted."""
    names: tuple[FieldName, ...] = ("memory", "cpu", "timeout", "retries")
    for text in ("9" * 1_000_000, "\x1b[31m" * 1000, "<script>" * 100, "\u202e1Gi", "\x00"):
        problems = read(dict.fromkeys(names, text), HERE)
        assert isinstance(problems, dict)
        assert list(names) == list(problems)
        assert max(map(len, problems.values())) < 250


def test_texts_are_read_as_people_write_them() -> None:
    """Units, blanks around a value, fractions and compound durations."""
    expected = Override(memory_bytes=GI, cpu_cores=0.5, max_runtime_s=5400.0, retries=0)
    assert expected == read({"memory": " 1Gi ", "cpu": "500m", "timeout": "1h30m", "retries": "0"}, HERE)
    most = read({"retries": str(MOST_RETRIES)}, HERE)
    assert Override(retries=MOST_RETRIES) == most


def test_an_empty_text_leaves_a_setting_alone() -> None:
    """Nothing and blanks mean: as it was."""
    nothing = read({"memory": "", "cpu": " ", "timeout": "\t", "retries": ""}, HERE)
    assert isinstance(nothing, Override)
    assert not nothing
    assert Override() == nothing


def test_what_is_not_known_of_a_machine_refuses_nothing() -> None:
    """1 KiB and 1 TiB are quantities; only a known bound makes them impossible."""
    assert Override(memory_bytes=1024) == read({"memory": "1Ki"}, Machine())
    assert Override(memory_bytes=2**40, cpu_cores=512.0) == read({"memory": "1Ti", "cpu": "512"}, Machine())


def test_the_bounds_themselves_are_possible() -> None:
    """Exactly what a worker needs, and exactly what the machine has."""
    for memory_bytes in (40 * MI, 4 * GI):
        assert Override(memory_bytes=memory_bytes) == read({"memory": str(memory_bytes)}, HERE)
    assert Override(cpu_cores=2.0) == read({"cpu": "2"}, HERE)


def test_an_override_is_true_when_it_changes_something() -> None:
    """No retries is a change; nothing said is none."""
    assert Override(retries=0)
    assert not Override()


def test_only_what_differs_is_a_change() -> None:
    """A form holds every value; what the attempt had already is not overridden."""
    limits = Limits(memory_bytes=250 * MI, cpu_cores=0.5, max_runtime_s=30.0)
    same = Override(memory_bytes=250 * MI, cpu_cores=0.5, max_runtime_s=30.0, retries=2)
    assert Override() == changes(same, limits, 2)
    for other in (
        Override(memory_bytes=GI),
        Override(cpu_cores=1.0),
        Override(max_runtime_s=0.5),
        Override(retries=0),
    ):
        merged = {
            name: getattr(same, name) if getattr(other, name) is None else getattr(other, name)
            for name in Override.__slots__
        }
        assert other == changes(Override(**merged), limits, 2)


CALLS: dict[str, tuple[Override, dict[str, object], str]] = {
    "nothing": (Override(), {}, "oomer(x=5)"),
    "memory": (Override(memory_bytes=GI), {}, 'oomer.override(resources=flyte.Resources(memory="1Gi"))(x=5)'),
    "memory, the rest kept": (
        Override(memory_bytes=GI),
        {"cpu": 1, "memory": "250Mi", "gpu": "A100:1"},
        'oomer.override(resources=flyte.Resources(cpu=1, memory="1Gi", gpu="A100:1"))(x=5)',
    ),
    "cores": (
        Override(cpu_cores=0.5),
        {"memory": ("100Mi", "250Mi")},
        'oomer.override(resources=flyte.Resources(memory=("100Mi", "250Mi"), cpu="500m"))(x=5)',
    ),
    "timeout": (Override(max_runtime_s=90.0), {"cpu": 1}, "oomer.override(timeout=90)(x=5)"),
    "half a second": (
        Override(max_runtime_s=0.5),
        {},
        "oomer.override(timeout=datetime.timedelta(seconds=0.5))(x=5)",
    ),
    "retries": (Override(retries=3), {}, "oomer.override(retries=3)(x=5)"),
    "no retries": (Override(retries=0), {}, "oomer.override(retries=flyte.RetryStrategy(count=0))(x=5)"),
}


@pytest.mark.parametrize(("override", "declared", "code"), CALLS.values(), ids=CALLS)
def test_the_code_is_the_call_that_a_click_makes(override: Override, declared: dict[str, object], code: str) -> None:
    """Only what changes is written, resources are written whole, and a coroutine is awaited."""
    for awaited, before in ((False, ""), (True, "await ")):
        given = call_code("oomer", override, declared=declared, inputs={"x": "5"}, awaited=awaited)
        assert before + code == given


def test_every_combination_is_a_program() -> None:
    """Whatever is overridden, with whatever inputs, Python can read it, and the inputs stand in it unchanged."""
    values = ((None, GI, 1000), (None, 2.0, 0.001), (None, 30.0, 0.1, 1e-7, 123456789.5), (None, 0, 7))
    texts = ["it's", 'say "so"', "both ' and \"", "back\\slash", "\n\u202e\x00", ""]
    inputs = {f"x{index}": repr(text) for index, text in enumerate(texts)} | {"df": "df"}
    for memory, cpu, timeout, retries in itertools.product(*values):
        override = Override(memory_bytes=memory, cpu_cores=cpu, max_runtime_s=timeout, retries=retries)
        code = call_code("f", override, declared={"shm": "auto"}, inputs=inputs, awaited=False)
        (statement,) = ast.parse(code).body
        assert isinstance(statement, ast.Expr)
        assert isinstance(statement.value, ast.Call)
        given = [ast.literal_eval(keyword.value) for keyword in statement.value.keywords[:-1]]
        assert texts == given


def test_other_bounds_of_a_timeout_are_kept_in_the_code() -> None:
    """An override of ``timeout`` replaces all of it, so that what stays is written too."""
    limits = Limits(max_runtime_s=30.0, deadline_s=600.0, max_queued_time_s=0.5)
    code = timeout_code(60.0, limits)
    assert ("flyte.Timeout(max_runtime=60, max_queued_time=datetime.timedelta(seconds=0.5), deadline=600)") == code
    assert "60" == timeout_code(60.0, Limits(max_runtime_s=30.0))


def test_resources_replace_what_was_declared() -> None:
    """A request and limit become one quantity; what is not overridden stays."""
    declared = {"cpu": (1, 2), "memory": ("1Gi", "2Gi"), "disk": "1Gi"}
    assert {**declared, "cpu": 2, "memory": "3Gi"} == resources_with(
        declared, Override(memory_bytes=3 * GI, cpu_cores=2.0)
    )
    assert ("500m", 4, "1m") == (cpu_value(0.5), cpu_value(4.0), cpu_value(0.001))


@pytest.mark.parametrize("seconds", [0.1, 1e-7, 30.0, 90.5, 1_234_567.5, 999_999_999.25])
def test_seconds_are_written_exactly(seconds: float) -> None:
    """No exponent, no rounding."""
    assert seconds == float(seconds_text(seconds))
    assert "e" not in seconds_text(seconds)


def test_an_override_is_described_in_a_few_words() -> None:
    """What tells one rerun from another on a chart; nothing for one that changes nothing."""
    override = Override(memory_bytes=GI, cpu_cores=0.5, max_runtime_s=1_234_567.5, retries=1)
    assert "1Gi, 0.5 CPU, timeout 1234567.5s, 1 retry" == describe(override)
    assert "0 retries" == describe(Override(retries=0))
    assert "" == describe(Override())


def test_quick_choices_are_multiples_of_the_limit() -> None:
    """Twice and four times as much; none where nothing limited the memory."""
    assert (("×2", 500 * MI), ("×4", 1000 * MI)) == quick_choices(Limits(memory_bytes=250 * MI))
    assert () == quick_choices(Limits())


def test_the_magic_says_only_what_changes() -> None:
    """Each option once, with a value that the magic itself reads."""
    assert "%flyte rerun" == magic_code(Override())
    override = Override(memory_bytes=GI, cpu_cores=0.5, max_runtime_s=0.25, retries=0)
    assert "%flyte rerun --memory 1Gi --cpu 500m --timeout 0.25s --retries 0" == magic_code(override)


def test_the_magic_reads_what_it_wrote() -> None:
    """The line on a card gives the same override when somebody runs it."""
    values = (
        (None, GI, 250 * MI, 1_000_001, 2**40),
        (None, 0.001, 0.5, 3.0),
        (None, 0.25, 1e-7, 90.0, 1_234_567.5),
        (None, 0, 100),
    )
    for memory_bytes, cpu_cores, max_runtime_s, retries in itertools.product(*values):
        override = Override(
            memory_bytes=memory_bytes, cpu_cores=cpu_cores, max_runtime_s=max_runtime_s, retries=retries
        )
        assert override == parse_override(magic_code(override).removeprefix("%flyte rerun"))
