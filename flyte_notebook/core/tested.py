"""The versions of other people's libraries that the tests ran with. Written by `make update-lock`."""

from __future__ import annotations

from typing import Final

VERSIONS: Final[dict[str, str]] = {
    "cloudpickle": "3.1.3",
    "connectrpc": "0.10.1",
    "flyte": "2.12.1",
    "flyteidl2": "2.0.51",
    "ipykernel": "7.4.0",
    "ipython": "9.18.1",
    "ipywidgets": "8.1.9",
    "matplotlib": "3.11.2",
    "nest-asyncio2": "1.7.4",
    "psutil": "7.2.2",
}
"""By name of the distribution; where the lock holds several, for several Pythons, the newest."""
