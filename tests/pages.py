"""Assertions on a page that wait: it shows what the kernel says one message after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, LocatorAssertions

PATIENCE_S = 30


def expect(locator: Locator) -> LocatorAssertions:
    """Return Playwright's assertions on these elements, with this suite's bound."""
    from playwright.sync_api import expect as assertions  # noqa: PLC0415 - a machine without it skips these tests

    assertions.set_options(timeout=PATIENCE_S * 1000)
    return assertions(locator)
