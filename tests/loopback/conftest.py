"""The plane and its client, for the tests in this folder."""

from loopback.fixtures import client, plane

__all__ = ["client", "plane"]
