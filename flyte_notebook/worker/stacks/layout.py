"""The facts that another process needs to read the Python stacks of this one: where and how CPython stores them.

Both are private to each minor version of CPython, and the addresses to each process. So the process itself finds them
(`shapes`), tries them out (`selfread`) and hands them over completely: the reader needs no knowledge of versions.
"""

from __future__ import annotations

import ctypes
import dataclasses
import struct
from dataclasses import dataclass
from typing import Any, Final

MOST_OFFSET: Final = 1 << 20
"""Above any offset in a structure of CPython; that of the threads in the interpreter's state is about 7,000."""

UNTAGGED: Final = (1 << 64) - 4
"""The bits of an address; the lowest two say since 3.14 how a frame holds its values."""
OF_THREAD, OF_GENERATOR = 0, 1
"""The owner of a frame; frames for C code have higher numbers."""
WIDTHS: Final = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}
"""How a text is stored, by the bytes per character."""

_awaited = ctypes.c_uint64(0)


def runs(coroutine: object) -> None:
    """Set the task's coroutine, so that its position can be read while no thread runs it; ``None`` when it ended.

    No context manager: `contextlib` sets the traceback of a raised exception, and some exceptions do not allow this.
    """
    _awaited.value = 0 if coroutine is None else id(coroutine)


def awaited_address() -> int:
    """Return the address of the variable that `runs` sets: it holds the address of a coroutine, or 0."""
    return ctypes.addressof(_awaited)


class UnknownLayoutError(Exception):
    """The stacks of this interpreter cannot be read from outside; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Offsets in bytes inside CPython's structures, and their meaning; ``None`` where a version has no such field.

    ``thread_inner``: the thread points to a structure that has its frame. ``thread_base``: the thread's last frame.
    ``frame_entry``: whether C code called the frame. ``code_instructions``: the first instruction;
    ``frame_instruction`` is the address of one. ``frame_stack_top`` is a number of values if ``stack_counted``, else an
    address; the object that a coroutine awaits is ``awaited_depth`` values below it. ``entry_owners`` mark frames for C
    code between two Python frames, ``suspended`` are the states of a generator that waits.
    """

    interpreter_threads: int
    thread_next: int
    thread_native_id: int
    thread_frame: int
    thread_inner: int | None
    thread_base: int | None
    frame_code: int
    frame_previous: int
    frame_instruction: int
    frame_owner: int
    frame_entry: int | None
    frame_locals: int
    frame_stack_top: int
    code_filename: int
    code_name: int
    code_linetable: int
    code_first_line: int
    code_instructions: int
    generator_frame: int
    generator_state: int
    object_type: int
    text_length: int
    text_state: int
    text_ascii: int
    text_compact: int
    bytes_size: int
    bytes_value: int
    stack_counted: bool
    awaited_depth: int
    entry_owners: tuple[int, ...]
    suspended: tuple[int, ...]

    @property
    def frame_bytes(self) -> int:
        """How much of a frame is read: all but its values."""
        return max(self.frame_owner, self.frame_stack_top) + 8

    @property
    def frame_format(self) -> str:
        """Format for `struct` of code, previous frame, instruction, stack top and owner. Raises ValueError."""
        places = (self.frame_code, self.frame_previous, self.frame_instruction, self.frame_stack_top, self.frame_owner)
        form, end = "<", 0
        for place, kind in zip(places, "QQQiB", strict=True):
            if place < end:
                raise ValueError("the parts of a frame are in an order that is not known")
            form += f"{place - end}x{kind}"
            end = place + struct.calcsize(f"<{kind}")
        return form

    @property
    def code_bytes(self) -> int:
        """How much of a code object is read."""
        return max(self.code_filename, self.code_name, self.code_linetable, self.code_first_line, self.object_type) + 8

    @property
    def text_bytes(self) -> int:
        """How much of a text is read, besides its characters."""
        return max(self.text_length, self.text_state, self.object_type) + 8

    @property
    def bytes_bytes(self) -> int:
        """How much of a bytes object is read, besides its value."""
        return max(self.bytes_size, self.object_type) + 8

    @property
    def generator_bytes(self) -> int:
        """How much of a generator or coroutine is read: all but its values."""
        return max(self.generator_state, self.object_type, self.generator_frame + self.frame_bytes) + 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The shape of one process's structures, and the addresses of its threads and of a few types.

    At ``awaited`` is the address of the coroutine that runs the task, 0 when there is none.
    """

    shape: Shape
    threads: int
    code_type: int
    text_type: int
    bytes_type: int
    coroutine_type: int
    awaited: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a message."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Layout:
        """Return the layout from the values of `to_dict`. Raises ValueError for invalid values."""
        try:
            given = fields["shape"]
            shape: dict[str, Any] = {
                field.name: _checked(given[field.name], str(field.type)) for field in dataclasses.fields(Shape)
            }
            addresses = {name: int(value) for name, value in fields.items() if name != "shape"}
            return cls(shape=Shape(**shape), **addresses)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a layout: {fields}") from error


def _checked(value: object, kind: str) -> object:
    """Return a value of a shape in the type of its field. Raises ValueError for an invalid one."""
    if "tuple" in kind and isinstance(value, (list, tuple)):
        return tuple(_checked(one, "int") for one in value)
    if value is None and "None" in kind:
        return None
    if "tuple" in kind or not isinstance(value, int) or not 0 <= value < MOST_OFFSET:
        raise ValueError(f"not an offset: {value!r}")
    return value
