"""A real kernel with the extension, connected to the plane."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from kernels import started
from loopback.fixtures import DOMAIN, PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel, Reply
    from loopback.handle import Plane

IMAGE = "example/cells:1"
LOAD = """%load_ext flyte_notebook
import os, dataclasses
import flyte, flyte.errors
import flyte_notebook as fn
flyte.init(endpoint={endpoint!r}, insecure=True, project={project!r}, domain={domain!r})
env = flyte.TaskEnvironment(name="shop", image={image!r}, resources=flyte.Resources(memory="300Mi"))

@env.task
async def half(n: int) -> int:
    if n < 0:
        raise ValueError("below nothing")
    return n // 2
"""


@contextlib.contextmanager
def connected(plane: Plane) -> Iterator[Kernel]:
    """Give a kernel with an environment ``env`` and a task ``half``, until the end."""
    with started() as kernel:
        kernel.run(LOAD.format(endpoint=plane.endpoint, project=PROJECT, domain=DOMAIN, image=IMAGE)).ok()
        yield kernel


def remote(kernel: Kernel, body: str, options: str = "") -> Reply:
    """Run a cell on the plane."""
    return kernel.run(f"%%flyte_task {options} --remote --image {IMAGE}\n{body}")


def init(kernel: Kernel, plane: Plane, more: str = "") -> None:
    """Connect the kernel to the plane again."""
    endpoint = f"endpoint={plane.endpoint!r}, insecure=True, project={PROJECT!r}, domain={DOMAIN!r}"
    kernel.run(f"flyte.init({endpoint}{more})").ok()
