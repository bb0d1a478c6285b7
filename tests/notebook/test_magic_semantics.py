"""``%flyte semantics``: both semantics in a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]


def test_the_reference_can_be_asked_for_and_left(kernel: Kernel) -> None:
    """After %flyte semantics reference a failing cell is a CustomError and the card notes the difference; and back."""
    cell = "%%flyte_task\nraise ValueError('x')"
    assert "RuntimeUserError" == kernel.run(cell).ename
    assert kernel.run("%flyte semantics reference").result.startswith("reference: failures raise what the published")
    try:
        reply = kernel.run(cell)
        assert "CustomError" == reply.ename
        assert "today's cluster raises RuntimeUserError" in reply.card["text/plain"]
    finally:
        assert kernel.run("%flyte semantics cluster").result.startswith("cluster: failures raise what today's")
    assert "RuntimeUserError" == kernel.run(cell).ename


def test_an_unknown_semantics_says_which_there_are(kernel: Kernel) -> None:
    """A name that is neither gets one line with the right ones."""
    assert "'v1' is neither cluster nor reference" in kernel.run("%flyte semantics v1").stderr
    assert kernel.run("%flyte semantics").result.startswith("cluster")
