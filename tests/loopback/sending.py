"""How tests send runs with the plain SDK, and wait for what they do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import flyte
from bounds import under_load
from flyte.remote import ActionDetails

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte.remote import Run

Found = TypeVar("Found")
POLL_S = 0.02
LONGEST_S = 30.0


def submit(task: Any, *args: Any, **settings: Any) -> Run:
    """Send a run."""
    return flyte.with_runcontext(mode="remote", interactive_mode=True, **settings).run(task, *args)


def run(task: Any, *args: Any, **settings: Any) -> Run:
    """Send a run and wait for its end."""
    sent = submit(task, *args, **settings)
    sent.wait(quiet=True)
    return sent


def details(sent: Run, action: str = "a0") -> ActionDetails:
    """Return what the plane knows now about an action of a run."""
    found: ActionDetails = ActionDetails.get(run_name=sent.name, name=action)
    return found


def until(look: Callable[[], Found], what: str) -> Found:
    """Return the first thing found that is true; ``what`` says what was waited for."""
    end_s = time.monotonic() + under_load(LONGEST_S)
    while not (found := look()):
        assert time.monotonic() < end_s, f"waited {under_load(LONGEST_S):.0f} s for {what}"
        time.sleep(POLL_S)
    return found
