"""What can go wrong on purpose. A test sets it through the plane's handle; everything is off at first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True)
class Refusal:
    """Requests that are answered with an error: those whose method and path contain ``what``, ``times`` of them.

    ``"PUT /upload"`` means uploads to signed addresses, ``"CreateRun"`` one call.
    """

    what: str
    status: int = 503
    code: str = ""
    """How the Connect protocol calls the error, ``unauthenticated`` for one; without it a client goes by the status."""
    times: int = 1
    text: str = "refused on purpose"
    retry_after_s: int | None = None


@dataclass(slots=True, kw_only=True)
class Faults:
    """All faults that last. What happens once is an order: see `wire.Wire.lose` and `wire.Wire.cut`."""

    omit_code: bool = False
    """The error of an action has no code. The open-source backend does not fill it in."""
    details_late_s: float = 0.0
    """An action is FAILED for so long before its error is there."""
    logs_gone: bool = False
    """No pod has logs."""
    bytes_per_s: int | None = None
    """How fast the client's network is, in each direction of each connection; ``None``: as fast as it goes."""
    missing_images: list[str] = field(default_factory=list)
    """Images that cannot be pulled."""
    memory_bytes: int | None = None
    """Memory of the largest node. A pod that requests more waits for resources for ever."""
    refusals: list[Refusal] = field(default_factory=list)

    def refuses(self, request: str) -> Refusal | None:
        """Return the refusal that a request meets, and count it."""
        for refusal in self.refusals:
            if refusal.what in request and refusal.times > 0:
                refusal.times -= 1
                return refusal
        return None

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Faults:
        """Make them from what came over the wire."""
        return cls(**{**values, "refusals": [Refusal(**one) for one in values.get("refusals", ())]})
