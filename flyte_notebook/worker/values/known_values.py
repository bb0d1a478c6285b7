"""Known values: the contents that Python reports for its own objects, to check the offsets of a shape.

A shape is wrong if there is another value at its offset. Several objects are compared for each offset, so that no value
matches by chance.
"""

from __future__ import annotations

import ctypes
import os
import threading
import types
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flyte_notebook.worker.stacks.layout import OF_GENERATOR, UNTAGGED, WIDTHS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from flyte_notebook.worker.stacks.layout import Shape

TEXTS: Final = ("ascii", "größe", "名前", "\U0001f40d\U0001f40d")
"""A text of each kind of storage."""


class Fact(NamedTuple):
    """Known bytes at some offset from an address, except for the bits that the mask leaves out."""

    field: str
    address: int
    width: int
    value: int
    mask: int = -1

    def holds(self, found: bytes) -> bool:
        """Whether these bytes match."""
        return len(found) == self.width and int.from_bytes(found, "little") & self.mask == self.value


class Planted:
    """Objects whose contents Python reports; at different lines, with different names and numbers of values."""

    def __init__(self) -> None:
        self.kept = (object(), object())
        self.generators: tuple[Any, Any] = (self.first(self.kept[0]), self.second(self.kept[1], 2))
        for generator in self.generators:
            next(generator)

    @staticmethod
    def first(kept: object) -> Generator[object, None, None]:
        """Wait."""
        yield kept

    @staticmethod
    def second(kept: object, number: int) -> Generator[object, None, None]:
        """Wait somewhere else."""
        other = number + 1
        yield kept, other
        other += number

    def object_facts(self) -> Iterator[Fact]:
        """Yield the contents of texts, code, its line table, and this thread."""
        for text in TEXTS:
            kind = 1 if max(text) < "\u0100" else 2 if max(text) < "\U00010000" else 4
            value = text.encode(WIDTHS[kind])
            yield Fact("text_length", id(text), 8, len(text))
            yield Fact("text_state", id(text), 1, kind << 2 | 1 << 5 | text.isascii() << 6, 0b1111100)
            field = "text_ascii" if text.isascii() else "text_compact"
            yield Fact(field, id(text), len(value), int.from_bytes(value, "little"))
        for generator in self.generators:
            code = generator.gi_code
            table = code.co_linetable
            yield Fact("object_type", id(code), 8, id(types.CodeType))
            yield Fact("code_filename", id(code), 8, id(code.co_filename))
            yield Fact("code_name", id(code), 8, id(code.co_name))
            yield Fact("code_linetable", id(code), 8, id(table))
            yield Fact("code_first_line", id(code), 4, code.co_firstlineno)
            yield Fact("bytes_size", id(table), 8, len(table))
            yield Fact("bytes_value", id(table), len(table), int.from_bytes(table, "little"))
        yield Fact("thread_native_id", thread_state(), 8, threading.get_native_id())

    def frame_facts(self, generator_frame: int) -> Iterator[Fact]:
        """Yield the contents of the generators' frames, which are that many bytes inside the generators."""
        for generator, kept in zip(self.generators, self.kept, strict=True):
            address, code = id(generator) + generator_frame, generator.gi_code
            instruction = id(code) + first_instruction() + generator.gi_frame.f_lasti
            yield Fact("frame_code", address, 8, id(code), UNTAGGED)
            yield Fact("frame_instruction", address, 8, instruction)
            yield Fact("frame_locals", address, 8, id(kept), UNTAGGED)
            yield Fact("frame_owner", address, 1, OF_GENERATOR)


def first_instruction() -> int:
    """Return the offset of the instructions in code: after all fields of fixed size."""
    return types.CodeType.__basicsize__


def thread_state() -> int:
    """Return the address of the interpreter's state of this thread."""
    get = ctypes.pythonapi.PyThreadState_Get
    get.restype = ctypes.c_void_p
    address: int = get()
    return address


@contextmanager
def own_memory() -> Iterator[int]:
    """Give the memory of this process as a descriptor. Raises OSError."""
    memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield memory
    finally:
        os.close(memory)


def peek(memory: int, size: int, address: int) -> bytes:
    """Return as many of that many bytes as can be read; none where no memory is mapped."""
    try:
        return os.pread(memory, size, address)
    except (OSError, OverflowError):
        return b""


def contradicted(shape: Shape) -> list[str]:
    """Return the fields of a shape whose offsets have other values than the known ones. Raises OSError."""
    planted = Planted()
    with own_memory() as memory:
        wrong = {
            fact.field
            for fact in (*planted.object_facts(), *planted.frame_facts(shape.generator_frame))
            if not fact.holds(peek(memory, fact.width, fact.address + getattr(shape, fact.field)))
        }
    if shape.code_instructions != first_instruction():
        wrong.add("code_instructions")
    return sorted(wrong)
