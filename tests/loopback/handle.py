"""The plane as a test sees it: a process that serves, an endpoint, faults to set and calls to look at."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .bucket import ACCESS_KEY, SECRET_KEY
from .faults import Faults

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).resolve().parent.parent
END_S = 20.0
"""How long it may take to end; so long because pods are ended before."""


class Plane:
    """A plane in a process of its own. Use it as a context manager, or close it."""

    def __init__(self) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="fnb-loopback-"))
        command = [sys.executable, "-m", "loopback", str(self._place), "--until-stdin-ends"]
        self._process = subprocess.Popen(
            command,
            cwd=self._place,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError("The plane ended before it said where it listens; see what it wrote above.")
        told = json.loads(line)
        self.endpoint: str = told["endpoint"]
        """Where clients reach it: ``flyte.init(endpoint=plane.endpoint, insecure=True)``."""
        self.bucket_endpoint: str = told["inner_endpoint"]
        self.why_open: str | None = told["pods_see_the_client"]
        self.why_polled: str | None = told["memory_is_polled"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it with all its pods."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        # Not by the plane: in its mount namespace there is more below some directories.
        shutil.rmtree(self._place, ignore_errors=True)

    def kill(self) -> None:
        """End it as a machine that fails does; its pods end with it."""
        self._process.kill()
        self._process.wait()

    @property
    def bucket_settings(self) -> dict[str, str]:
        """What a client needs to reach the bucket itself, for ``flyte.storage.S3``."""
        return {
            "endpoint": self.bucket_endpoint,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "region": "us-east-1",
        }

    @contextlib.contextmanager
    def faults(self, **settings: Any) -> Iterator[None]:
        """Let these things go wrong meanwhile; see `faults.Faults` for their names."""
        self._order("faults", Faults(**settings).to_json())
        try:
            yield
        finally:
            self._order("faults", Faults().to_json())

    @contextlib.contextmanager
    def older_services(self) -> Iterator[None]:
        """Let pods that start meanwhile use the two older services for nested actions."""
        self._order("services", {"actions": False})
        try:
            yield
        finally:
            self._order("services", {"actions": True})

    def lose(self, seconds: float) -> None:
        """Break every connection of clients, and refuse new ones for so long. Pods notice nothing."""
        self._order("lose", {"seconds": seconds})

    def cut(self) -> None:
        """Break every connection of clients that there is now."""
        self._order("cut")

    def forget(self, run: str) -> None:
        """Delete a run, as an administrator may; its pods go on."""
        self._order("forget", {"name": run})

    def calls(self) -> list[str]:
        """Return all calls so far, in order: ``RunService/CreateRun``, ``PUT /upload``. Those of pods are there too."""
        calls: list[str] = self._order("calls")
        return calls

    @contextlib.contextmanager
    def seen(self) -> Iterator[list[str]]:
        """Give a list that has, afterwards, the calls that came meanwhile."""
        before = len(self.calls())
        found: list[str] = []
        try:
            yield found
        finally:
            found += self.calls()[before:]

    def _order(self, order: str, values: dict[str, Any] | None = None) -> Any:
        url = f"{self.bucket_endpoint}/admin/{order}"
        request = urllib.request.Request(url, data=json.dumps(values or {}).encode(), method="POST")  # noqa: S310
        with urllib.request.urlopen(request, timeout=END_S) as answer:  # noqa: S310 - on loopback
            return json.loads(answer.read())
