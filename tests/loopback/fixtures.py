"""Fixtures: a plane for a module of tests, and the SDK's client connected to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flyte
import pytest

from .handle import Plane

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT, DOMAIN = "flytesnacks", "development"


def connect(plane: Plane) -> None:
    """Connect the SDK's client, as a user does."""
    flyte.init(endpoint=plane.endpoint, insecure=True, project=PROJECT, domain=DOMAIN)


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    """Start a plane that no other module of tests uses, with nothing wrong with it."""
    with Plane() as plane:
        yield plane


@pytest.fixture(scope="module")
def client(plane: Plane) -> Iterator[Plane]:
    """Connect the client meanwhile."""
    connect(plane)
    yield plane
    flyte.init()
