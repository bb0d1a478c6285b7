"""The catalogue explains every error class there is, what it says is true, and its programs run."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from flyte._internal.runtime import convert
from flyteidl2.core import execution_pb2

from flyte_notebook import catalogue, errors
from flyte_notebook.catalogue import Explanation, builtin, classic_mistake, explain, inspection, moved
from flyte_notebook.catalogue.recipes import LIMITS_NEEDED
from flyte_notebook.catalogue.words import WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = (
    *("ActionNotFoundError", "BaseRuntimeError", "CustomError", "DeploymentError", "ImageBuildError"),
    *("ImagePullBackOffError", "InitializationError", "InlineIOMaxBytesBreached", "InvalidImageNameError"),
    *("LogsNotYetAvailableError", "ModuleLoadError", "NotInTaskContextError", "OOMError"),
    *("OnlyAsyncIOSupportedError", "PrimaryContainerNotFoundError", "ReferenceTaskError", "RetriesExhaustedError"),
    *("RunAbortedError", "RuntimeDataValidationError", "RuntimeSystemError", "RuntimeUnknownError"),
    *("RuntimeUserError", "SlowDownError", "TaskInterruptedError", "TaskTimeoutError", "UnionRpcError"),
)
"""The 26 exceptions of the published reference."""

SDK = [
    name
    for name, thing in vars(flyte.errors).items()
    if inspect.isclass(thing) and issubclass(thing, BaseException) and thing.__module__ == "flyte.errors"
]
PYTHON = [
    name
    for name, thing in vars(builtins).items()
    if inspect.isclass(thing) and issubclass(thing, BaseException) and thing.__name__ == name
]
FLYTE = catalogue.names()

ONLY_IN_REFERENCE = {"CustomError", "RetriesExhaustedError", "TaskInterruptedError"}
"""What a local run raises only with ``semantics="reference"``."""

LEFT_TO_THE_CODE = {"CustomError", "InlineIOMaxBytesBreached", "NonRecoverableError", "RuntimeDataValidationError"}
"""Caught as RuntimeUserError by their code, because that holds on a cluster too."""

RUNNER = """
import contextlib, io, json, runpy, sys, traceback

names = json.load(open(sys.argv[1]))
results = {}
if sys.argv[3] != "alone":
    import flyte_notebook as fn
    fn.enable(**({"semantics": "reference"} if sys.argv[3] == "reference" else {}))
for name in names:
    said = io.StringIO()
    error = None
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(f"{sys.argv[2]}/{name}.py", run_name="__main__")
    except BaseException:
        error = traceback.format_exc()
    results[name] = [said.getvalue(), error]
    json.dump(results, open(sys.argv[4], "w"))
if sys.argv[3] != "alone":
    fn.disable()
"""


def run_programs(names: Iterable[str], how: str, place: Path) -> dict[str, str]:
    """Run the programs of explanations in one process, ``alone`` (the SDK only), ``enforced`` or ``reference``.

    Return what each printed; fail with all that did not run.
    """
    (place / "names.json").write_text(json.dumps(list(names)))
    for name in names:
        (place / f"{name}.py").write_text(explain(name).recover, encoding="utf-8")
    command = [sys.executable, "-c", RUNNER, str(place / "names.json"), str(place), how, str(place / "results.json")]
    environment = {**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(ROOT)}
    if "FLYTE_NOTEBOOK_TEST_WHEEL" in environment:
        del environment["PYTHONPATH"]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=110, check=False)
    assert 0 == done.returncode, done.stderr
    results = json.loads((place / "results.json").read_text())
    wrong = {name: error for name, (_, error) in results.items() if error}
    assert {} == wrong, "\n".join(f"{name}:\n{error}" for name, error in wrong.items())
    assert set(names) == set(results)
    return {name: said for name, (said, _) in results.items()}


def caught(said: str) -> list[str]:
    """Return the class names of the lines that begin with ``caught``."""
    return [line.split()[1] for line in said.splitlines() if line.startswith("caught ")]


def class_of(name: str) -> Any:
    return getattr(errors, name, None) or getattr(builtins, name, None)


@pytest.mark.parametrize("name", [*SDK, *REFERENCE, "UnschedulableError"])
def test_every_error_class_has_words_of_its_own(name: str) -> None:
    """Each class of the installed SDK, each of the reference and our own is explained by words written for it."""
    assert name in WORDS or name in {"RunAbortedError", "ReferenceTaskError"}
    explanation = explain(name)
    assert name == explanation.name
    for words in (explanation.meaning, explanation.raised_on_cluster, explanation.raised_here, explanation.prevent):
        assert words.endswith("."), words
        assert words == words.strip()
    assert explanation.recover.strip()
    assert explanation.related


def test_words_about_classes_that_are_gone_are_gone() -> None:
    """The catalogue has no words that nothing can ask for."""
    if tuple(map(int, flyte.__version__.split(".")[:2])) < (2, 12):
        pytest.skip("an older SDK has fewer classes")
    assert set() == set(WORDS) - set(inspection.sdk_classes())


@pytest.mark.parametrize("name", SDK)
def test_what_the_sdk_can_be_asked_is_asked(name: str) -> None:
    """Kind, signature and bases are those of the installed class."""
    cls = getattr(flyte.errors, name)
    explanation = explain(cls)
    expected = "none" if not issubclass(cls, flyte.errors.BaseRuntimeError) else explanation.kind
    for base, kind in (
        ("RuntimeUserError", "user"),
        ("RuntimeSystemError", "system"),
        ("RuntimeUnknownError", "unknown"),
    ):
        if issubclass(cls, getattr(flyte.errors, base)):
            expected = kind
    assert expected == explanation.kind
    assert list(explanation.bases) == [base.__name__ for base in cls.__mro__[1:] if issubclass(base, Exception)]
    assert explanation.signature.startswith(f"{name}(")
    assert all(argument in explanation.signature for argument in inspection.required_of(cls))


@pytest.mark.parametrize(
    ("name", "kind", "codes", "signature"),
    [
        ("OOMError", "user", ("OOMKilled",), "OOMError(code: str, message: str, worker: str | None = None)"),
        ("LogsNotYetAvailableError", "system", ("LogsNotYetAvailable",), "LogsNotYetAvailableError(message: str)"),
        ("RestrictedTypeError", "user", ("RestrictedTypeUsage",), "RestrictedTypeError(message: str)"),
        ("ActionNotFoundError", "none", (), "ActionNotFoundError(*args)"),
        (
            "UnschedulableError",
            "user",
            ("Unschedulable",),
            "UnschedulableError(message: str, worker: str | None = None)",
        ),
    ],
)
def test_some_classes_in_full(name: str, kind: str, codes: tuple[str, ...], signature: str) -> None:
    """What a class fixes itself is found without words of ours."""
    explanation = explain(name)
    assert (kind, codes, signature) == (explanation.kind, explanation.codes, explanation.signature)


@pytest.mark.parametrize("name", FLYTE)
def test_related_names_can_be_explained(name: str) -> None:
    """Every link leads somewhere else."""
    explanation = explain(name)
    for other in explanation.related:
        assert other == explain(other).name
    assert explanation.name not in explanation.related


def test_raised_nowhere_is_still_true() -> None:
    """Where the catalogue says that the SDK raises a class nowhere, no source of the SDK makes one; nor elsewhere."""
    package = Path(str(flyte.__file__)).parent
    source = "\n".join(path.read_text("utf-8") for path in package.rglob("*.py") if path != package / "errors.py")
    for name in SDK:
        claimed = "raises it nowhere" in explain(name).raised_on_cluster
        base = any(issubclass(getattr(flyte.errors, other), class_of(name)) for other in SDK if other != name)
        if claimed:
            assert f"{name}(" not in source, name
        elif not base and not name.startswith("AppleSilicon"):
            assert name in source, name


# --- the programs


@pytest.mark.parametrize("name", [*FLYTE, *PYTHON])
def test_every_program_is_whole_and_fits_a_cell(name: str) -> None:
    """Each program compiles, says what it caught, and needs no sideways scrolling."""
    program = explain(name).recover
    ast.parse(program)
    assert 'print("caught' in program
    assert [] == [line for line in program.splitlines() if len(line) > 110]


@pytest.mark.slow
def test_programs_that_raise_by_hand_run_with_the_sdk_alone(tmp_path: Path) -> None:
    """What cannot be raised here for real is raised by hand, and the clause catches it."""
    names = [name for name in FLYTE if not explain(name).real_here]
    for name, said in run_programs(names, "alone", tmp_path).items():
        expected = class_of(name) if name != "ReferenceTaskError" else errors.ReferenceTaskError
        assert all(issubclass(class_of(one), expected) for one in caught(said)), said
        assert 1 == len(caught(said)), said
        assert "by hand" in explain(name).recover or name == "NotInTaskContextError"


@pytest.mark.slow
def test_programs_about_python_exceptions_run_with_the_sdk_alone(tmp_path: Path) -> None:
    """Every exception of Python that a task raises arrives as RuntimeUserError with the code that is said."""
    names = [name for name in [*PYTHON, "CancelledError"] if LIMITS_NEEDED not in explain(name).recover]
    said = run_programs(names, "alone", tmp_path)
    assert "caught CancelledError: the slow one is stopped\nfound\n" == said.pop("CancelledError")
    assert "caught TaskInterruptedError InterruptedError\ndone, the safe way\n" == said.pop("InterruptedError")
    for name, text in said.items():
        assert f"caught RuntimeUserError {explain(name).codes[0]}\ndone, the safe way\n" == text


@pytest.mark.slow
@pytest.mark.cgroup
def test_what_can_be_raised_for_real_is(tmp_path: Path) -> None:
    """Under enforced limits each such program raises its error for real, catches it and goes on."""
    names = [name for name in FLYTE if explain(name).real_here and name not in ONLY_IN_REFERENCE]
    of_python = {"SystemExit": "RuntimeUserError", "CancelledError": "CancelledError:"}
    for name, said in run_programs([*names, *of_python], "enforced", tmp_path).items():
        (found,) = caught(said)
        if name in of_python:
            assert of_python[name] == found
        elif name in LEFT_TO_THE_CODE:
            assert f"caught {found} {explain(name).codes[0]}\n" in said
        elif not name.startswith("silence"):
            assert issubclass(class_of(found), class_of(name)), said


@pytest.mark.slow
@pytest.mark.cgroup
def test_what_only_the_reference_promises_is_raised_on_request(tmp_path: Path) -> None:
    """With reference semantics the three that today's backend no longer sends are raised for real."""
    for name, said in run_programs(sorted(ONLY_IN_REFERENCE), "reference", tmp_path).items():
        assert [name] == caught(said)


# --- explain


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("oomerror", "OOMError"),
        (" flyte.errors.OOMError ", "OOMError"),
        ("OOMKilled", "OOMError"),
        ("interrupted", "RuntimeSystemError"),
        ("MAX_RUNTIME_EXCEEDED", "MaxRuntimeExceededError"),
        ("RunAbortedError", "RunAbortedError"),
        ("referencetaskerror", "ReferenceTaskError"),
        ("silence_grpc_polling_error", "silence_grpc_polling_error"),
        ("valueerror", "ValueError"),
        ("UnschedulableError", "UnschedulableError"),
    ],
)
def test_a_name_is_found_in_any_spelling(said: str, name: str) -> None:
    """Names are found whatever the case, with their module, and by the code that an error carries."""
    assert name == explain(said).name


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("OMError", "did you mean OOMError"),
        ("RetryExhaustedError", "did you mean RetriesExhaustedError"),
        ("qqqq", "fn.errors has all names"),
        ("", "fn.errors has all names"),
    ],
)
def test_a_wrong_name_gets_the_right_one(said: str, hint: str) -> None:
    """A name that nothing has raises LookupError with the closest names."""
    with pytest.raises(LookupError, match=hint):
        explain(said)


@pytest.mark.parametrize("thing", [42, None, len, (ValueError, KeyError), int])
def test_what_is_no_error_is_refused(thing: object) -> None:
    """Only errors can be explained."""
    with pytest.raises(TypeError, match="explain takes"):
        explain(thing)


def test_the_aliases_of_the_reference() -> None:
    """The tuple, the handler and the renamed class are explained as what they are."""
    assert "tuple" in explain(errors.ReferenceTaskError).meaning
    assert "Not an error" in explain(errors.silence_grpc_polling_error).meaning
    assert errors.RunAbortedError.__name__ == explain(errors.RunAbortedError).name
    assert "ActionAbortedError" in explain("RunAbortedError").related


def test_an_instance_is_explained_with_its_own_facts() -> None:
    """The headline of an error's failure stands in its explanation, and its own code instead of the usual ones."""
    error = errors.OOMError("OOMKilled", "Pod failed.")
    assert explain(error).facts is None
    error.failure = SimpleNamespace(headline="ran out of memory (limit 250 MiB)")  # type: ignore[attr-defined]
    assert "ran out of memory (limit 250 MiB)" == explain(error).facts


def test_a_user_error_is_explained_with_the_clause_for_its_code() -> None:
    """For a RuntimeUserError with a Python exception's name as code the program catches just that."""
    explanation = explain(errors.RuntimeUserError("KeyError", "'x'"))
    assert ("RuntimeUserError", ("KeyError",)) == (explanation.name, explanation.codes)
    assert 'if error.code != "KeyError":' in explanation.recover
    assert "KeyError" == explanation.related[0]
    assert explain("RuntimeUserError").recover == explain(errors.RuntimeUserError("NoSuchTable", "x")).recover


@pytest.mark.parametrize("name", ["ValueError", "KeyError", "ZeroDivisionError"])
def test_python_exceptions_arrive_as_user_errors(name: str) -> None:
    """It is said that the plain clause never fires, and shown which one does."""
    explanation = explain(getattr(builtins, name))
    assert f"`except {name}` around `await task()` never fires" in explanation.raised_here
    assert f"except RuntimeUserError as error:  # `except {name}` would never fire here" in explanation.recover
    assert (name,) == explanation.codes


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (MemoryError(), "this is not an OOM kill"),
        (KeyboardInterrupt, "`except Exception` lets it through"),
        (SystemExit(3), "ends by returning"),
        (TimeoutError, "TaskTimeoutError instead"),
        (TypeError, "need a code and a message"),
    ],
)
def test_what_learners_take_for_something_else(thing: object, words: str) -> None:
    """Exceptions that are often misunderstood have words of their own."""
    assert words in explain(thing).meaning


def test_classes_of_the_user() -> None:
    """A class of your own is explained by the nearest base that has words, or as any exception."""

    class TooHot(errors.RuntimeUserError):
        """The oven is too hot."""

    class Cold(Exception):  # noqa: N818 - a name as users choose them
        pass

    explanation = explain(TooHot)
    assert explanation.meaning.startswith("The oven is too hot. It is a RuntimeUserError: ")
    assert ("TooHot", "user", ()) == (explanation.name, explanation.kind, explanation.codes)
    assert "RuntimeUserError" == explanation.related[0]
    cold = explain(Cold("brr"))
    assert ("Cold", ("Cold",)) == (cold.name, cold.codes)
    assert "class Cold(Exception):" in cold.recover
    compile(cold.recover, "a cell", "exec")


@pytest.mark.parametrize(
    ("name", "taken_for"),
    [
        ("RoomNotFound", "OOMError"),
        ("ZoomApiError", "OOMError"),
        ("UserInterrupted", "TaskInterruptedError"),
        ("UnknownUser", "RuntimeUnknownError"),
        ("PlainError", None),
    ],
)
def test_what_the_sdk_takes_for_its_own_is_said(name: str, taken_for: str | None) -> None:
    """A name that contains a part of one of the SDK's codes arrives on a cluster as that class, as the SDK decides."""
    of_the_user = type(name, (Exception,), {})
    wire = execution_pb2.ExecutionError(code=name, message="", kind=execution_pb2.ExecutionError.USER)
    assert (taken_for or "RuntimeUserError") == type(convert.convert_error_to_native(wire)).__name__
    assert f" {taken_for or 'a RuntimeUserError'}" in explain(of_the_user).raised_on_cluster
    assert "RuntimeUserError" in explain(of_the_user).raised_here


def test_a_class_that_a_newer_sdk_gains_is_explained_by_its_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until somebody writes words for it, the first sentence of its docstring stands beside those of its base."""
    monkeypatch.delitem(WORDS, "ImageBuildError")
    explanation = explain("ImageBuildError")
    assert explanation.meaning.startswith("This error is raised when the image build fails. It is a RuntimeUserError: ")
    assert ("ImageBuildError", "ImageBuildError(message: str)") == (*explanation.codes, explanation.signature)


def test_an_explanation_is_a_value() -> None:
    """Explanations compare by content and cannot be changed."""
    assert explain("OOMError") == explain(errors.OOMError)
    with pytest.raises(FrozenInstanceError):
        explain("OOMError").name = "x"  # type: ignore[misc]
    assert isinstance(explain("OOMError"), Explanation)


# --- the classic mistake

CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "a message only": (
        lambda: errors.OOMError("no memory"),  # type: ignore[call-arg]
        'OOMError needs `code` and `message`: `OOMError("OOMKilled", "what happened")`',
    ),
    "nothing": (
        lambda: errors.TaskTimeoutError(*()),
        'TaskTimeoutError needs `message`: `TaskTimeoutError("what happened")`',
    ),
    "by its module": (
        lambda: flyte.errors.UnionRpcError("x"),  # type: ignore[call-arg]
        'UnionRpcError needs `code` and `message`: `UnionRpcError("UNAVAILABLE", "what happened")`',
    ),
    "too many": (
        lambda: errors.ActionAbortedError("Aborted", "x"),  # type: ignore[call-arg]
        'ActionAbortedError needs `message`: `ActionAbortedError("what happened")`',
    ),
    "other names": (
        lambda: errors.RuntimeDataValidationError("x"),  # type: ignore[call-arg]
        'RuntimeDataValidationError needs `var` and `e`: `RuntimeDataValidationError("o0", "what does not fit")`',
    ),
}


def raised_by(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was asked for
        return error
    pytest.fail("nothing was raised")


@pytest.mark.parametrize("case", CALLS)
def test_the_classic_mistake_is_recognised(case: str) -> None:
    """A wrong call of an error class gets the right one, with the class that was meant."""
    call, words = CALLS[case]
    assert words == classic_mistake(raised_by(call))


def test_the_classic_mistake_made_in_a_task() -> None:
    """What arrives from a task is recognised too, by the line that its failure names."""
    text = "RuntimeUserError.__init__() missing 1 required positional argument: 'message'"
    error = errors.RuntimeUserError("TypeError", text)
    needed = "RuntimeUserError and the classes on top of it need `code` and `message`"
    assert f'{needed}, for example `OOMError("OOMKilled", "what happened")`' == classic_mistake(error)
    error.failure = SimpleNamespace(  # type: ignore[attr-defined]
        headline="raised TypeError", line=SimpleNamespace(text='raise flyte.errors.RetriesExhaustedError("x")')
    )
    mistake = classic_mistake(error)
    assert mistake is not None
    assert mistake.startswith("RetriesExhaustedError needs `code` and `message`: ")
    explanation = explain(error)
    assert f"raised TypeError {mistake}" == explanation.facts


@pytest.mark.parametrize("name", inspection.sdk_classes())
def test_the_right_call_is_right(name: str) -> None:
    """Every class can be made by the call that is shown for it."""
    cls = inspection.sdk_classes()[name]
    call = catalogue.mistakes.right_call(cls)
    assert cls is type(eval(call, vars(errors)))  # noqa: S307 - the text is ours


@pytest.mark.parametrize(
    "error",
    [
        TypeError("f() missing 1 required positional argument: 'x'"),
        TypeError("Point.__init__() missing 1 required positional argument: 'y'"),
        TypeError("unsupported operand type(s) for +: 'int' and 'str'"),
        ValueError("OOMError.__init__() missing 1 required positional argument: 'message'"),
        errors.OOMError("OOMKilled", "Pod failed."),
    ],
)
def test_other_errors_are_no_classic_mistake(error: BaseException) -> None:
    """Wrong calls of anything else, and other errors, are not taken for it."""
    assert classic_mistake(error) is None


def test_a_wrong_call_is_explained_with_the_right_one() -> None:
    """The explanation of the TypeError itself says what was wrong and shows both calls."""
    explanation = explain(raised_by(CALLS["a message only"][0]))
    assert "TypeError" == explanation.name
    assert CALLS["a message only"][1] == explanation.facts
    assert builtin.WRONG_CALL == explanation.recover


def test_the_program_about_the_wrong_call_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """It makes the mistake, and then the right call."""
    exec(compile(builtin.WRONG_CALL, "a cell", "exec"), {})  # noqa: S102 - the text is ours
    wrong, right = capsys.readouterr().out.splitlines()
    assert wrong.startswith("caught TypeError RuntimeUserError.__init__() missing 1")
    assert "caught OOMError OOMKilled" == right


# --- names that the SDK has no more


@pytest.mark.parametrize("was", moved.MOVED)
def test_a_name_that_moved_gets_todays(was: str) -> None:
    """The installed SDK lacks the old name and has the new one; the hint names both, also for an error of a task."""
    module, _, name = was.rpartition(".")
    here = importlib.import_module(module)
    error = raised_by(lambda: getattr(here, name))
    words = f"`{was}` is called `{moved.MOVED[was]}` in today's SDK"
    assert words == catalogue.hint(error)
    assert words == catalogue.hint(errors.RuntimeUserError("AttributeError", str(error)))
    assert words == catalogue.hint(ImportError(f"cannot import name '{name}' from '{module}' (somewhere)"))
    assert hasattr(here, moved.MOVED[was].rpartition(".")[2])


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("module 'flyte' has no attribute 'nonsense'"),
        AttributeError("'list' object has no attribute 'init_auto_from_config'"),
        ValueError("module 'flyte' has no attribute 'init_auto_from_config'"),
    ],
)
def test_other_errors_are_about_no_name_that_moved(error: BaseException) -> None:
    """A name that never was, of another object, or an error of another class gets no hint."""
    assert catalogue.hint(error) is None
