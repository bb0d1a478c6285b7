"""The shape of CPython's structures, by minor version: from a table, from the interpreter itself, or searched for.

3.11 and 3.12 have a table here (``Include/internal/pycore_{interp,frame,code}.h``). Since 3.13 the interpreter
publishes offsets for debuggers, ``_Py_DebugOffsets`` at the start of ``_PyRuntime``: numbers without names, in an order
that is fixed for a minor version (``pycore_runtime.h``, since 3.14 ``pycore_debug_offsets.h``), so this module has the
names. Offsets that are not published, and the meaning of values, are in a table again. The published sizes differ
between patch releases and are not used. Newer interpreters than these are searched (`worker/stacks/calibration`).
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Any, Final

from flyte_notebook.worker.stacks.layout import Shape, UnknownLayoutError
from flyte_notebook.worker.values import known_values

COOKIE: Final = b"xdebugpy"

_SINCE_311: Final[dict[str, Any]] = {
    "object_type": 8,
    "text_length": 16,
    "text_state": 32,
    "bytes_size": 16,
    "bytes_value": 32,
    "thread_next": 8,
    "frame_instruction": 56,
    "frame_stack_top": 64,
    "frame_locals": 72,
    "code_filename": 112,
    "code_name": 120,
    "code_linetable": 136,
    "thread_base": None,
    "stack_counted": True,
    "awaited_depth": 1,
}
TABLES: Final = {
    11: Shape(
        **_SINCE_311,
        interpreter_threads=16,
        thread_native_id=160,
        thread_frame=56,
        thread_inner=8,
        frame_code=32,
        frame_previous=48,
        frame_owner=69,
        frame_entry=68,
        code_first_line=72,
        code_instructions=184,
        generator_frame=80,
        generator_state=75,
        text_ascii=48,
        text_compact=72,
        entry_owners=(),
        suspended=(255,),
    ),
    12: Shape(
        **_SINCE_311,
        interpreter_threads=72,
        thread_native_id=144,
        thread_frame=56,
        thread_inner=0,
        frame_code=0,
        frame_previous=8,
        frame_owner=70,
        frame_entry=None,
        code_first_line=68,
        code_instructions=192,
        generator_frame=72,
        generator_state=67,
        text_ascii=40,
        text_compact=56,
        entry_owners=(3,),
        suspended=(255,),
    ),
}
"""By the minor version of Python 3. A suspended state is -1 as a byte; -2 is a generator that has not started."""

_UNPUBLISHED: Final[dict[str, Any]] = {
    "thread_inner": None,
    "thread_base": None,
    "frame_entry": None,
    "text_compact": 56,
}
UNPUBLISHED: Final[dict[int, dict[str, Any]]] = {
    13: {
        **_UNPUBLISHED,
        "frame_stack_top": 64,
        "generator_frame": 72,
        "generator_state": 67,
        "stack_counted": True,
        "awaited_depth": 1,
        "entry_owners": (3,),
        "suspended": (254, 255),
    },
    14: {
        **_UNPUBLISHED,
        "stack_counted": False,
        "awaited_depth": 1,
        "entry_owners": (3, 4),
        "suspended": (254, 255),
    },
    15: {
        **_UNPUBLISHED,
        "stack_counted": False,
        "awaited_depth": 2,  # an empty value is above it
        "entry_owners": (3,),
        "suspended": (1, 2, 3),
    },
}
"""Offsets and meanings that 3.13 to 3.15 do not publish."""

ORDERS: Final = {
    13: """
        runtime_state: size finalizing interpreters_head
        interpreter_state: size id next threads_head gc imports_modules sysdict builtins ceval_gil gil_runtime_state
            gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder
        thread_state: size prev next interp current_frame thread_id native_thread_id datastack_chunk status
        interpreter_frame: size previous executable instr_ptr localsplus owner
        code_object: size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds
            co_code_adaptive
        pyobject: size ob_type
        type_object: size tp_name tp_repr tp_flags
        tuple_object: size ob_item ob_size
        list_object: size ob_item ob_size
        dict_object: size ma_keys ma_values
        float_object: size ob_fval
        long_object: size lv_tag ob_digit
        bytes_object: size ob_size ob_sval
        unicode_object: size state length asciiobject_size
    """,
    14: """
        runtime_state: size finalizing interpreters_head
        interpreter_state: size id next threads_head threads_main gc imports_modules sysdict builtins ceval_gil
            gil_runtime_state gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder
            code_object_generation tlbc_generation
        thread_state: size prev next interp current_frame thread_id native_thread_id datastack_chunk status
        interpreter_frame: size previous executable instr_ptr localsplus owner stackpointer tlbc_index
        code_object: size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds
            co_code_adaptive co_tlbc
        pyobject: size ob_type
        type_object: size tp_name tp_repr tp_flags
        tuple_object: size ob_item ob_size
        list_object: size ob_item ob_size
        set_object: size used table mask
        dict_object: size ma_keys ma_values
        float_object: size ob_fval
        long_object: size lv_tag ob_digit
        bytes_object: size ob_size ob_sval
        unicode_object: size state length asciiobject_size
        gc: size collecting
        gen_object: size gi_name gi_iframe gi_frame_state
    """,
    15: """
        runtime_state: size finalizing interpreters_head
        interpreter_state: size id next threads_head threads_main gc imports_modules sysdict builtins ceval_gil
            gil_runtime_state gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder
            code_object_generation tlbc_generation
        thread_state: size prev next interp current_frame base_frame last_profiled_frame last_profiled_frame_seq
            thread_id native_thread_id datastack_chunk status holds_gil gil_requested current_exception exc_state
        err_stackitem: exc_value
        interpreter_frame: size previous executable instr_ptr localsplus owner stackpointer tlbc_index
        code_object: size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds
            co_code_adaptive co_tlbc
        pyobject: size ob_type
        type_object: size tp_name tp_repr tp_flags tp_basicsize tp_dictoffset
        heap_type_object: size ht_cached_keys
        tuple_object: size ob_item ob_size
        list_object: size ob_item ob_size
        set_object: size used table mask
        dict_object: size ma_keys ma_values
        float_object: size ob_fval
        long_object: size lv_tag ob_digit
        bytes_object: size ob_size ob_sval
        unicode_object: size state length asciiobject_size compactunicodeobject_size
        gc: size collecting frame generation_stats_size generation_stats
        gen_object: size gi_name gi_iframe gi_frame_state
    """,
}
"""The names of the numbers that follow cookie, version and ``free_threaded``, by minor version."""

PUBLISHED: Final = {
    "interpreter_threads": "interpreter_state.threads_head",
    "thread_next": "thread_state.next",
    "thread_native_id": "thread_state.native_thread_id",
    "thread_frame": "thread_state.current_frame",
    "thread_base": "thread_state.base_frame",
    "frame_code": "interpreter_frame.executable",
    "frame_previous": "interpreter_frame.previous",
    "frame_instruction": "interpreter_frame.instr_ptr",
    "frame_owner": "interpreter_frame.owner",
    "frame_locals": "interpreter_frame.localsplus",
    "frame_stack_top": "interpreter_frame.stackpointer",
    "code_filename": "code_object.filename",
    "code_name": "code_object.name",
    "code_linetable": "code_object.linetable",
    "code_first_line": "code_object.firstlineno",
    "code_instructions": "code_object.co_code_adaptive",
    "object_type": "pyobject.ob_type",
    "bytes_size": "bytes_object.ob_size",
    "bytes_value": "bytes_object.ob_sval",
    "text_state": "unicode_object.state",
    "text_length": "unicode_object.length",
    "text_ascii": "unicode_object.asciiobject_size",
    "text_compact": "unicode_object.compactunicodeobject_size",
    "generator_frame": "gen_object.gi_iframe",
    "generator_state": "gen_object.gi_frame_state",
}
"""By the names of `Shape`."""


def found() -> Shape:
    """Return the shape of this process's structures. Raises `UnknownLayoutError`."""
    minor = sys.version_info.minor
    if minor not in TABLES and minor not in ORDERS:
        from flyte_notebook.worker.stacks import calibration  # noqa: PLC0415 - only an interpreter that is not known is searched

        return calibration.searched()
    shape = TABLES[minor] if minor in TABLES else published(minor)
    wrong = known_values.contradicted(shape)
    if wrong:
        raise UnknownLayoutError(f"the structures of Python 3.{minor} are not as they were known: {', '.join(wrong)}")
    return shape


def published(minor: int) -> Shape:
    """Return the shape that the interpreter publishes, completed from the tables. Raises `UnknownLayoutError`."""
    names = names_of(ORDERS[minor])
    try:
        start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    except ValueError as error:
        raise UnknownLayoutError("the interpreter does not say where its state is") from error
    cookie, version, free_threaded, *numbers = struct.unpack(
        f"<8s{2 + len(names)}Q", ctypes.string_at(start, 8 * (3 + len(names)))
    )
    if (cookie, version, free_threaded) != (COOKIE, sys.hexversion, 0):
        raise UnknownLayoutError("the interpreter does not say how its state is laid out")
    said = dict(zip(names, numbers, strict=True))
    offsets = {field: said[name] for field, name in PUBLISHED.items() if name in said}
    return Shape(**{**UNPUBLISHED[minor], **offsets})


def names_of(order: str) -> list[str]:
    """Return the names in their order, each after the name of its structure."""
    names, structure = [], ""
    for word in order.split():
        if word.endswith(":"):
            structure = word[:-1]
        else:
            names.append(f"{structure}.{word}")
    return names
