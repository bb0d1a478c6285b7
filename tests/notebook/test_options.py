"""The first line of a ``%%flyte_task`` cell: what is read, what is refused with which words, what Tab offers."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from flyte_notebook.experiments.sweeping import MemoryRange, Over
from flyte_notebook.notebook import options
from flyte_notebook.notebook.completion import Names, complete, install_completer
from flyte_notebook.notebook.option_help import help_text
from flyte_notebook.notebook.options import CellOptions, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

MiB = 2**20


@pytest.fixture(scope="module")
def shell() -> Iterator[InteractiveShell]:
    """Give a shell without history, and forget it afterwards."""
    settings = Config()
    settings.HistoryManager.enabled = False
    settings.HistoryAccessor.enabled = False
    yield InteractiveShell.instance(config=settings)
    InteractiveShell.clear_instance()


def test_a_line_with_every_option_is_read() -> None:
    """Each option reaches its field in bytes, cores or seconds, and the one bare word is the name."""
    line = (
        "oomer -m 250Mi -c 500m --gpu A100:1 --disk 10Gi --shm auto -t 30s --deadline 10m --max-queued-time 1m -r 2 "
        "-e env -i a,b -o x --cache auto --max-inline-io 10Mi --no-raise --quiet"
    )
    expected = CellOptions(
        name="oomer",
        memory_bytes=250 * MiB,
        cpu_cores=0.5,
        gpu="A100:1",
        disk="10Gi",
        shm="auto",
        max_runtime_s=30.0,
        deadline_s=600.0,
        max_queued_time_s=60.0,
        retries=2,
        env="env",
        inputs=("a", "b"),
        outputs=("x",),
        cache="auto",
        max_inline_io_bytes=10 * MiB,
        no_raise=True,
        quiet=True,
    )
    assert expected == parse(line)
    fields = {field.name for field in dataclasses.fields(CellOptions)}
    offered = {option.field for option in options.OPTIONS}
    assert fields == {"name", "fit", "memory_range"} | offered


def test_a_limit_may_be_left_to_be_found() -> None:
    """``--memory fit`` is no limit, and says so in a field of its own."""
    assert CellOptions(name="oomer", fit=True) == parse("oomer --memory fit")


def test_a_line_may_ask_for_a_sweep() -> None:
    """A range of limits and the values of an input have fields of their own."""
    limits = MemoryRange(first_bytes=128 * MiB, last_bytes=1024 * MiB, count=8, spacing="log")
    expected = CellOptions(name="oomer", memory_range=limits, over=Over(name="x", values=(1, 2)), yes=True)
    assert expected == parse("oomer --memory 128Mi:1Gi:8:log --sweep x=1,2 --yes")
    assert expected.sweeps


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("--sweep x='a','b c'", ("a", "b c")),
        ("--sweep=x=1,2", (1, 2)),
        ('--sweep "x=1, 2, 4"', (1, 2, 4)),
        ("--sweep x=[1, 2],(3, 4) --quiet", ([1, 2], (3, 4))),
        ("--sweep x=-1,2  # more", (-1, 2)),
    ],
)
def test_the_values_of_a_sweep_keep_their_quotation_marks(line: str, values: tuple[Any, ...]) -> None:
    """They are Python literals, and not words of a shell."""
    over = parse(line).over
    assert over is not None
    assert values == over.values


def test_an_empty_line_says_nothing() -> None:
    """Without options every field keeps its default, so that an environment's settings count."""
    assert CellOptions() == parse("")
    assert CellOptions() == parse("   # only a comment")


@pytest.mark.parametrize(
    "line",
    ["--memory 250Mi", "--memory=250Mi", "-m 250Mi", "-m=250Mi", "-m250Mi", "--memory '250Mi'", '--memory="250Mi"'],
)
def test_a_value_may_be_attached_or_follow_and_may_be_quoted(line: str) -> None:
    """All spellings of one option mean the same."""
    assert CellOptions(memory_bytes=250 * MiB) == parse(line)


def test_names_in_lists_are_read_with_spaces_and_without_repeats() -> None:
    """Lists are split at commas, and a name that stands twice counts once; an empty list is no list to infer."""
    assert parse('-i "a, b,a"').inputs == ("a", "b")
    assert parse("--inputs=").inputs == ()
    assert parse("").inputs is None


@pytest.mark.parametrize("word", ["$name", "{name}"])
def test_variables_of_the_notebook_are_not_put_into_the_line(word: str) -> None:
    """``$name`` and ``{name}`` stay as they are, so they are no valid name."""
    with pytest.raises(UsageError) as caught:
        parse(word)
    assert repr(word) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "named", "right"),
    [
        ("--memory 250MB", "--memory", "250M"),
        ("--memory", "--memory", "--memory 250Mi"),
        ("--memory --cpu 1", "--memory", "--memory 250Mi"),
        ("--memory 1Gi -m 2Gi", "--memory", "--memory 250Mi"),
        ("--memory 128Mi:1Gi", "--memory", "128Mi:1Gi:8"),
        ("--memory 1Gi:128Mi:8", "--memory", "128Mi:1Gi:8"),
        ("--sweep x", "--sweep", "x=1,2,4,8"),
        ("--sweep", "--sweep", "x=1,2,4,8"),
        ("--sweep x=a,b", "--sweep", "x='a','b'"),
        ("--sweep x=1, 2", "--sweep", "without spaces"),
        ("--memory fit --sweep x=1,2", "--sweep", "--memory 128Mi:1Gi:8"),
        ("--sweep x=1,2 --background", "a sweep", "--background"),
        ("--yes", "--yes", "--memory 128Mi:1Gi:8"),
        ("--memory fit --background", "--memory fit", "--background"),
        ("--cpu none", "--cpu", "0.5"),
        ("--gpu 0", "--gpu", "A100:1"),
        ("--disk lots", "--disk", "--disk 10Gi"),
        ("--timeout 30sec", "--timeout", "30s"),
        ("--timeout 2 minutes", "--timeout", "write number and unit as one word, for example --timeout 30s"),
        ("slow --memory 250 Mi", "--memory", "write number and unit as one word, for example --memory 250Mi"),
        ("--retries -1", "--retries", "0, 1, 2"),
        ("--retries two", "--retries", "0, 1, 2"),
        ("--env my-env", "--env", "--env ENV"),
        ("--inputs a,1b", "--inputs", "--inputs a,b"),
        ("--outputs class", "--outputs", "--outputs x,y"),
        ("--cache maybe", "--cache", "--cache auto"),
        ("--quiet=yes", "--quiet", "--quiet"),
        ("--mem 1Gi", "--mem", "--memory 250Mi"),
        ("--timout 30s", "--timout", "--timeout 30s"),
        ("--cpus 2", "--cpus", "--cpu 0.5"),
        ("--MEMORY 1Gi", "--MEMORY", "--memory 250Mi"),
        ("-memory 1Gi", "-memory", "--memory 250Mi"),
        ("--max-runtime 3s", "--max-runtime", "--timeout 30s"),
        ("--name oomer", "--name", "NAME"),
        ("--zzz", "--zzz", "%%flyte_task?"),
        ("--image repo/x:1", "--image", "--remote"),
        ("--remote --memory fit", "--memory fit", "--remote"),
        ("--on-oom x1:4Gi", "--on-oom", "for example 2"),
        ("--on-oom x2", "--on-oom", "x2:4Gi"),
        ("--on-oom x2:4GB", "--on-oom", "x2:4Gi"),
        ("class", "NAME", "%%flyte_task oomer"),
        ("my-task", "NAME", "%%flyte_task oomer"),
        ("250Mi", "NAME", "--memory 250Mi"),
        ("one two", "a task name is one word", "one_two"),
        ("one 30s", "a task name is one word", "--timeout 30s"),
        ("--inputs 'a, b", "quotation mark", '--inputs "a, b"'),
    ],
)
def test_bad_input_gets_one_line_that_names_it_and_shows_what_is_right(line: str, named: str, right: str) -> None:
    """A usage error is one line with the option, what was wrong, and how to write it."""
    with pytest.raises(UsageError) as caught:
        parse(line)
    message = str(caught.value)
    assert message.startswith("%%flyte_task: ")
    assert "\n" not in message
    assert named in message
    assert right in message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--memory 250MB", "--memory: 250MB is not a quantity; write 250M (10^6) or 250Mi (2^20)"),
        ("--memory", "--memory needs a value, for example --memory 250Mi"),
        ("--cpu 0", "--cpu: 0 is less than a thousandth of a core; write "),
        ("--timeout 0", "--timeout: 0 means no time; write more than zero, for example 30s"),
        ("--retries many", "--retries: many is not a number of retries; write 0, 1, 2, ..."),
        ("-o 1x", "--outputs: '1x' is not a Python name; write for example --outputs x,y"),
        ("--cache yes", "--cache: 'yes' is not one of auto, disable; write --cache auto"),
        ("--project flytesnacks", "--project is for a cluster; write it with --remote"),
        ("--on-oom 2:4Gi", "--on-oom: '2:4Gi' is no factor or step with a cap; write x2:4Gi or +512Mi:4Gi"),
        ("-m 250Mi --on-oom x2:1Gi --background", "--on-oom runs the cell again and waits for it; leave out"),
        ("-m fit --on-oom x2:1Gi", "--memory fit finds the limit itself; leave out --on-oom"),
        ("'open", "a quotation mark is not closed; quote a value on both sides"),
    ],
)
def test_a_bad_option_gets_one_line(line: str, said: str) -> None:
    """It names the option, says what was wrong and shows what is right."""
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert str(caught.value).startswith(f"%%flyte_task: {said}")
    assert "\n" not in str(caught.value)


def test_every_example_and_typical_value_can_be_read() -> None:
    """What the table shows as right is right."""
    for option in options.OPTIONS:
        for value in (*option.typical, *option.choices, *([option.example] if option.metavar else [])):
            remote = " --remote" if option.name in {"--image", "--project", "--domain"} else ""
            assert parse(f"{option.name} {value}{remote}") != CellOptions(), (option.name, value)
    for example in options.EXAMPLES:
        assert parse(example.removeprefix(options.MAGIC)) != CellOptions()


def test_help_shows_every_option_aligned_and_only_those_offered() -> None:
    """The help text has each option of this version once, with the meanings in one column of an 80-column terminal."""
    text = help_text()
    assert max(map(len, text.splitlines())) <= 80
    said = " ".join(text.split())
    columns = set()
    for option in options.OPTIONS:
        assert option.meaning in said, option.name
        rows = [line for line in text.splitlines() if re.match(rf"  (-\w, |    ){option.name} ", line)]
        assert len(rows) == 1, option.name
        columns.update(8 + match.start(1) for row in rows if (match := re.search(r"\S  +(\S)", row[8:])))
    assert len(columns) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--mem", ["--memory"]),
        ("oomer --max", ["--max-queued-time", "--max-inline-io"]),
        ("--memory ", ["128Mi", "256Mi", "512Mi", "1Gi", "2Gi", "4Gi", "fit", "128Mi:1Gi:8"]),
        ("--memory 2", ["256Mi", "2Gi"]),
        ("--memory=2", ["256Mi", "2Gi"]),
        ("-m 1", ["128Mi", "1Gi", "128Mi:1Gi:8"]),
        ("--sweep al", ["alpha="]),
        ("--sweep alpha=", []),
        ("--cache d", ["disable"]),
        ("-e ", ["env"]),
        ("-i al", ["alpha"]),
        ("-o alpha,b", ["beta"]),
        ("--memory 1Gi --mem", []),
        ("--rem", ["--remote"]),
        ("oom", []),
        ("--quiet --no", ["--no-raise"]),
    ],
)
def test_completion_offers_what_fits_at_the_cursor(line: str, expected: list[str]) -> None:
    """Options not yet used, then values of the option before the cursor."""
    assert expected == complete(line, Names(environments=("env",), variables=("alpha", "beta")))


class TaskEnvironment:
    """Stands for the SDK's class, which this room may not import."""

    __module__ = "flyte"


def tab(shell: InteractiveShell, text: str) -> list[str]:
    """Return the lines that Tab at the end of ``text`` would make of it, or the candidates' text."""
    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    return [text[: item.start] + item.text for item in found]


@pytest.mark.parametrize("jedi", [True, False])
def test_tab_completes_the_first_line_of_a_cell(shell: InteractiveShell, *, jedi: bool) -> None:
    """In a real shell, with jedi or without, Tab gives our candidates only, and none once uninstalled."""
    shell.Completer.use_jedi = jedi
    shell.user_ns.update(my_env=TaskEnvironment(), table=1)
    completer = install_completer(shell, {"": ("doctor", "explain", "runs"), "explain": ("OOMError", "CustomError")})
    try:
        assert ["%%flyte_task --memory"] == tab(shell, "%%flyte_task --mem")
        assert ["\n%%flyte_task oomer --memory=512Mi"] == tab(shell, "\n%%flyte_task oomer --memory=5")
        assert ["%%flyte_task --memory 1Gi -e my_env"] == tab(shell, "%%flyte_task --memory 1Gi -e ")
        assert ["%%flyte_task -i my_env,table"] == tab(shell, "%%flyte_task -i my_env,tab")
        assert ["%flyte doctor", "%flyte explain", "%flyte runs"] == tab(shell, "%flyte ")
        assert ["%flyte explain OOMError"] == tab(shell, "%flyte explain oom")
        assert ["x = 1\n%flyte doctor"] == tab(shell, "x = 1\n%flyte d")
        assert "%%flyte_task\n--memory" not in tab(shell, "%%flyte_task\n--mem")
    finally:
        completer.uninstall()
        completer.uninstall()
    assert [] == [line for line in tab(shell, "%%flyte_task --mem") if line.endswith("--memory")]


def test_a_failing_completion_does_not_happen_on_odd_lines(shell: InteractiveShell) -> None:
    """Any beginning of a line is completed without an exception."""
    line = "%%flyte_task  oomer  --memory='250Mi -e=a,b --cache=, -- - = --no-raise \t x"
    seen: list[Any] = [complete(line[len("%%flyte_task") : end]) for end in range(len("%%flyte_task"), len(line))]
    assert len(seen) == len(line) - len("%%flyte_task")
