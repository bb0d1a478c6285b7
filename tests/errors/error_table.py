"""What was observed of the errors, as the page that people read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reference_cases import Case

INTRODUCTION: Final = """\
# The errors of the reference, as they arrive in a notebook

Each exception of the published reference of `flyte.errors` was raised in a Jupyter notebook with the extension loaded,
and this table is what arrived. It is made by `FLYTE_NOTEBOOK_WRITE_DOCS=1 pytest tests/errors`; a test fails when the
two differ. `fn.explain("OOMError")` says more about each.

- **Real** errors come by themselves, from what the second column says; "by the SDK's internals" where that is nothing
  that you would write in a notebook. **Simulated** ones cannot come up on one machine; they are made from a cluster's
  words by the SDK's own conversion, or raised by hand, inside a task or a cell.
- `<run>-<action>-<attempt>` is the name of the attempt that failed, as on a cluster. `-` and `user`
  stand for an error without a worker: it came up in the notebook's own process, before or outside of any attempt.
- **Semantics**: `cluster`, the default, raises what today's cluster raises. A few errors of the reference are no longer
  sent by a cluster, and others lose their class between a task and its caller: the SDK's own conversion does not know
  them, and gives a plain error with their code. All arrive after `%flyte semantics reference` or
  `fn.enable(semantics="reference")`. The same holds for every class of `flyte.errors` that a task raises and that is
  not in this table (`SyncTaskCallInAsyncContextError`, `NonRecoverableError`, ...): by default it is a
  `RuntimeUserError` with its code.
- A `RuntimeSystemError` with the code `Interrupted` has one attempt here. After `%flyte system_retries 2` or
  `fn.enable(system_retries=2)` a lost worker is replaced twice in a row before it arrives, with the code
  `MaxSystemFailuresExceeded` and a message as a cluster's, which retries on its own account.
- `RunAbortedError` is another name for `ActionAbortedError`. `ReferenceTaskError` is the pair
  `RemoteTaskNotFoundError`, `RemoteTaskUsageError`; it works in `except` and `isinstance`.
- The code of `RetriesExhaustedError` is here what older backends send, `RetriesExhausted|CODE`. The SDK's conversion
  cuts it to `CODE` on a client, so code that reads it should look at the part behind the last `|`.
- `silence_grpc_polling_error`, the one function of the reference, raises nothing. The notebook's event loop has a
  handler that does the same and counts; `%flyte doctor` shows the count.

"""
HEAD: Final = """\
| Error | Raised by | Arrives as | Kind | Code | Worker | Message, first line | Real | Semantics |
|-|-|-|-|-|-|-|-|-|
"""
ATTEMPT: Final = "<run>-<action>-<attempt>"


def table(cases: Iterable[Case], observed: Mapping[str, dict[str, Any]]) -> str:
    """Return the page, with a row for each case that was observed."""
    rows = [_row(case, observed[case.name]) for case in cases if case.name in observed]
    return INTRODUCTION + HEAD + "".join(f"{row}\n" for row in rows)


def _row(case: Case, seen: dict[str, Any]) -> str:
    message = _without_particulars(seen["message"], seen["worker"]).partition("\n")[0]
    worker = ATTEMPT if case.in_task and seen["worker"] else seen["worker"]
    cells = (
        _code(case.promised),
        case.how,
        _code(seen["class"]),
        seen["kind"] or "-",
        _code(seen["code"]),
        _code(worker),
        _code(message),
        _real(case),
        case.semantics,
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _real(case: Case) -> str:
    if case.simulated:
        return f"simulated: {case.simulated}"
    return "real, by the SDK's internals" if case.by_internals else "real"


def _code(text: str | None) -> str:
    if not text:
        return "-"
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _without_particulars(message: str, worker: str | None) -> str:
    """Return a message without what is another in each run: names, times, temporary paths."""
    message = message.replace(worker, ATTEMPT) if worker else message
    message = re.sub(r"was stopped after [\d.,]+ ?\w+", "was stopped after <time>", message)
    message = re.sub(r"(working directory is) \S+", r"\1 <path>", message)
    message = re.sub(r" at 0x[0-9a-f]+", "", message)
    return re.sub(r"(/[\w.-]+)+/(?=[\w.-]+)", "<path>/", message)
