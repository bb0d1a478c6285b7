"""``DataProxyService`` and ``ClusterService``: uploads, inputs and outputs, logs, links."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from typing import TYPE_CHECKING, Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from flyteidl2.cluster import payload_pb2 as cluster_pb2
from flyteidl2.cluster.service_connect import ClusterService
from flyteidl2.dataproxy import dataproxy_service_pb2 as service_pb2
from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyService
from flyteidl2.logs.dataplane import payload_pb2 as logs_pb2
from flyteidl2.task import common_pb2

from .bucket import DOWNLOADS, UPLOADS
from .records import CLUSTER, CONTAINER, NAMESPACE, Action, Attempt, Store, stamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .bucket import Bucket
    from .faults import Faults

MAX_DOWNLOAD_BYTES = 2 * 1024 * 1024
"""What the backend reads of one object, by default (``maxDownloadMBs``)."""
LINES_AT_ONCE = 100
HOUR_S = 3600


class Clusters(ClusterService):
    """There is one cluster, behind the endpoint that was asked: an empty answer means that."""

    async def select_cluster(
        self, request: cluster_pb2.SelectClusterRequest, ctx: Any
    ) -> cluster_pb2.SelectClusterResponse:
        """Say which cluster to talk to."""
        return cluster_pb2.SelectClusterResponse()


class DataProxy(DataProxyService):
    """What the SDK's client asks about data."""

    def __init__(self, *, store: Store, bucket: Bucket, faults: Faults) -> None:
        self._store, self._bucket, self._faults = store, bucket, faults
        self.endpoint = ""
        """Where clients reach the plane: signed addresses begin with it."""

    async def create_upload_location(
        self, request: service_pb2.CreateUploadLocationRequest, ctx: Any
    ) -> service_pb2.CreateUploadLocationResponse:
        """Return an address to put one object to."""
        digest = base64.b32encode(request.content_md5).decode().strip("=").lower()
        folder = request.filename_root or digest or secrets.token_hex(8)
        key = f"uploads/{request.project}/{request.domain}/{folder}/{request.filename or secrets.token_hex(4)}"
        seconds = request.expires_in.seconds or HOUR_S
        return service_pb2.CreateUploadLocationResponse(
            signed_url=self.endpoint + self._bucket.signed(UPLOADS, key, seconds=seconds),
            native_url=self._bucket.uri(key),
            expires_at=stamp(time.time() + seconds),
        )

    async def upload_inputs(
        self, request: service_pb2.UploadInputsRequest, ctx: Any
    ) -> service_pb2.UploadInputsResponse:
        """Keep the inputs of a run that is about to be created."""
        content = request.inputs.SerializeToString(deterministic=True)
        base = request.base_dir.rstrip("/") or self._bucket.uri("inputs")
        uri = f"{base}/{secrets.token_hex(8)}"
        self._bucket.write(f"{uri}/inputs.pb", content)
        response = service_pb2.UploadInputsResponse()
        response.offloaded_input_data.uri = uri
        response.offloaded_input_data.inputs_hash = base64.b64encode(hashlib.sha256(content).digest()).decode()
        return response

    async def get_action_data(
        self, request: service_pb2.GetActionDataRequest, ctx: Any
    ) -> service_pb2.GetActionDataResponse:
        """Return inputs and outputs. Where one of them is too large, none is read."""
        action = self._action(request.action_id)
        uris = (action.input_uri, f"{action.output_uri}/outputs.pb")
        for what, uri in zip(("inputs", "outputs"), uris, strict=True):
            if (size := self._bucket.size_bytes(uri)) > MAX_DOWNLOAD_BYTES:
                text = f"failed to read {what} from {uri}: object of {size} bytes exceeds limit of 2 MB"
                raise ConnectError(Code.INTERNAL, text)
        inputs, outputs = (self._bucket.read(uri) for uri in uris)
        return service_pb2.GetActionDataResponse(
            inputs=common_pb2.Inputs.FromString(inputs or b""),
            outputs=common_pb2.Outputs.FromString(outputs or b""),
        )

    async def create_download_link(
        self, request: service_pb2.CreateDownloadLinkRequest, ctx: Any
    ) -> service_pb2.CreateDownloadLinkResponse:
        """Return an address to get a report from. Code is refused, as the open-source backend does."""
        if request.artifact_type != service_pb2.ARTIFACT_TYPE_REPORT:
            raise ConnectError(Code.INVALID_ARGUMENT, "artifact_type is required")
        wanted = request.action_attempt_id
        action = self._action(wanted.action_id)
        uri = f"{action.prefix}/{max(1, wanted.attempt)}/report.html"
        if not self._bucket.size_bytes(uri):
            raise ConnectError(Code.NOT_FOUND, f"no report at {uri}")
        key = uri.removeprefix(self._bucket.uri("")).lstrip("/")
        seconds = request.expires_in.seconds or HOUR_S
        response = service_pb2.CreateDownloadLinkResponse()
        response.pre_signed_urls.signed_url.append(self.endpoint + self._bucket.signed(DOWNLOADS, key, seconds=seconds))
        response.pre_signed_urls.expires_at.CopyFrom(stamp(time.time() + seconds))
        return response

    async def tail_logs(
        self, request: service_pb2.TailLogsRequest, ctx: Any
    ) -> AsyncIterator[service_pb2.TailLogsResponse]:
        """Return what a pod has written and, as long as it runs, what it writes.

        One that was deleted is not found, and one that has not begun cannot be read. Lines have no newline.
        """
        action = self._action(request.action_id)
        number = request.attempt or len(action.attempts)
        attempt = action.attempts[number - 1] if 0 < number <= len(action.attempts) else None
        if attempt is None or attempt.deleted or self._faults.logs_gone:
            raise ConnectError(Code.NOT_FOUND, f"pod of attempt {number} of {action.name} not found")
        if not attempt.has_run:
            raise ConnectError(Code.INTERNAL, f"failed to stream pod logs: {CONTAINER} is waiting to start")
        told = 0
        while True:
            grown, closed = attempt.log.grown, attempt.log.closed
            while told < len(attempt.log.lines):
                lines = attempt.log.lines[told : told + LINES_AT_ONCE]
                told += len(lines)
                yield _lines(attempt, lines)
            if closed:
                return
            await grown.wait()

    def _action(self, wanted: Any) -> Action:
        if (action := self._store.action(wanted)) is None:
            raise ConnectError(Code.NOT_FOUND, f"action {wanted.name} of run {wanted.run.name} not found")
        return action


def _lines(attempt: Attempt, lines: list[Any]) -> service_pb2.TailLogsResponse:
    container = logs_pb2.ContainerIdentifier(
        cluster_name=CLUSTER,
        kubernetes_namespace=NAMESPACE,
        kubernetes_pod_name=attempt.pod,
        kubernetes_container_name=CONTAINER,
    )
    content = [
        logs_pb2.LogLine(timestamp=stamp(line.at_s), message=line.text, originator=logs_pb2.USER) for line in lines
    ]
    logs = service_pb2.TailLogsResponse.Logs(lines=content, container=container)
    return service_pb2.TailLogsResponse(logs=[logs])
