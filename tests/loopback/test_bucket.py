"""The bucket is an S3 to ``obstore``, which is what the SDK reads and writes it with; and it can be started by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from flyteidl2.dataproxy import dataproxy_service_pb2
from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyServiceClientSync

from loopback.fixtures import DOMAIN, PROJECT
from loopback.handle import TESTS

if TYPE_CHECKING:
    from loopback.handle import Plane

pytestmark = [
    pytest.mark.linux,
    pytest.mark.leaves("descriptor", reason="the client of the protocol keeps its connections"),
]

PROGRAM = """
import json, os, sys
import obstore
from obstore.store import S3Store

settings = json.loads(sys.argv[1])
store = S3Store("loopback", client_options={"allow_http": True}, virtual_hosted_style_request=False, **settings)
obstore.put(store, "a/small", b"0123456789")
big = os.urandom(11 * 2**20)
obstore.put(store, "a/b/big", big)
assert big == bytes(obstore.get(store, "a/b/big").bytes()), "what was put in parts is what comes back"
assert b"345" == bytes(obstore.get_range(store, "a/small", start=3, length=3)), "a range"
assert 10 == obstore.head(store, "a/small")["size"], "the size"
assert ["a/b/big", "a/small"] == sorted(one["path"] for one in obstore.list(store, "a").collect()), "a list"
assert ["a/b"] == list(obstore.list_with_delimiter(store, "a")["common_prefixes"]), "a list of folders"
obstore.delete(store, ["a/small", "a/b/big"])
assert [] == obstore.list(store).collect(), "nothing is left"
try:
    obstore.get(store, "a/small")
except FileNotFoundError:
    print("done")
"""


def test_an_owner_puts_gets_lists_and_deletes(plane: Plane) -> None:
    """Objects whole and in parts, ranges of them, folders."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(plane.bucket_settings)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "done\n" == ended.stdout, ended.stderr


def test_who_is_no_owner_gets_nothing(plane: Plane) -> None:
    """Without the key, or with an address that was not signed, or for another method."""
    assert 403 == httpx.get(f"{plane.bucket_endpoint}/loopback/a").status_code
    wanted = dataproxy_service_pb2.CreateUploadLocationRequest(project=PROJECT, domain=DOMAIN, filename="file")
    signed = DataProxyServiceClientSync(plane.endpoint).create_upload_location(wanted).signed_url
    assert 405 == httpx.get(signed).status_code
    assert 403 == httpx.put(signed.replace("file", "other"), content=b"x").status_code
    assert 200 == httpx.put(signed, content=b"x").status_code


def test_a_plane_can_be_started_by_hand() -> None:
    """It says where it listens, and ends on an interrupt with nothing left behind."""
    with subprocess.Popen(
        [sys.executable, "-m", "loopback"],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["endpoint"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait(20)
