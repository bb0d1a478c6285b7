"""Default values for the options of ``%%flyte_task``, set as IPython's own settings are.

``%config FlyteTaskMagics.memory = "1Gi"`` in a notebook, or ``c.FlyteTaskMagics.memory`` in ``ipython_config.py``
(https://ipython.readthedocs.io/en/stable/config/intro.html). ``%config FlyteTaskMagics`` lists them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from traitlets import TraitError, TraitType

from flyte_notebook.notebook.options import OPTIONS

if TYPE_CHECKING:
    from flyte_notebook.notebook.options import CellOptions, Option

_OF_ENVIRONMENTS = frozenset({"memory", "cpu", "gpu", "disk", "shm", "cache"})
"""What an environment may set: it counts more than a default, where a cell names one."""

_NOT_FOR_ALL_CELLS = frozenset({"--sweep", "--yes", "--inputs", "--outputs", "--background"})


class OptionValue(TraitType):  # type: ignore[type-arg]  # generic in newer versions of traitlets only
    """The default of one option: its value as it is written in a cell, or ``None``; for a flag also ``True``."""

    def __init__(self, option: Option) -> None:
        super().__init__(None, allow_none=True, help=option.meaning)
        self.option = option
        self.tag(config=True)

    def validate(self, _owner: object, value: object) -> object:
        """Return a value that the option takes. Raises TraitError."""
        if value is None or value is False:
            return None
        if self.option.metavar is None:
            if value is not True:
                raise TraitError(f"{self.name} is True or False, not {value!r}")
            return True
        try:
            parsed = self.option.parse(str(value))
            if self.name == "memory" and not isinstance(parsed, int):
                raise ValueError(f"{value} is not one limit; write a quantity, for example 1Gi")  # noqa: TRY301
        except ValueError as error:
            raise TraitError(f"{self.name}: {error}") from None
        return str(value)


TRAITS = {
    option.name.removeprefix("--").replace("-", "_"): OptionValue(option)
    for option in OPTIONS
    if option.name not in _NOT_FOR_ALL_CELLS
}


def filled(said: CellOptions, owner: Any) -> CellOptions:
    """Return the options of a cell, with the defaults of ``owner`` for those that the cell leaves out."""
    unsaid = {
        trait.option.field: value
        for name, trait in TRAITS.items()
        if (value := getattr(owner, name)) is not None and not (said.env and name in _OF_ENVIRONMENTS)
        if (given := getattr(said, trait.option.field)) is None or given is False  # not 0, which a cell may write
    }
    if said.fit or said.memory_range is not None:
        unsaid.pop("memory_bytes", None)
    limited = said.env is not None or said.memory_bytes is not None or "memory_bytes" in unsaid
    if said.fit or said.sweeps or said.background or not limited:
        unsaid.pop("on_oom", None)  # the first three decide about the limit themselves
    if not unsaid:
        return said
    parse = {trait.option.field: trait.option.parse for trait in TRAITS.values()}
    values: dict[str, Any] = {field: True if value is True else parse[field](value) for field, value in unsaid.items()}
    return replace(said, **values)
