"""All of the plane in one process: applications behind one port, faults, and a record of each call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import traceback
from typing import TYPE_CHECKING, Any

import uvicorn
from flyteidl2.actions.actions_service_connect import ActionsServiceASGIApplication
from flyteidl2.cluster.service_connect import ClusterServiceASGIApplication
from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyServiceASGIApplication
from flyteidl2.workflow.queue_service_connect import QueueServiceASGIApplication
from flyteidl2.workflow.run_service_connect import RunServiceASGIApplication
from flyteidl2.workflow.state_service_connect import StateServiceASGIApplication

from .bucket import DOWNLOADS, UPLOADS, Bucket
from .dataproxy import Clusters, DataProxy
from .faults import Faults, Refusal
from .image import Image
from .kubelet import Kubelet
from .nested import Actions, Nested, Queue, State
from .pods import Groups
from .records import Store
from .runs import Runs
from .wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVICES = "/flyteidl2."
ADMIN = "/admin/"


class Server(uvicorn.Server):
    """One that leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class Plane:
    """A control plane, with its pods and its bucket."""

    def __init__(self, place: Path) -> None:
        self.image = Image(place)
        self.groups = Groups()
        self.faults = Faults()
        self.calls: list[str] = []
        """Each call and each use of a signed address, in order: ``RunService/CreateRun``, ``PUT /upload``."""
        self.store = Store()
        self.bucket = Bucket(place / "bucket")
        parts: dict[str, Any] = {"bucket": self.bucket, "faults": self.faults}
        self.kubelet = Kubelet(image=self.image, groups=self.groups, place=place / "pods", **parts)
        self.dataproxy = DataProxy(store=self.store, **parts)
        nested = Nested(store=self.store, kubelet=self.kubelet)
        applications = (
            RunServiceASGIApplication(Runs(store=self.store, kubelet=self.kubelet, **parts)),
            DataProxyServiceASGIApplication(self.dataproxy),
            ClusterServiceASGIApplication(Clusters()),
            ActionsServiceASGIApplication(Actions(nested)),
            StateServiceASGIApplication(State(nested)),
            QueueServiceASGIApplication(Queue(nested)),
        )
        self._applications: dict[str, Any] = {one.path: one for one in applications}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.inner_port: int = self._listener.getsockname()[1]
        self.wire = Wire(self.faults, self.inner_port)
        quiet: dict[str, Any] = {"log_level": "critical", "access_log": False}
        self._server = Server(uvicorn.Config(self, lifespan="off", timeout_graceful_shutdown=1, **quiet))
        self._serving: asyncio.Task[None] | None = None
        self._closing = False
        self._answering: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Listen to pods and to clients."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        await self.wire.open()
        self.kubelet.endpoint = f"http://127.0.0.1:{self.inner_port}"
        self.dataproxy.endpoint = f"http://127.0.0.1:{self.wire.port}"

    async def close(self) -> None:
        """End every pod and stop listening."""
        await self.wire.close()
        await self.kubelet.close([action for run in self.store.runs.values() for action in run.actions.values()])
        self.groups.close()
        self._closing = True
        for task in self._answering:
            task.cancel()  # who watches would do so for ever
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

    def describe(self) -> dict[str, Any]:
        """Return what a client has to know, and what this machine does not allow."""
        return {
            "endpoint": self.dataproxy.endpoint,
            "inner_endpoint": self.kubelet.endpoint,
            "pods_see_the_client": self.image.why_open,
            "memory_is_polled": self.groups.why_polled,
        }

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request, or say on the error stream why that was not possible."""
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            await self._answer(scope, receive, send)
        except Exception:  # noqa: BLE001 - whatever it is, whoever tests has to see it
            if not self._closing:  # else it was told to end
                traceback.print_exc()
        finally:
            self._answering.discard(task)

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"]
        if path.startswith(ADMIN):
            await self._admin(path.removeprefix(ADMIN), receive, send)
            return
        request = self._name(scope["method"], path)
        if request is not None:
            self.calls.append(request)
            if (refusal := self.faults.refuses(request)) is not None:
                await _refuse(send, refusal)
                return
        if path.startswith((UPLOADS, DOWNLOADS)):
            await self.bucket.signed_request(scope, receive, send)
        elif path.startswith(SERVICES):
            application = self._applications.get(path.rpartition("/")[0])
            if application is None:
                await _answer(send, 404, b"")
            else:
                await application(scope, receive, send)
        else:
            await self.bucket.request(scope, receive, send)

    def _name(self, method: str, path: str) -> str | None:
        if path.startswith(SERVICES):
            return path.rpartition(".")[2]
        if path.startswith((UPLOADS, DOWNLOADS)):
            return f"{method} /{path.split('/')[1]}"
        return None

    async def _admin(self, order: str, receive: Any, send: Any) -> None:
        """Do what a test orders; see `handle.Plane`."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        values = json.loads(body or b"{}")
        answer: object = None
        match order:
            case "faults":
                new = Faults.from_json(values)
                for name in Faults.__slots__:
                    setattr(self.faults, name, getattr(new, name))
            case "lose":
                self.wire.lose(values["seconds"])
            case "forget":
                for key in [key for key in self.store.runs if key[-1] == values["name"]]:
                    del self.store.runs[key]
            case "cut":
                self.wire.cut()
            case "calls":
                answer = self.calls
            case "services":
                self.kubelet.use_actions = values["actions"]
        await _answer(send, 200, json.dumps(answer).encode())


async def _refuse(send: Any, refusal: Refusal) -> None:
    headers = {"retry-after": str(refusal.retry_after_s)} if refusal.retry_after_s is not None else {}
    text = refusal.text
    if refusal.code:
        text, headers["content-type"] = json.dumps({"code": refusal.code, "message": text}), "application/json"
    await _answer(send, refusal.status, text.encode(), headers)


async def _answer(send: Any, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
    all_headers = {"content-length": str(len(content)), **(headers or {})}
    encoded = [(key.encode(), value.encode()) for key, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": content})
