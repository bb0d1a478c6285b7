"""The values of the catalogue: what is written by hand about a class, and what a person gets to read about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["user", "system", "unknown", "any", "none"]
"""``any``: whoever makes the error says which. ``none``: not of Flyte's tree, so it has neither kind nor code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What is written by hand about one class, keyed by its name.

    ``here`` is about local runs that this package enforces. ``real_here`` is whether such a run can raise the error for
    real, without registry, GPU, cluster or control plane; ``recover`` does so where it can, and raises the error by
    hand where it cannot. ``codes`` and ``kind`` stand only where the class itself does not fix them.
    """

    meaning: str
    on_cluster: str
    here: str
    recover: str
    prevent: str
    real_here: bool = False
    related: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    kind: Kind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a class of errors means, when it is raised, and how to recover.

    ``codes`` are the usual ones, as ``error.code`` holds them; empty where whoever raises the error chooses.
    ``real_here`` is whether a local run can raise it for real, without registry, GPU, cluster or control plane.
    ``recover`` is a program that can be run as it is. ``bases`` are the base classes, nearest first. ``facts`` is one
    sentence about the instance that was explained, ``None`` for a class or when nothing is known about it.
    """

    name: str
    meaning: str
    kind: Kind
    codes: tuple[str, ...]
    raised_on_cluster: str
    raised_here: str
    real_here: bool
    recover: str
    prevent: str
    related: tuple[str, ...]
    signature: str
    bases: tuple[str, ...] = ()
    facts: str | None = None
