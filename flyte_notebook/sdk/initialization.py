"""The settings of ``flyte.init``, and how a worker gets them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import flyte
from flyte import _initialize

FIELDS = (
    "org",
    "project",
    "domain",
    "root_dir",
    "storage",
    "batch_size",
    "image_builder",
    "images",
    "image_registry",
    "sync_local_sys_paths",
)
"""Arguments of ``flyte.init`` that are used again in a worker; never the client, which belongs to the kernel."""


def settings() -> dict[str, Any] | None:
    """Return the arguments of ``flyte.init`` that matter in a worker; ``None`` when it was not called."""
    config = _initialize._get_init_config()
    if config is None:
        return None
    return {name: getattr(config, name) for name in FIELDS if hasattr(config, name)}


def endpoint() -> str | None:
    """Return the control plane's endpoint from the arguments of ``flyte.init``, ``None`` without one."""
    config = _initialize._get_init_config()
    found = getattr(getattr(config, "client", None), "endpoint", None)
    return None if found is None else str(found)


KEYS = (
    *("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "FLYTE_AWS_ACCESS_KEY_ID"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_KEY"),
)
"""Variables of the environment that give the keys of an object store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where runs go, as ``flyte.init`` was told; empty texts where it was not."""

    org: str = ""
    project: str = ""
    domain: str = ""


def target() -> Target:
    """Return where runs go."""
    config = _initialize._get_init_config()
    return Target(**{name: getattr(config, name, None) or "" for name in ("org", "project", "domain")})


def has_keys() -> bool:
    """Whether there are keys of an object store, as far as this can be seen: in ``flyte.init`` or the environment."""
    config = _initialize._get_init_config()
    return getattr(config, "storage", None) is not None or any(name in os.environ for name in KEYS)


def client() -> Any:
    """Return the client of the control plane, ``None`` where none is configured."""
    return getattr(_initialize._get_init_config(), "client", None)


def replay(given: dict[str, Any] | None) -> None:
    """Initialise the SDK of a worker in the same way as in the kernel; else when something asks whether it is.

    In a pod it always is, and `flyte.io.File.from_local` works. The first `flyte.init` takes 15 ms.
    """
    if given is not None:
        flyte.init(**given)
    else:
        _initialize.is_initialized = _initialized


def asks_whether_initialized() -> bool:
    """Whether a function of the SDK that needs it initialised asks the function that a worker replaces."""
    before, answers = _initialize.is_initialized, iter([True])
    _initialize.is_initialized = lambda: next(answers)
    try:
        _initialize.requires_initialization(int)()
    finally:
        _initialize.is_initialized = before
    return next(answers, None) is None


def _initialized() -> bool:
    if _initialize._get_init_config() is None:
        flyte.init()
    return True
