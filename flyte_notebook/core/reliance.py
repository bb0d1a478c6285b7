"""Undocumented behaviour that this package relies on: an entry for each, a probe of it, and what is lost without it.

The folder that uses a foreign library lists the entries for it, in a module called ``relies``. A probe tries the
behaviour out, a round trip rather than the presence of a name; it raises when the behaviour is missing. Probes run
where they cost next to nothing: in the kernel when the extension is loaded, in a worker that starts with each session,
or at the first use. This module keeps the list of lost features, for the line that loading prints and for the doctor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Where = Literal["kernel", "worker", "first use"]


class NotAsKnownError(Exception):
    """A behaviour that is relied on is missing; the text says what was found instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliance:
    """One behaviour that is relied on.

    ``key`` names it, once in the whole package. ``library`` is the name of a distribution, or CPython or Linux.
    ``behaviour`` is what is relied on, and ``lost`` the feature that is lost without it; both are parts of sentences.
    ``names`` are the private names of the library that are used for it. ``probe`` raises when the behaviour is missing;
    without a probe the feature itself finds out, at its first use. ``refuse`` means: without this behaviour nothing may
    run, since limits would not hold or results would be wrong.
    """

    key: str
    library: str
    behaviour: str
    lost: str
    probe: Callable[[], object] | None = None
    names: tuple[str, ...] = ()
    where: Where = "worker"
    refuse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A feature that is lost on this installation, and why."""

    key: str
    library: str
    lost: str
    why: str
    refuse: bool = False

    def __str__(self) -> str:
        return f"{self.lost} ({self.library}: {self.why})"


def expect(holds: object, found: str) -> None:
    """Raise `NotAsKnownError`, which says what was found, unless the condition holds."""
    if not holds:
        raise NotAsKnownError(found)


def loss_of(entry: Reliance) -> Loss | None:
    """Run the probe of an entry; return the loss, or ``None`` when the behaviour is present. Never raises."""
    try:
        if entry.probe is not None:
            entry.probe()
    except Exception as error:  # noqa: BLE001 - whatever a changed library raises is the answer
        return lost_by(entry, error)
    return None


def lost_by(entry: Reliance, error: BaseException | str) -> Loss:
    """Return the loss of an entry, caused by an error or given as a reason."""
    why = error if isinstance(error, str) else (str(error) or type(error).__name__)
    if isinstance(error, BaseException) and not isinstance(error, NotAsKnownError):
        why = f"{type(error).__name__}: {why}"
    why = " ".join(why.split())[:300]
    return Loss(key=entry.key, library=entry.library, lost=entry.lost, why=why, refuse=entry.refuse)


class Losses:
    """Features lost in this process and its workers, as far as that is known. All methods are thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Loss] = {}
        self._told: set[str] = set()

    def check(self, entries: Iterable[Reliance]) -> None:
        """Run the probes of these entries, and keep their results."""
        for entry in entries:
            if entry.probe is not None:
                self.put(entry.key, loss_of(entry))

    def settle(self, entry: Reliance, why: BaseException | str) -> None:
        """Record that a feature is lost for a reason; an empty reason means that it is not lost."""
        self.put(entry.key, lost_by(entry, why) if why else None)

    def put(self, key: str, loss: Loss | None) -> None:
        """Keep the result for a key, ``None`` for no loss."""
        with self._lock:
            self._found.pop(key, None)
            if loss is not None:
                self._found[key] = loss
            else:
                self._told.discard(key)

    @property
    def found(self) -> tuple[Loss, ...]:
        """All losses, in the order in which they were found."""
        with self._lock:
            return tuple(self._found.values())

    def untold(self) -> tuple[Loss, ...]:
        """Return the losses that were not returned before, so that each is reported once."""
        with self._lock:
            new = [loss for key, loss in self._found.items() if key not in self._told]
            self._told.update(loss.key for loss in new)
            return tuple(new)


losses = Losses()
"""The features lost in this process and its workers."""
