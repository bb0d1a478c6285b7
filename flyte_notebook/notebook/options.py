"""The options of ``%%flyte_task``: one table for the parser, the help text and Tab completion.

Completion itself is in `flyte_notebook.notebook.completion`.
"""

from __future__ import annotations

import difflib
import keyword
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from IPython.core.error import UsageError

from flyte_notebook.core.overrides import Override
from flyte_notebook.core.units import UnitError, parse_cpu, parse_duration, parse_memory
from flyte_notebook.experiments.escalation import EXAMPLE, Growth, parse_growth
from flyte_notebook.experiments.sweeping import RANGE, VALUES, MemoryRange, Over, SweepError, parse_over, parse_range
from flyte_notebook.sdk.settings import TaskOptions

MAGIC = "%%flyte_task"
FIT = "fit"
"""The word for a limit that has to be found."""
RERUN = "%flyte rerun"
_UNIT = re.compile(r"(?i)[kmgt]i?b?|bytes|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?")
_LITERALS = re.compile(
    r"""(?<!\S)--sweep(?:=|\s+)(?P<text>(?!-)(?:[^\s"'\[({]|"[^"]*"|'[^']*'|\[[^\]]*\]|\([^)]*\)|\{[^}]*\})+)"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOptions(TaskOptions):
    """The options in the first line of a ``%%flyte_task`` cell; ``None`` means the value of the environment.

    ``fit`` is whether the memory limit is to be found, ``memory_range`` the limits that are to be tried; then
    ``memory_bytes`` is ``None``. ``over`` are the values of an input to try, ``yes`` is whether many runs are wanted.
    ``on_oom`` is how the limit grows after an OOM.
    ``env`` is the name of a notebook variable. ``inputs`` and ``outputs`` are names, ``None`` to infer them.
    """

    name: str | None = None
    fit: bool = False
    memory_range: MemoryRange | None = None
    over: Over | None = None
    yes: bool = False
    on_oom: Growth | None = None
    env: str | None = None
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    no_raise: bool = False
    quiet: bool = False
    background: bool = False
    remote: bool = False
    image: str | None = None
    project: str | None = None
    domain: str | None = None

    @property
    def sweeps(self) -> bool:
        """Whether the cell runs many times, across limits or values of an input."""
        return self.memory_range is not None or self.over is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row of the table. Without ``metavar`` it is a flag."""

    name: str
    field: str
    meaning: str
    short: str | None = None
    metavar: str | None = None
    parse: Callable[[str], object] = str
    choices: tuple[str, ...] = ()
    typical: tuple[str, ...] = ()
    completes: Literal["environments", "inputs", "variables"] | None = None

    @property
    def right(self) -> str:
        """The option as a user may write it."""
        return f"{self.name} {self.example}".rstrip()

    @property
    def example(self) -> str:
        """An example of a value; empty for a flag."""
        return self.choices[0] if self.choices else self.metavar or ""


def _memory_limit(text: str) -> int | str | MemoryRange:
    if text == FIT:
        return FIT
    return parse_range(text) if ":" in text else parse_memory(text)


def _quantity(text: str) -> str:
    parse_memory(text)
    return text


def _shm(text: str) -> str:
    return text if text == "auto" else _quantity(text)


def _gpu(text: str) -> int | str:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if re.fullmatch(r"[A-Za-z][\w ./-]*:[1-9]\d*", text, re.ASCII):
        return text
    raise ValueError(f"{text} is neither a number of GPUs nor a type with a number; write for example 1 or A100:1")


def _retries(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise ValueError(f"{text} is not a number of retries; write 0, 1, 2, ...")


def _identifier(text: str) -> str:
    if not text.isidentifier():
        raise ValueError(f"{text!r} is not a Python name")
    if keyword.iskeyword(text):
        raise ValueError(f"{text!r} is a keyword of Python and cannot be a name")
    return text


def _identifiers(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_identifier(part.strip()) for part in text.split(",") if part.strip()))


_SIZES = ("128Mi", "256Mi", "512Mi", "1Gi", "2Gi", "4Gi")

OPTIONS: tuple[Option, ...] = (
    Option(name="--memory", short="-m", field="memory_bytes", metavar="250Mi", parse=_memory_limit,
           typical=(*_SIZES, FIT, RANGE),
           meaning="hard memory limit: Ki Mi Gi Ti, k M G T, or plain bytes; fit finds the smallest that passes; "
                   f"{RANGE} tries 8 limits, {RANGE}:log by a factor"),
    Option(name="--sweep", field="over", metavar=VALUES, parse=parse_over, completes="inputs",
           meaning="run once for each value of an input, at each limit of --memory; Python literals"),
    Option(name="--yes", field="yes", meaning="start a sweep of more than 100 runs"),
    Option(name="--cpu", short="-c", field="cpu_cores", metavar="0.5", parse=parse_cpu, typical=("0.5", "1", "2"),
           meaning="CPU quota in cores: 1, 0.5 or 500m"),
    Option(name="--gpu", field="gpu", metavar="1", parse=_gpu, typical=("1",),
           meaning="GPUs, as in flyte.Resources: 1 or A100:1"),
    Option(name="--disk", field="disk", metavar="10Gi", parse=_quantity, typical=("1Gi", "10Gi"),
           meaning="disk, as in flyte.Resources"),
    Option(name="--shm", field="shm", metavar="1Gi", parse=_shm, typical=("auto", "256Mi", "1Gi"),
           meaning="shared memory, as in flyte.Resources: a quantity or auto"),
    Option(name="--timeout", short="-t", field="max_runtime_s", metavar="30s", parse=parse_duration,
           typical=("30s", "5m", "1h"), meaning="longest run of one attempt (max_runtime)"),
    Option(name="--deadline", field="deadline_s", metavar="10m", parse=parse_duration, typical=("1m", "10m", "1h"),
           meaning="longest time from submission to the end, over all attempts"),
    Option(name="--max-queued-time", field="max_queued_time_s", metavar="1m", parse=parse_duration,
           typical=("10s", "1m", "10m"), meaning="longest wait for memory before the run starts"),
    Option(name="--retries", short="-r", field="retries", metavar="2", parse=_retries, typical=("1", "2", "3"),
           meaning="attempts after the first; after a crash: %flyte system_retries"),
    Option(name="--env", short="-e", field="env", metavar="ENV", parse=_identifier, completes="environments",
           meaning="a flyte.TaskEnvironment of the notebook: its settings are the defaults"),
    Option(name="--inputs", short="-i", field="inputs", metavar="a,b", parse=_identifiers, completes="variables",
           meaning="the variables that go in, instead of those the cell reads"),
    Option(name="--outputs", short="-o", field="outputs", metavar="x,y", parse=_identifiers, completes="variables",
           meaning="the variables that come back, instead of those the cell assigns"),
    Option(name="--cache", field="cache", metavar="auto|disable", choices=("auto", "disable"),
           meaning="the SDK's cache"),
    Option(name="--max-inline-io", field="max_inline_io_bytes", metavar="10Mi", parse=parse_memory,
           typical=("1Mi", "10Mi", "100Mi"), meaning="largest size of inputs and outputs (max_inline_io_bytes)"),
    Option(name="--no-raise", field="no_raise", meaning="show a failure and go on; it is kept in _"),
    Option(name="--quiet", field="quiet", meaning="no live line while it runs"),
    Option(name="--on-oom", field="on_oom", metavar=EXAMPLE, parse=parse_growth,
           typical=(EXAMPLE, "x1.5:2Gi", "+512Mi:4Gi"),
           meaning="on OOM, run again with twice the memory, up to 4Gi; +512Mi:4Gi adds instead"),
    Option(name="--background", field="background",
           meaning="return at once with a live handle: .wait(), await, .stop(), .result"),
    Option(name="--remote", field="remote", meaning="run on the Flyte cluster that flyte.init configured"),
    Option(name="--image", field="image", metavar="IMAGE", meaning="with --remote: the image, registry/name:tag"),
    Option(name="--project", field="project", metavar="PROJECT", meaning="with --remote: another project"),
    Option(name="--domain", field="domain", metavar="DOMAIN", meaning="with --remote: another domain"),
)  # fmt: skip

NAME_MEANING = "task name, and the notebook variable that will hold the task"

EXAMPLES = (
    "%%flyte_task --memory 250Mi",
    "%%flyte_task oomer -m 250Mi -c 1 -t 30s -r 1",
    "%%flyte_task oomer --memory fit",
    f"%%flyte_task oomer --memory {RANGE} --sweep {VALUES}",
    "%%flyte_task oomer --memory 250Mi --on-oom x2:4Gi",
    "%%flyte_task train --env env --inputs df,params --outputs model --memory=2Gi",
)

BY_FLAG = {flag: option for option in OPTIONS for flag in (option.name, option.short) if flag}
_MEANT = {"--max-runtime": "--timeout", "--max-inline-io-bytes": "--max-inline-io", "--name": "NAME", "-q": "--quiet"}


def parse(line: str) -> CellOptions:
    """Read the text after ``%%flyte_task``.

    Values may be quoted and follow after a space or ``=``; ``$name`` and ``{name}`` are not replaced; ``#`` starts a
    comment. Raises UsageError with one line that names the option, the error, and a correct value.
    """
    words = _words(line)
    values: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if _is_flag(word):
            option, value = _option(word)
            if option.field in values:
                raise _usage(f"{option.name} is given twice; give it once, for example {option.right}")
            values[option.field] = _value(option, value, words)
        elif "name" in values:
            joined = f"{values['name']}_{word}"
            raise _usage(f"a task name is one word; {_options_hint(word, joined)}")
        else:
            values["name"] = _name(word)
    memory = values.get("memory_bytes")
    if memory == FIT:
        values |= {"memory_bytes": None, "fit": True}
    elif isinstance(memory, MemoryRange):
        values |= {"memory_bytes": None, "memory_range": memory}
    said = CellOptions(**values)
    _check_together(said)
    return said


def _check_together(said: CellOptions) -> None:
    """Refuse options that contradict each other."""
    if said.fit and said.over is not None:
        raise _usage(
            f"--sweep tries values and --memory fit searches; write --sweep with --memory {RANGE}, or one of both"
        )
    if (said.fit or said.sweeps) and said.background:
        what = "--memory fit" if said.fit else "a sweep"
        raise _usage(f"{what} runs the cell several times and waits for it; leave out --background")
    if said.on_oom is not None and said.fit:
        raise _usage("--memory fit finds the limit itself; leave out --on-oom")
    if said.on_oom is not None and said.sweeps:
        raise _usage("a sweep shows where the cell dies and does not grow its limit; leave out --on-oom")
    if said.on_oom is not None and said.background:
        raise _usage("--on-oom runs the cell again and waits for it; leave out --background")
    for name in ("image", "project", "domain"):
        if getattr(said, name) is not None and not said.remote:
            raise _usage(f"--{name} is for a cluster; write it with --remote")
    if said.remote and (said.fit or said.sweeps):
        raise _usage("--memory fit and sweeps run on this machine; leave out --remote")
    if said.yes and not said.sweeps:
        raise _usage(f"--yes is for sweeps; write it with --memory {RANGE} or --sweep {VALUES}")


def parse_override(line: str) -> Override:
    """Read the text after ``%flyte rerun``: the options that a rerun may change. Raises UsageError, as `parse` does."""
    try:
        said = parse(line)
    except UsageError as error:
        raise UsageError(str(error).replace(f"{MAGIC}:", f"{RERUN}:")) from None
    override = Override(
        memory_bytes=said.memory_bytes,
        cpu_cores=said.cpu_cores,
        max_runtime_s=said.max_runtime_s,
        retries=said.retries,
    )
    if said.fit:
        raise UsageError(f"{RERUN}: --memory fit is no limit to run again with; write %flyte fit")
    if said.memory_range is not None:
        raise UsageError(f"{RERUN}: --memory {said.memory_range} is no limit to run again with; write it in the cell")
    if said != CellOptions(**{field.name: getattr(override, field.name) for field in fields(override)}):
        raise UsageError(
            f"{RERUN}: a rerun changes --memory, --cpu, --timeout and --retries only; write for example "
            f"{RERUN} --memory 1Gi"
        )
    return override


def _usage(message: str) -> Exception:
    error: Exception = UsageError(f"{MAGIC}: {' '.join(message.split())}")
    return error


def _words(line: str) -> list[str]:
    try:
        return shlex.split(_keep_literals(line), comments=True)
    except ValueError:
        raise _usage(
            'a quotation mark is not closed; quote a value on both sides, for example --inputs "a, b"'
        ) from None


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-[\d.].*|-", word)


def _option(word: str) -> tuple[Option, str | None]:
    """Return the option that ``word`` names and the value attached to it, as in ``--cpu=1`` and ``-c1``."""
    flag, equals, value = word.partition("=")
    attached = value if equals else None
    if flag[:2] in BY_FLAG and flag[2:3].isdecimal():  # -c1; -memory is a long option with a dash missing
        flag, attached = flag[:2], word[2:]
    option = BY_FLAG.get(flag)
    if option is None:
        raise _usage(f"there is no option {flag}; {_meant(flag)}")
    return option, attached


def _value(option: Option, attached: str | None, words: list[str]) -> object:
    if option.metavar is None:
        if attached is not None:
            raise _usage(f"{option.name} takes no value; write just {option.name}")
        return True
    if attached is None:
        if not words or _is_flag(words[0]):
            raise _usage(f"{option.name} needs a value, for example {option.right}")
        attached = words.pop(0)
        if attached.isdecimal() and words and _UNIT.fullmatch(words[0]):
            raise _usage(f"{option.name}: write number and unit as one word, for example {option.right}")
    if option.choices and attached not in option.choices:
        raise _usage(f"{option.name}: {attached!r} is not one of {', '.join(option.choices)}; write {option.right}")
    try:
        return option.parse(attached)
    except SweepError as error:
        raise _usage(f"{option.name}: {error}") from None
    except (UnitError, ValueError) as error:
        write = ", for" if "write " in str(error) else "; write for"
        example = "" if option.example in str(error) else f"{write} example {option.right}"
        raise _usage(f"{option.name}: {error}{example}") from None


def _name(word: str) -> str:
    try:
        return _identifier(word)
    except ValueError as error:
        raise _usage(f"NAME: {error}; {_options_hint(word)}") from None


def _options_hint(word: str, instead: str = "") -> str:
    """Return the text to write instead of a word that cannot be a NAME."""
    for option in (BY_FLAG["--memory"], BY_FLAG["--timeout"]):
        try:
            option.parse(word)
        except ValueError:
            continue
        return f"write {option.name} {word}"
    return f"write {instead}" if instead else f"write for example {EXAMPLES[1]}"


def _meant(flag: str) -> str:
    if flag in {"-h", "--help", "-?"}:
        return f"{MAGIC}? shows the help, for example {EXAMPLES[0]}"
    known = [option.name for option in OPTIONS]
    close = [_MEANT[flag]] if flag in _MEANT else []
    close += [name for name in known if len(flag) > len("--") and name.startswith(flag.lower())]
    close += difflib.get_close_matches(flag.lower(), known, n=1)
    if not close:
        return f"{MAGIC}? lists the options, for example {BY_FLAG['--memory'].right}"
    return f"did you mean {BY_FLAG[close[0]].right if close[0] in BY_FLAG else close[0]}?"


def _keep_literals(line: str) -> str:
    """Return a line in which the values of ``--sweep`` survive `shlex.split`: ``--sweep x='a','b'``.

    Quotation marks around the whole value are removed.
    """
    return _LITERALS.sub(_kept, line)


def _kept(match: re.Match[str]) -> str:
    text = match["text"]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and "=" in text:
        text = text[1:-1]
    return f"--sweep={shlex.quote(text)}"
