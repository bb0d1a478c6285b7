"""A failed task is run again by a click on its card or by ``%flyte rerun``; in a real kernel, through the widgets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from bounds import under_load
from kernels import CARD, started

from flyte_notebook.core.units import parse_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel, Reply

pytestmark = [pytest.mark.jupyter, pytest.mark.slow]

PATIENCE_S = 40.0
WIDGET = "application/vnd.jupyter.widget-view+json"
RUN_TREE = "flyte-notebook-run"

TOOLS = """
from ipywidgets.widgets import widget as _widgets
_earlier = set(_widgets._instances)

def _all(widget):
    yield widget
    for child in getattr(widget, 'children', ()):
        yield from _all(child)

def _forms():
    "Forms that can be used; one that has ended keeps its last words only."
    living = [w for key, w in list(_widgets._instances.items()) if key not in _earlier]
    ours = [w for w in living if 'flyte-notebook-form' in getattr(w, '_dom_classes', ())]
    return [w for w in ours if len(w.children) > 1]

def _button(words):
    return next(w for w in _all(_forms()[-1]) if getattr(w, 'description', None) == words and hasattr(w, 'click'))

def _field(label):
    return next(w for w in _all(_forms()[-1]) if getattr(w, 'description', None) == label)

def _click(words='Rerun', **fields):
    for label, text in fields.items():
        _field(label.capitalize() if label != 'cpu' else 'CPU').value = text
    _button(words).click()

def _said():
    return ' '.join(w.value for w in _all(_forms()[-1]) if 'HTML' in type(w).__name__) if _forms() else ''
"""

OOM = "%%flyte_task {name} -m 100Mi\nsize = len(b'x' * {size})\nsize + {extra}"


@pytest.fixture(autouse=True)
def _tools(kernel: Kernel) -> None:
    kernel.run(TOOLS).ok()


def until(kernel: Kernel, expression: str) -> None:
    """Ask again and again, a cell each, until an expression is true."""
    end_s = time.monotonic() + PATIENCE_S
    while not kernel.value(f"bool({expression})"):
        assert time.monotonic() < end_s, (expression, kernel.value("_said()"))
        time.sleep(0.1)


def failed(kernel: Kernel, *, name: str = "oomer", size: str = "150_000_000", extra: str = "1") -> Reply:
    """Run a cell that needs more memory than it may have."""
    reply = kernel.run(OOM.format(name=name, size=size, extra=extra))
    assert "OOMError" == reply.ename
    return reply


def updates(reply: Reply, what: str = "fnb-card-") -> list[dict[str, Any]]:
    """Return what a cell's card, or its form, was replaced with, in order."""
    return [
        content["data"]
        for kind, content in reply.events
        if kind == "update_display_data" and content["transient"]["display_id"].startswith(what)
    ]


def ours(reply: Reply) -> list[dict[str, Any]]:
    """Return cards and forms that a cell shows."""
    return [
        content["data"]
        for kind, content in reply.events
        if kind == "display_data" and content["transient"].get("display_id", "").startswith(("fnb-card-", "fnb-form-"))
    ]


def over(kernel: Kernel) -> None:
    """Wait until no form runs anything."""
    until(kernel, "not any(getattr(w, 'description', '') == 'Running' for form in _forms() for w in _all(form))")


def test_a_rerun_that_passes_gives_the_notebook_its_outputs(kernel: Kernel) -> None:
    """By a click, as a message of the front end: outputs and last value land, card and form say so."""
    reply = failed(kernel)
    assert [CARD, WIDGET] == [next(kind for kind in (CARD, WIDGET) if kind in bundle) for bundle in ours(reply)]
    suggested = kernel.value("_field('Memory').value")
    assert 182 < int(suggested.removesuffix("Mi")) < 260  # it asked for 143 MiB, on top of the interpreter
    kernel.run("_field('Memory').value = '400Mi'").ok()
    button = kernel.value("_button('Rerun').model_id")
    click = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", click))
    until(kernel, "'size' in globals()")
    assert 150_000_000 == kernel.value("size")
    over(kernel)
    (card,) = updates(reply)
    assert 'data-rerun="passed"' in card["text/html"]
    assert "✓ rerun with 400Mi succeeded, peak " in card["text/plain"]
    assert "`size` is in the notebook" in card["text/plain"]
    (ended,) = updates(reply, "fnb-form-")
    assert {"text/html": "", "text/plain": ""} == ended, "the card says it"
    assert "150000001" in [bundle.get("text/plain") for bundle in reply.shown]
    assert (0, "oomer", None) == kernel.value("(len(_forms()), fn.last_run.task_name, fn.last_run.failure)")


def test_the_last_words_of_a_form_are_left_when_it_has_ended(kernel: Kernel) -> None:
    """All else of it is closed, layouts and styles too: ipywidgets keeps every widget that is not."""
    failed(kernel)
    kernel.run("_click(memory='400Mi')").ok()
    until(kernel, "not _forms()")
    kernel.run("import time; time.sleep(1)").ok()  # for the live line's own
    left = "sorted(type(w).__name__ for key, w in _widgets._instances.items() if key not in _earlier)"
    assert ["HTML", "HTMLStyle", "Layout", "Layout", "VBox"] == kernel.value(left)
    assert "✓ rerun with 400Mi succeeded" in kernel.value(
        "next(w.value for key, w in _widgets._instances.items() if key not in _earlier and hasattr(w, 'value'))"
    )


def test_a_rerun_that_fails_updates_the_same_card(kernel: Kernel) -> None:
    """The same display, with the new worker; the chart has both attempts, and the form can be used again."""
    reply = failed(kernel)
    first = reply.failure["worker"]
    kernel.run("_click(memory='110Mi')").ok()
    over(kernel)
    (card,) = updates(reply)
    assert 'data-rerun="failed"' in card["text/html"]
    assert first != card[CARD]["worker"]
    assert "✗ rerun with 110Mi: OOMError" in card["text/plain"]
    shown_id = [c["transient"]["display_id"] for k, c in reply.events if k == "display_data" and CARD in c["data"]]
    new_id = [c["transient"]["display_id"] for k, c in reply.events if k == "update_display_data" and CARD in c["data"]]
    assert shown_id == new_id
    assert "rerun 1 (110Mi)" in card["text/html"]
    suggested_bytes = card[CARD]["suggestions"][0]["memory_bytes"]
    assert suggested_bytes > 110 << 20
    assert suggested_bytes == parse_memory(kernel.value("_field('Memory').value"))
    assert "✗ with 110Mi: OOMError" in kernel.value("_said()")
    kernel.run("_click(memory='400Mi')").ok()
    until(kernel, "'size' in globals()")
    over(kernel)
    last = updates(reply)[-1]
    assert 'data-rerun="passed"' in last["text/html"]
    assert "rerun 2 (400Mi)" in last["text/html"]
    assert ["", first] == kernel.value("[fn.runs[-3].rerun_of or '', fn.runs[-1].rerun_of]")


def test_two_clicks_in_a_row_are_one_rerun(kernel: Kernel) -> None:
    """The second finds the button taken."""
    failed(kernel)
    kernel.run(
        "_before = len(fn.runs)\n_field('Memory').value = '400Mi'\nb = _button('Rerun')\nb.click()\nb.click()"
    ).ok()
    until(kernel, "'size' in globals()")
    assert 1 == kernel.value("len(fn.runs) - _before")


def test_a_rerun_while_another_cell_runs_lands_after_it(kernel: Kernel) -> None:
    """The cell that runs does not see its variables change under it."""
    failed(kernel)
    kernel.run(
        "_click(memory='400Mi')\nimport time\nuntil = time.time() + 20\n"
        "while fn.last_run.task_name != 'oomer' or not fn.last_run.actions or not fn.last_run.actions[0].attempts:\n"
        "    time.sleep(0.05)\n    assert time.time() < until\n"
        "import threading\nthread = 'flyte-notebook ' + fn.last_run.name\n"
        "while any(one.name == thread for one in threading.enumerate()):\n"  # it is over, and its outputs wait
        "    time.sleep(0.05)\n    assert time.time() < until\n"
        "time.sleep(0.1)\nseen = 'size' in globals()"
    ).ok()
    assert (False, 150_000_000) == kernel.value("(seen, size)")


CHANGES = {
    "assigned": "size = 'mine'",
    "assigned to what may have its place in memory": "for i in range(5):\n    size = ['mine']",
    "deleted and made anew": "del size\nsize = 'mine'",
    "changed in place": "size.append('mine')",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_notebook_changed_meanwhile_is_asked_for(kernel: Kernel, change: str) -> None:
    """The card asks before it replaces a variable; to keep it changes nothing, and the card says so."""
    kernel.run("size = ['old']").ok()
    reply = failed(kernel)
    kernel.run(change).ok()
    mine = kernel.value("size")
    kernel.run("_click(memory='400Mi')").ok()
    until(kernel, "'Replace it?' in _said()")
    assert mine == kernel.value("size")
    assert "<code>size</code> changed in the notebook since this cell failed" in kernel.value("_said()")
    kernel.run("""_click("Keep the notebook's")""").ok()
    assert (mine, 0) == kernel.value("(size, len(_forms()))")
    assert "the notebook keeps its `size`" in updates(reply)[-1]["text/plain"]


@pytest.mark.parametrize("change", ["size.append(1)", "held = size\nsize = held", "size[0] = 1"])
def test_of_what_is_too_large_to_compare_the_text_of_cells_tells(kernel: Kernel, change: str) -> None:
    """A method called on it, an item set or the name assigned: each may have changed it."""
    kernel.run("size = [b'x' * 2_000_000, 'old']").ok()
    failed(kernel)
    kernel.run(change).ok()
    kernel.run("_click(memory='400Mi')").ok()
    until(kernel, "'Replace it?' in _said()")
    assert kernel.value("'old' in size")
    kernel.run("""_click("Keep the notebook's")""").ok()


def test_what_was_only_looked_at_did_not_change(kernel: Kernel) -> None:
    """Reading a variable, or calling a method that changes nothing, asks for nothing."""
    kernel.run("size = ['old']").ok()
    failed(kernel)
    kernel.run("size.index('old'), sorted(size), len(size)").ok()
    kernel.run("_click(memory='400Mi')").ok()
    until(kernel, "size == 150_000_000")


def test_a_changed_variable_is_replaced_when_asked_to(kernel: Kernel) -> None:
    """By the other answer; the second answer counts no more."""
    failed(kernel)
    kernel.run("size = 'mine'").ok()
    kernel.run("_click(memory='400Mi')").ok()
    until(kernel, "'Replace it?' in _said()")
    kernel.run("""keep = _button("Keep the notebook's")\n_click("Replace")\nkeep.click()\nseen = size""").ok()
    assert ("mine", 150_000_000) == kernel.value("(seen, size)")


def test_a_rerun_has_the_inputs_that_failed(kernel: Kernel) -> None:
    """Whatever the notebook did to them since: changed in place, bound anew, deleted, renamed."""
    kernel.run("import collections\na, b, c, d = [1], 2, {'k': (3,)}, collections.deque([4])").ok()
    reply = kernel.run("%%flyte_task -m 100Mi\ngot = repr((a, b, c, d))\nlen(b'x' * 150_000_000)")
    assert "OOMError" == reply.ename
    kernel.run("a.append('changed')\nb = 'new'\nrenamed = c\ndel c, d").ok()
    kernel.run("_click(memory='400Mi')").ok()
    until(kernel, "'got' in globals()")
    assert "([1], 2, {'k': (3,)}, deque([4]))" == kernel.value("got")
    assert (False, False) == kernel.value("('c' in globals(), 'd' in globals())")


def test_a_form_says_which_inputs_and_which_code_it_takes(kernel: Kernel) -> None:
    """Those of then, where they are others now, and today's when asked; a cell that was written anew is named."""
    kernel.run("amount = 150_000_000").ok()
    failed(kernel, size="amount")
    assert "inputs of then" not in kernel.value("_said()")
    kernel.run("amount = 150_000_000").ok()
    assert "inputs of then" not in kernel.value("_said()"), "the same value"
    kernel.run("amount = 120_000_000").ok()
    assert "with the inputs of then (<code>amount=150000000</code>)" in kernel.value("_said()")
    assert "))(amount=150000000)</code>" in kernel.value("_said()")
    box = "next(w for w in _all(_forms()[-1]) if 'Checkbox' == type(w).__name__)"
    assert "with today's amount" == kernel.value(f"{box}.description")
    kernel.run(f"{box}.value = True").ok()
    assert '))(amount=amount)</code> <span class="fnb-soft">with today&#x27;s inputs</span>' in kernel.value("_said()")
    kernel.run("%%flyte_task oomer\nsize = 3").ok()
    assert "with the code of then; <code>oomer</code> was defined again" in kernel.value("_said()")
    kernel.run("_click(memory='400Mi')").ok()
    until(
        kernel, "'Replace?' in _said() or 'Replace' in str([getattr(w, 'description', '') for w in _all(_forms()[-1])])"
    )
    kernel.run("_button('Replace').click()").ok()
    until(kernel, "size != 3")
    assert 120_000_000 == kernel.value("size")
    over(kernel)


def test_a_rerun_by_a_magic_says_which_inputs_it_took(kernel: Kernel) -> None:
    """Where they are others now: on the card of one that failed, whose line runs the same, and when it passed."""
    kernel.run("amount = 150_000_000").ok()
    failed(kernel, size="amount")
    kernel.run("amount = 1").ok()
    assert "OOMError" == kernel.run("%flyte rerun --memory 120Mi").ename
    assert "(amount=150000000)</code>" in kernel.value("_said()")
    assert "with the inputs of then (<code>amount=150000000</code>)" in kernel.value("_said()")
    reply = kernel.run("%flyte rerun --memory 400Mi").ok()
    assert "it ran with the inputs of then (`amount=150000000`)" in reply.notes


def test_after_a_second_kill_the_suggestion_doubles(kernel: Kernel) -> None:
    """A request that is known suggests just enough; what was killed again needs more than that."""
    reply = failed(kernel, size="300_000_000")
    kernel.run("_click(memory='220Mi')").ok()
    over(kernel)
    assert "448Mi" == kernel.value("_field('Memory').value")
    words = "Try 448Mi, at least twice the limit. It was killed at 100Mi as well"
    assert words in updates(reply)[-1]["text/plain"]


def test_the_same_cell_killed_again_doubles_too(kernel: Kernel) -> None:
    """Whoever changes the first line and runs the cell again gets the same advice as with the form."""
    cell = "%%flyte_task {}\nsize = len(b'x' * 300_000_000)"
    kernel.run(cell.format("-m 100Mi"))
    reply = kernel.run(cell.format("-m 200Mi"))
    assert "at least twice the limit. It was killed at 100Mi as well" in reply.card["text/plain"]


def test_inputs_that_are_not_kept_any_more_are_read_again_by_name(kernel: Kernel) -> None:
    """Pushed out by twenty later failures; the card says so, and the notebook's own values are used."""
    kernel.run("base = 1").ok()
    reply = kernel.run("%%flyte_task -m 100Mi\ngot = base\nlen(b'x' * 150_000_000)")
    kernel.run("_kept_form = _forms()[-1]\nbase = 2").ok()
    kernel.run(
        "env = flyte.TaskEnvironment(name='many')\n@env.task\nasync def bad(n: int) -> int:\n    return 1 // 0\n"
        "@env.task\nasync def all_bad() -> int:\n"
        "    import asyncio\n"
        "    return len(await asyncio.gather(*(bad(n) for n in range(20)), return_exceptions=True))\n"
        "flyte.run(all_bad)"
    ).ok()
    kernel.run("_kept_form in _forms() or 1 / 0").ok()
    kernel.run(
        "next(w for w in _all(_kept_form) if getattr(w, 'description', '') == 'Memory').value = '400Mi'\n"
        "next(w for w in _all(_kept_form) if getattr(w, 'description', '') == 'Rerun').click()"
    ).ok()
    until(kernel, "'got' in globals()")
    assert 2 == kernel.value("got")
    over(kernel)
    assert "its inputs were read again by name" in updates(reply)[-1]["text/plain"]


def test_a_file_with_inputs_that_is_gone_is_said(kernel: Kernel) -> None:
    """By name when the notebook still has the variable, and one clear line when it has not."""
    kernel.run("big = b'y' * 3_000_000").ok()
    reply = kernel.run("%%flyte_task -m 100Mi\nn = len(big)\nlen(b'x' * 150_000_000)")
    assert "OOMError" == reply.ename
    kernel.run(
        "from flyte_notebook.sdk.spooled import spooled\n"
        "import os\npaths = [path for files in spooled._failed.values() for path in files.paths]\n"
        "assert paths\n[os.unlink(path) for path in paths if os.path.exists(path)]"
    ).ok()
    said = kernel.run("%flyte rerun --memory 400Mi").ok()
    assert "the inputs are not kept any more, and were read again by name" == said.notes[-1]
    assert 3_000_000 == kernel.value("n")
    kernel.run("del big").ok()
    runs = kernel.value("len(fn.runs)")
    told = kernel.run("%flyte rerun --memory 400Mi")
    assert "UsageError" == told.ename
    assert ("%flyte rerun: the notebook has no `big` any more; run the cell again") == told.evalue
    kernel.run("_click(memory='400Mi')").ok()
    until(kernel, "'the notebook has no <code>big</code>' in _said()")
    assert runs == kernel.value("len(fn.runs)")
    assert not kernel.value("_button('Rerun').disabled")


PLAIN = """
env = flyte.TaskEnvironment(name='plain', resources=flyte.Resources(memory='100Mi'))

@env.task
async def eater(size: int) -> int:
    return len(b'x' * size)

@env.task
async def outer(size: int) -> int:
    return await eater(size) + 1
"""


def test_a_rerun_of_an_action_assigns_nothing(kernel: Kernel) -> None:
    """Its value is on the card and with the run; the code on the form is the task's own call, and runs."""
    kernel.run(PLAIN).ok()
    reply = kernel.run("flyte.run(outer, 150_000_000)")
    assert ("OOMError", "eater") == (reply.ename, reply.failure["task_name"].rpartition(".")[2])
    kernel.run("before = {*globals()}").ok()
    kernel.run("_field('Memory').value = '400Mi'").ok()
    code = 'await eater.override(resources=flyte.Resources(memory="400Mi"))(size=150000000)'
    assert code in kernel.value("__import__('html').unescape(_said())")
    kernel.run("_click()").ok()
    until(kernel, "not _forms()")
    assert "result `150000000`; its value is in `fn.last_run.outputs`" in updates(reply)[-1]["text/plain"]
    assert ({"result": 150_000_000}, True) == kernel.value("(fn.last_run.outputs, fn.last_run.rerun_of is not None)")
    assert ["before"] == kernel.value("sorted(n for n in {*globals()} - before if n[0] != '_')")
    assert "150000000" == kernel.run(code).ok().result


def test_a_task_that_the_sdk_does_not_override_says_so(kernel: Kernel) -> None:
    """A reusable task keeps its environment's resources; the form and the magic say what the SDK says."""
    kernel.run(
        "env = flyte.TaskEnvironment(name='again', reusable=flyte.ReusePolicy(replicas=1, concurrency=1),\n"
        "    image=flyte.Image.from_debian_base().with_pip_packages('unionai-reuse'))\n"
        "@env.task\nasync def reused() -> int:\n    return 1 // 0"
    ).ok()
    assert "ZeroDivisionError" == kernel.run("flyte.run(reused)").failure["code"]
    kernel.run("_click(memory='400Mi')").ok()
    until(kernel, "'the SDK cannot override this task' in _said()")
    told = kernel.run("%flyte rerun --memory 400Mi")
    assert "UsageError" == told.ename
    assert "%flyte rerun: the SDK cannot override this task: Cannot override resources" in told.evalue


def test_the_keyboard_does_what_the_button_does(kernel: Kernel) -> None:
    """``%flyte rerun`` gives outputs and value; when it fails, a card with the whole story."""
    failed(kernel)
    again = kernel.run("%flyte rerun --memory 110Mi")
    assert "OOMError" == again.ename
    assert "rerun 1 (110Mi)" in again.card["text/html"]
    assert ["running `oomer` with 110Mi again"] == again.notes
    passed = kernel.run("%flyte rerun --memory 400Mi").ok()
    assert "150000001" == passed.result
    assert (150_000_000, 150_000_001) == kernel.value("(size, _)")
    kernel.run("%%flyte_task -m 100Mi\nlen(b'x' * 150_000_000);")
    assert kernel.run("%flyte rerun -m 400Mi").ok().result is None


BAD_LINES = {
    "--memory": "%flyte rerun: --memory needs a value, for example --memory 250Mi",
    "--memory 6OOMi": "%flyte rerun: --memory: 6OOMi is not a memory quantity",
    "--memory 1Ki": "%flyte rerun: 1Ki is less than Python and Flyte need",
    "--memory 1Ei": "%flyte rerun: 1Ei is more than this machine has",
    "--retries 500": "%flyte rerun: '500' is not a number of retries",
    "--quiet": "%flyte rerun: a rerun changes --memory, --cpu, --timeout and --retries only",
    "1Gi": "%flyte rerun: NAME: '1Gi' is not a Python name; write --memory 1Gi",
}


def test_bad_values_get_one_line_and_start_nothing(kernel: Kernel) -> None:
    """Each names what was wrong and what would be right; the history is as before."""
    failed(kernel)
    runs = kernel.value("len(fn.runs)")
    for line, words in BAD_LINES.items():
        reply = kernel.run(f"%flyte rerun {line}")
        assert "UsageError" == reply.ename
        assert reply.evalue.startswith(words), reply.evalue
    assert runs == kernel.value("len(fn.runs)")
    assert {"--memory", "--cpu", "--timeout", "--retries"} == set(kernel.complete("%flyte rerun --"))


def test_a_rerun_can_be_interrupted_and_stopped(kernel: Kernel) -> None:
    """The keyboard's by the kernel's interrupt; a click's by Stop, and not by an interrupt of another cell."""
    kernel.run("%%flyte_task sleeper -t 1s\nimport time\nprint('ready', flush=True)\ntime.sleep(60)")
    reply = kernel.run("%flyte rerun --timeout 100s", interrupt_after="ready")
    assert reply.ename in {"KeyboardInterrupt", "ActionAbortedError"}
    assert reply.late_s < under_load(5)
    shown = kernel.run("%%flyte_task sleeper -t 1s\nimport time\nprint('ready', flush=True)\ntime.sleep(60)")
    kernel.run("_click(timeout='100s')").ok()
    until(kernel, "fn.last_run.rerun_of and fn.last_run.actions")
    kernel.run("print('waiting', flush=True)\nimport time; time.sleep(60)", interrupt_after="waiting")
    assert kernel.value("fn.last_run.failure is None")
    kernel.run("from flyte_notebook.sdk import enforcement\nenforcement.current().stop_run(fn.last_run.name)").ok()
    over(kernel)
    assert "ActionAbortedError" == updates(shown)[-1][CARD]["error"]


def test_what_never_started_has_no_form(kernel: Kernel) -> None:
    """There is nothing to run again, and the magic says what to do."""
    reply = kernel.run("raise flyte.errors.OOMError('OOMKilled', 'by hand', 'user')")
    assert CARD in reply.shown[0]
    assert 1 == len(ours(reply))
    kernel.run("text = 'x' * 5000").ok()
    refused = kernel.run("%%flyte_task --max-inline-io 1Ki\nlen(text)")
    assert "InlineIOMaxBytesBreached" == refused.ename
    assert 1 == len(ours(refused))
    told = kernel.run("%flyte rerun")
    assert "%flyte rerun: nothing was started, so there is nothing to run again" in told.evalue


def test_an_old_form_becomes_text(kernel: Kernel) -> None:
    """The twenty newest cards have one."""
    reply = kernel.run("%%flyte_task\n1 / 0")
    kernel.run("error = fn.last_failure.error\nfirst = _forms()[-1]").ok()
    for _ in range(20):
        kernel.run("raise error.with_traceback(None)")
    assert (20, False) == kernel.value("(len(_forms()), first in _forms())")
    assert "the 20 newest cards have a form" in updates(reply, "fnb-form-")[-1]["text/plain"]


CAUGHT = """
import flyte.errors
def once(n):
    try:
        flyte.run(eater, 150_000_000)
    except flyte.errors.OOMError:
        pass
for n in range({times}):
    once(n)
"""


def trees(reply: Reply) -> list[str]:
    """Return the trees of runs that a cell shows."""
    return [
        bundle["text/html"] for bundle in reply.shown if RUN_TREE in bundle.get("text/html", "") and CARD not in bundle
    ]


def test_a_cell_that_catches_shows_its_tree_once(kernel: Kernel) -> None:
    """A recovered run is shown as a tree; a cell whose card is shown shows none for the same failure."""
    kernel.run(PLAIN).ok()
    reply = kernel.run(CAUGHT.format(times=1)).ok()
    (tree,) = trees(reply)
    assert "OOMError" in tree or "OOMKilled" in tree
    assert [] == trees(kernel.run("1 + 1").ok())
    uncaught = kernel.run("flyte.run(outer, 150_000_000)")
    assert uncaught.card
    assert [] == trees(uncaught)
    nested = kernel.run(
        "@env.task(retries=0)\nasync def saved() -> int:\n    import flyte.errors\n    try:\n"
        "        return await eater(150_000_000)\n    except flyte.errors.OOMError:\n        return 5\n"
        "flyte.run(saved).outputs()[0]"
    )
    assert 1 == len(trees(nested.ok()))


def test_many_caught_failures_stay_few_trees(kernel: Kernel) -> None:
    """Three at most, and how many more there were."""
    kernel.run(PLAIN).ok()
    reply = kernel.run(CAUGHT.format(times=10)).ok()
    assert 3 == len(trees(reply))
    assert ["7 more runs had failures; %flyte runs shows them"] == reply.notes


def test_a_rerun_that_fails_during_a_cell_shows_nothing_in_it(kernel: Kernel) -> None:
    """Its card stands where it was clicked."""
    failed(kernel)
    reply = kernel.run(
        "_click(memory='110Mi')\nimport time\nuntil = time.time() + 20\n"
        "while any(getattr(w, 'description', '') == 'Running' for w in _all(_forms()[-1])):\n"
        "    time.sleep(0.05)\n    assert time.time() < until"
    ).ok()
    assert [] == reply.shown


def test_the_last_run_and_all_runs_can_be_shown(kernel: Kernel) -> None:
    """As HTML and as text."""
    failed(kernel)
    for command in ("last", "runs"):
        (bundle,) = kernel.run(f"%flyte {command}").ok().shown
        assert {"text/html", "text/plain"} <= set(bundle)
        assert "oomer" in bundle["text/html"]
        assert "oomer" in bundle["text/plain"]


@pytest.fixture
def own_kernel() -> Iterator[Kernel]:
    """Give a kernel that may be unloaded and restarted."""
    with started() as kernel:
        kernel.run("%load_ext flyte_notebook\nimport flyte, flyte_notebook as fn\n" + TOOLS).ok()
        yield kernel


def test_a_restarted_kernel_says_what_to_do(own_kernel: Kernel) -> None:
    """Nothing has failed in it, and nobody knows of what failed before."""
    reply = own_kernel.run("%flyte rerun --memory 1Gi")
    assert (
        "%flyte rerun: nothing has failed in this kernel; if it was restarted, run the failed cell again"
    ) == reply.evalue
    last = own_kernel.run("%flyte last")
    assert "nothing has run yet" in last.evalue
    assert own_kernel.run("%flyte runs").ok()


def test_unloading_ends_forms_and_what_runs_beside(own_kernel: Kernel) -> None:
    """Forms become text, runs are stopped, their threads end, and nothing lands afterwards."""
    kernel = own_kernel
    reply = failed(kernel)
    kernel.run(
        "import threading\n_threads = {t.name for t in threading.enumerate() if 'flyte-notebook' in t.name}"
    ).ok()
    slow = kernel.run("%%flyte_task slow --background\nimport time\ntime.sleep(60)\ny = 1").ok()
    kernel.run("handle = _").ok()
    kernel.run("handle.wait(1)\n_click(memory='400Mi', timeout='90s')").ok()
    kernel.run("%unload_ext flyte_notebook").ok()
    assert "the extension was unloaded; run the cell again" in updates(reply, "fnb-form-")[-1]["text/plain"]
    assert (True, "failed", 0) == kernel.value("(handle.done(), handle.state, len(_forms()))")
    assert [] == kernel.value("[t.name for t in threading.enumerate() if 'flyte-notebook' in t.name]")
    assert (False, False) == kernel.value("('y' in globals(), 'size' in globals())")
    assert [] == [bundle for bundle in slow.shown if WIDGET in bundle and CARD in bundle]


def test_what_ipython_binds_for_every_cell_is_asked_about_by_nobody(kernel: Kernel) -> None:
    """A cell that assigns ``_`` in a loop gives it back; the notebook's own ``_`` is no variable of the reader's."""
    kernel.run("1 + 1").ok()
    reply = kernel.run("%%flyte_task looped -m 100Mi\nfor _ in range(3):\n    size = len(b'x' * 150_000_000)\nsize")
    assert "OOMError" == reply.ename
    kernel.run("_click(memory='400Mi')").ok()
    over(kernel)
    until(kernel, "not _forms()")
    assert "✓ rerun with 400Mi succeeded" in updates(reply)[-1]["text/plain"]
    assert 150_000_000 == kernel.value("size")
