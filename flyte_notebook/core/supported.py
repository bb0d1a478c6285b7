"""The versions of other libraries that this package works with, read from its installed metadata.

Versions are compared by their numbers only: this is enough for lower bounds, and needs no library that parses versions.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from dataclasses import dataclass

DISTRIBUTION = "flyte-notebook"
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*([^;]*)(;.*)?$")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A library that is needed: the oldest version that works, and what to install."""

    library: str
    oldest: str
    requirement: str


def bounds() -> tuple[Bound, ...]:
    """Return the libraries that the installed package needs; empty where it is run from its source."""
    package = _distribution(DISTRIBUTION)
    found = []
    for line in [] if package is None else package.requires or []:
        name, versions, marker = match.groups() if (match := _REQUIREMENT.match(line)) else ("", "", None)
        oldest = next((one.strip()[2:] for one in versions.split(",") if one.strip().startswith(">=")), "")
        if name and oldest and not marker:
            found.append(Bound(library=name, oldest=oldest, requirement=f"{name}{versions.strip()}"))
    return tuple(found)


def version(library: str) -> str | None:
    """Return the installed version of a library, ``None`` where there is none."""
    found = _distribution(library)
    return None if found is None else found.version


def _distribution(library: str) -> importlib.metadata.Distribution | None:
    # The search path may hold objects of any kind; imports skip them, but they would raise an error here.
    path = [entry for entry in sys.path if isinstance(entry, str)]  # type: ignore[redundant-expr]  # see above
    return next(iter(importlib.metadata.distributions(name=library, path=path)), None)


def problem(bound: Bound) -> str:
    """Return what is wrong with the installed version of a library, and how to fix it; empty when nothing is."""
    installed = version(bound.library)
    if installed is None:
        return f"{bound.library} is not installed; {mending(bound)}"
    if numbers(installed) < numbers(bound.oldest):
        return f"{bound.library} {installed} is older than {bound.oldest}; {mending(bound)}"
    return ""


def mending(bound: Bound) -> str:
    """Return the command that installs a version that works."""
    return f"%pip install '{bound.requirement}', then restart the kernel"


def numbers(release: str) -> tuple[int, ...]:
    """Return the numbers of a release: for ``2.12.1rc1`` those before ``rc``."""
    found = []
    for part in release.split("+", maxsplit=1)[0].split("."):
        number = _NUMBER.match(part)
        if number is None:
            break
        found.append(int(number[0]))
        if number[0] != part:
            break
    return tuple(found)


def newer_than(tested: str, library: str) -> str:
    """Return the installed version of a library if it is newer than the one tested, else an empty text."""
    installed = version(library)
    return installed if installed is not None and numbers(installed) > numbers(tested) else ""
