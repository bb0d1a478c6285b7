"""The values of the catalogue: the texts written by hand about a class, and the explanation shown to the user."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["user", "system", "unknown", "any", "none"]
"""``any``: the code that makes the error chooses it. ``none``: not a class of Flyte, so it has no kind and no code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The texts written by hand about one class, by its name.

    ``here`` is about local runs that this package enforces. ``real_here`` is whether such a run can really cause the
    error, without registry, GPU, cluster or control plane; ``recover`` does so if it can, else it raises the error by
    hand. ``codes`` and ``kind`` are set only if the class itself does not fix them.
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


real_words = functools.partial(Words, real_here=True)
"""Texts about an error that a local run can really cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The meaning of a class of errors, when it is raised, and how to recover.

    ``codes`` are the usual values of ``error.code``; empty if the code that raises the error chooses them.
    ``real_here`` is whether a local run can really cause it, without registry, GPU, cluster or control plane.
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
