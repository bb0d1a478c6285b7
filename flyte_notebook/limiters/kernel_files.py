"""Small files of the kernel, in ``/proc`` and ``/sys``: read whole, and written in one system call."""

from __future__ import annotations

import os


def read(path: str) -> str | None:
    """Return the text of a small kernel file, or ``None`` when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts = []
        while part := os.read(descriptor, 65_536):
            parts.append(part)
        return b"".join(parts).decode(errors="replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read_number(path: str) -> int | None:
    """Return the number in a kernel file; ``None`` for ``max`` and for a file that cannot be read."""
    text = (read(path) or "").strip()
    return int(text) if text.lstrip("-").isdigit() else None


def parse_counts(text: str) -> dict[str, int]:
    """Return the ``name number`` lines of a kernel file."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}  # noqa: PLR2004 - a pair


def write(path: str, text: str) -> None:
    """Write a kernel file in one system call. Raises OSError with the kernel's refusal and the path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as refused:
        refused.filename = path
        raise
    finally:
        os.close(descriptor)
