"""``%flyte save`` and ``%flyte saved`` in real kernels: what one saved, the next one shows, draws and compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kernels import started

if TYPE_CHECKING:
    from pathlib import Path

    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

CELL = """%%flyte_task oomer --memory 250Mi --no-raise
size = len(password)
[0] * 10_000_000 * x
"""


def test_yesterdays_run_is_compared_with_todays(kernel: Kernel, tmp_path: Path) -> None:
    """Saved by one kernel and loaded by another: curve, limit and outcome are there; nothing can be run again."""
    kernel.run(f"os.environ.update(XDG_CACHE_HOME={str(tmp_path)!r}, MY_TOKEN='value' + '-of-the-environment')").ok()
    kernel.run("x = 9; password = 'value' + '-of-an-input'").ok()
    kernel.run(CELL).ok()
    place = tmp_path / "flyte-notebook" / "runs.sqlite"
    assert not place.exists()
    name = kernel.value("fn.last_run.name")
    assert f"{name} is saved in {place}" == kernel.run("%flyte save").ok().result
    assert b"password" in place.read_bytes()
    assert b"value-of" not in place.read_bytes()
    kernel.run(f"%flyte save '{tmp_path}/other file'").ok()
    with started() as later:
        later.run("%load_ext flyte_notebook\nimport os, flyte_notebook as fn").ok()
        later.run(f"os.environ['XDG_CACHE_HOME'] = {str(tmp_path)!r}").ok()
        assert name in (later.run("%flyte saved").ok().result or "")
        assert later.value("len(fn.load()[0].actions[0].attempts[0].trace.times_s)") > 3
        assert [name] == later.value(f"list(fn.load('{tmp_path}/other file').names)")
        assert 0 == later.value("len(fn.runs)")
        later.run("x = 1; password = 5 * 'x'").ok()
        later.run(CELL).ok()
        later.run("c = fn.compare(fn.load(), fn.last_run)").ok()
        assert ["OOMError", "succeeded"] == later.value("[row.outcome for row in c.rows]")
        reply = later.run("c").ok()
        assert "250 MiB" in (reply.result or "")
        later.run("import matplotlib; assert fn.load()[0].figure().axes and c.figure().axes").ok()
        raised = later.run("raise fn.load()['oomer'].failure.error")
        assert ("OOMError", "OOMKilled") == (raised.ename, raised.failure["code"])
        assert [] == [bundle for bundle in raised.shown if "application/vnd.jupyter.widget-view+json" in bundle]
        assert "nothing has failed in this kernel" in later.run("%flyte rerun --memory 1Gi").stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%flyte save /", "%flyte save: / is a directory; name a file in it"),
        ("%flyte saved /no/such/file", "%flyte saved: nothing is saved in /no/such/file: there is no such file"),
        ("%flyte saved /dev/null", "%flyte saved: /dev/null is no file of saved runs"),
    ],
)
def test_wrong_use_gets_one_sentence(kernel: Kernel, line: str, words: str) -> None:
    """What is wrong with the path, in one line."""
    kernel.run("%%flyte_task small\n1").ok()
    assert words in kernel.run(line).stderr


def test_words_are_completed(kernel: Kernel) -> None:
    """Tab knows both."""
    assert ["save", "saved"] == kernel.complete("%flyte sav")
