"""The object store: what pods and bucket owners reach as ``s3://``, and clients through signed addresses.

Of the S3 protocol it has what ``obstore`` uses: put, get with a range, head, delete, list and uploads in parts, with
the bucket in the path. Requests have to be signed by somebody who says the right key; the signature is not checked.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape, unescape

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "loopback"
ACCESS_KEY = "loopback"
SECRET_KEY = "loopback-secret"  # noqa: S105 - of no use anywhere else
CHUNK_BYTES = 1024 * 1024
UPLOADS, DOWNLOADS = "/upload/", "/download/"

Scope = dict[str, Any]


class Bucket:
    """Objects as files in one directory."""

    def __init__(self, place: Path) -> None:
        self._objects, self._parts = place / "objects", place / "parts"
        self._objects.mkdir(parents=True)
        self._parts.mkdir()
        self._secret = secrets.token_bytes(16)

    # For the plane itself.

    def uri(self, *parts: str) -> str:
        """Return the address of an object as pods know it."""
        return "/".join((f"s3://{NAME}", *parts))

    def read(self, uri: str) -> bytes | None:
        """Return an object, ``None`` when there is none."""
        path = self._path(uri.removeprefix(f"s3://{NAME}/"))
        return path.read_bytes() if path.is_file() else None

    def size_bytes(self, uri: str) -> int:
        """Return the size of an object, 0 when there is none."""
        path = self._path(uri.removeprefix(f"s3://{NAME}/"))
        return path.stat().st_size if path.is_file() else 0

    def write(self, uri: str, content: bytes) -> None:
        """Keep an object."""
        path = self._path(uri.removeprefix(f"s3://{NAME}/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def signed(self, prefix: str, key: str, *, seconds: float) -> str:
        """Return the path of an address that whoever has it may use, for so long."""
        until = str(int(time.time() + seconds))
        return f"{prefix}{quote(key)}?until={until}&signature={self._signature(prefix, key, until)}"

    def _signature(self, prefix: str, key: str, until: str) -> str:
        return hmac.new(self._secret, f"{prefix}{key}{until}".encode(), hashlib.sha256).hexdigest()

    def _path(self, key: str) -> Path:
        path = self._objects.joinpath(*[part for part in key.split("/") if part])
        if ".." in key.split("/"):
            raise ValueError(f"No such key: {key}")
        return path

    def _keys(self, prefix: str) -> Iterator[str]:
        for folder, _, names in os.walk(self._objects):
            for name in names:
                key = Path(folder, name).relative_to(self._objects).as_posix()
                if key.startswith(prefix):
                    yield key

    # On the wire.

    async def signed_request(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request to a signed address."""
        path = unquote(scope["raw_path"].decode())
        prefix = UPLOADS if path.startswith(UPLOADS) else DOWNLOADS
        key, query = path.removeprefix(prefix), _query(scope)
        method = "PUT" if prefix == UPLOADS else "GET"
        if not hmac.compare_digest(query.get("signature", ""), self._signature(prefix, key, query.get("until", "0"))):
            await _error(send, 403, "SignatureDoesNotMatch", key)
        elif time.time() > int(query["until"]):
            await _error(send, 403, "AccessDenied", "Request has expired")
        elif scope["method"] != method:
            await _error(send, 405, "MethodNotAllowed", scope["method"])
        elif method == "PUT":
            await self._put(self._path(key), receive, send)
        else:
            await self._get(self._path(key), scope, send)

    async def request(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request as S3 does."""
        method, query = scope["method"], _query(scope)
        bucket, _, key = unquote(scope["raw_path"].decode()).removeprefix("/").partition("/")
        if f"Credential={ACCESS_KEY}/" not in _header(scope, b"authorization"):
            await _error(send, 403, "AccessDenied", "not signed by an owner of this bucket")
        elif bucket != NAME:
            await _error(send, 404, "NoSuchBucket", bucket)
        elif method == "POST" and "delete" in query:
            await self._delete_many(receive, send)
        elif not key:
            await self._list(query, send)
        elif method == "POST" and "uploads" in query:
            upload = secrets.token_hex(8)
            (self._parts / upload).mkdir()
            await _xml(send, "InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>")
        elif method == "PUT" and "uploadId" in query:
            await self._put(self._parts / query["uploadId"] / f"{int(query['partNumber']):06}", receive, send)
        elif method == "POST" and "uploadId" in query:
            await self._complete(key, query["uploadId"], send)
        elif method == "PUT":
            await self._put(self._path(key), receive, send)
        elif method == "DELETE":
            target = self._parts / query["uploadId"] if "uploadId" in query else self._path(key)
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            await _answer(send, 204)
        else:
            await self._get(self._path(key), scope, send)

    async def _put(self, path: Path, receive: Any, send: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.md5(usedforsecurity=False)
        partly = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with partly.open("wb") as file:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    partly.unlink()
                    return
                file.write(message.get("body", b""))
                digest.update(message.get("body", b""))
                more = message.get("more_body", False)
        partly.rename(path)
        await _answer(send, 200, headers={"etag": f'"{digest.hexdigest()}"'})

    async def _get(self, path: Path, scope: Scope, send: Any) -> None:
        if not path.is_file():
            await _error(send, 404, "NoSuchKey", path.name)
            return
        size = path.stat().st_size
        first, last, status = 0, size - 1, 200
        if (wanted := _header(scope, b"range").removeprefix("bytes=")) and size:
            begin, _, end = wanted.partition("-")
            first = int(begin) if begin else max(0, size - int(end))
            last, status = min(int(end), size - 1) if begin and end else size - 1, 206
        headers = {
            "content-length": str(last - first + 1),
            "etag": f'"{path.stat().st_mtime_ns:x}"',
            "last-modified": formatdate(path.stat().st_mtime, usegmt=True),
            "accept-ranges": "bytes",
        }
        if status == 206:
            headers["content-range"] = f"bytes {first}-{last}/{size}"
        await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
        if scope["method"] != "HEAD":
            with path.open("rb") as file:
                file.seek(first)
                left = last - first + 1
                while left > 0 and (data := file.read(min(CHUNK_BYTES, left))):
                    left -= len(data)
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body"})

    async def _complete(self, key: str, upload: str, send: Any) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for part in sorted((self._parts / upload).iterdir()):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file)
        shutil.rmtree(self._parts / upload)
        await _xml(send, "CompleteMultipartUploadResult", f"<Key>{escape(key)}</Key><ETag>{upload}</ETag>")

    async def _delete_many(self, receive: Any, send: Any) -> None:
        text = (await _body(receive)).decode()
        keys = [piece.partition("</Key>")[0] for piece in text.split("<Key>")[1:]]
        for key in keys:
            self._path(unescape(key)).unlink(missing_ok=True)
        await _xml(send, "DeleteResult", "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys))

    async def _list(self, query: dict[str, str], send: Any) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        lines, folders = [], set()
        for key in sorted(self._keys(prefix)):
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                folders.add(f"{prefix}{head}{delimiter}")
                continue
            stat = self._path(key).stat()
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stat.st_mtime))
            lines.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
                f"<ETag>{stat.st_mtime_ns:x}</ETag><Size>{stat.st_size}</Size></Contents>"
            )
        lines += [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)]
        content = f"<Name>{NAME}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"
        await _xml(send, "ListBucketResult", content + "".join(lines))


def _query(scope: Scope) -> dict[str, str]:
    parsed = parse_qs(scope["query_string"].decode(), keep_blank_values=True)
    return {key: values[0] for key, values in parsed.items()}


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode() for key, value in scope["headers"] if key == name), "")


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(key.encode(), value.encode()) for key, value in headers.items()]


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _answer(send: Any, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
    headers = {"content-length": str(len(content)), **(headers or {})}
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": content})


async def _xml(send: Any, name: str, content: str) -> None:
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'
    await _answer(send, 200, text.encode(), {"content-type": "application/xml"})


async def _error(send: Any, status: int, code: str, message: str) -> None:
    text = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    await _answer(send, status, text.encode(), {"content-type": "application/xml"})
