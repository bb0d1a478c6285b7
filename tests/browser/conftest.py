"""A JupyterLab of the tests' own, and a browser that has it open."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import capabilities
import documents
import pytest
from pages import PATIENCE_S, expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator, Page

TOKEN = "for-tests"  # noqa: S105 - of a server on the loopback that lives as long as the tests
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# No question about news over the page, and nothing asked of the network.
SETTINGS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}

CURRENT = "window.jupyterapp?.shell.currentWidget"
FRONT = "async () => { await window.jupyterapp?.restored; return window.jupyterapp?.name; }"
OPEN = """async (path) => {
    await window.jupyterapp.commands.execute("docmanager:save-all");
    await window.jupyterapp.commands.execute("application:close-all");
    await window.jupyterapp.commands.execute("docmanager:open", {path});
}"""
READY = f"""(name) => {{
    const panel = {CURRENT};
    return panel?.context?.path === name && panel.context.isReady && panel.sessionContext.isReady
        && panel.sessionContext.session?.kernel?.status === "idle" && panel.content.widgets.length > 0;
}}"""
# Outputs of an earlier run are removed first: what a test finds, and types into, is of this run.
RUN = f"""async (index) => {{
    const notebook = {CURRENT}.content;
    notebook.activeCellIndex = index;
    await notebook.scrollToItem(index, "start");
    notebook.widgets[index].model.outputs?.clear();
    await window.jupyterapp.commands.execute("notebook:run-cell").catch(() => null);
}}"""
SHOW = f"async (index) => {{ await {CURRENT}.content.scrollToItem(index, 'start'); }}"
START = RUN.replace("await window.jupyterapp.commands", "window.jupyterapp.commands")
THEME = """async (name) => {
    await window.jupyterapp.commands.execute("apputils:change-theme", {theme: name});
}"""
SHUT_DOWN = f"async () => {{ await {CURRENT}?.sessionContext?.shutdown(); }}"
SHUT_DOWN_ALL = "async () => { await window.jupyterapp?.serviceManager.sessions.shutdownAll(); }"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A server that runs; ``place`` is the folder that it serves."""

    address: str
    place: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Notebook:
    """A notebook that is open in a page, with its kernel ready."""

    page: Page

    def run(self, index: int) -> Locator:
        """Run a cell to its end; return its outputs."""
        self.page.evaluate(RUN, index)
        return self.page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{index}'] .jp-OutputArea")

    def cell(self, index: int) -> Locator:
        """Return a cell, input and outputs."""
        return self.page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{index}']")

    def gives(self, index: int, value: str) -> None:
        """Run a cell to its end, and hold its last line to a value."""
        expect(self.run(index)).to_have_text(re.compile(rf"(^|\n){re.escape(value)}\s*$"), use_inner_text=True)

    def start(self, index: int) -> Locator:
        """Run a cell without waiting for its end; return its outputs."""
        self.page.evaluate(START, index)
        return self.cell(index).locator(".jp-OutputArea")

    def show(self, index: int) -> None:
        """Bring a cell into view; those that are far away are not in the page."""
        self.page.evaluate(SHOW, index)

    def save(self) -> None:
        """Save the notebook."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")

    def shut_down(self) -> None:
        """End the kernel."""
        self.page.evaluate(SHUT_DOWN)

    def theme(self, name: str) -> None:
        """Change the theme: ``Light`` or ``Dark``."""
        self.page.evaluate(THEME, f"JupyterLab {name}")
        self.page.wait_for_selector(f"body[data-jp-theme-name='JupyterLab {name}']", state="attached")


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Start JupyterLab without anybody's settings, and end it with its kernels."""
    home = tmp_path_factory.mktemp("lab")
    place = home / "notebooks"
    settings = home / "config" / "labconfig" / "default_setting_overrides.json"
    for folder in (place, settings.parent):
        folder.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    names = ("CONFIG", "DATA", "RUNTIME")
    own = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in names}
    own |= {f"JUPYTERLAB_{name}_DIR": str(home / name.lower()) for name in ("WORKSPACES", "SETTINGS")}
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"),
        "--JupyterNotebookApp.expose_app_in_browser=True",
        *("--ip=127.0.0.1", f"--port={_free_port()}", f"--IdentityProvider.token={TOKEN}"),
        f"--ServerApp.root_dir={place}",
    ]
    log = home / "server.log"
    with log.open("wb") as written:
        server = subprocess.Popen(command, env=os.environ | own, stdout=written, stderr=subprocess.STDOUT)
    try:
        yield Lab(address=_address(home / "runtime", server, log), place=place)
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a test leave processes: the end of its module is held to it that all are gone, but for the browser."""
    reason = "the browser and its helpers, and the kernel of the notebook that it has open, outlive the test"
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.leaves("process", "group", "file", reason=reason))


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """Start a browser, and end it and what drives it.

    It ends with this folder: while Playwright's synchronous interface is open this thread has a running event loop,
    with which no other test can use ``asyncio.run``.
    """
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - a machine without it skips these tests

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=capabilities.chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Opening:
    """Opens notebooks in one page."""

    def __init__(self, lab: Lab, page: Page) -> None:
        self.lab = lab
        self.page = page

    def __call__(self, name: str, cells: list[str], *, notebook7: bool = False) -> Notebook:
        """Write a notebook with these cells and open it, in JupyterLab or in Notebook 7, with the kernel it has."""
        kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
        documents.written(documents.made(cells, kernelspec=kernel), self.lab.place / name)
        if notebook7 or "JupyterLab" != self.page.evaluate(FRONT):
            return self.reopen(name, notebook7=notebook7)
        self.page.evaluate(OPEN, name)
        self.page.wait_for_function(READY, arg=name)
        return Notebook(page=self.page)

    def reopen(self, name: str, *, notebook7: bool = False) -> Notebook:
        """Open a notebook that is there, as somebody who was away."""
        where = "notebooks" if notebook7 else f"lab/workspaces/{Path(name).stem}-{time.monotonic_ns()}/tree"
        self.page.goto(f"{self.lab.address}{where}/{name}?token={TOKEN}")
        self.page.wait_for_function(READY, arg=name)
        return Notebook(page=self.page)


@pytest.fixture(scope="package")
def front(lab: Lab, chromium: Browser) -> Opening:
    """Give the one page that has JupyterLab open, in which notebooks are opened one after the other."""
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    return Opening(lab, page)


@pytest.fixture(scope="module")
def opened(front: Opening) -> Iterator[Opening]:
    """Give what opens notebooks. Their kernels end with the module."""
    front.page.set_viewport_size({"width": 1050, "height": 1000})
    yield front
    front.page.evaluate(SHUT_DOWN_ALL)


class Pictures:
    """Pictures that a person may look at: `make pictures` makes them, and no test needs them."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def take(self, shown: Locator | Page, name: str, **options: Any) -> None:
        """Make a picture of a part of a page, or of a page."""
        if self._folder is not None:
            shown.screenshot(path=self._folder / f"{name}.png", **options)

    def take_in_both_themes(self, notebook: Notebook, index: int, name: str) -> None:
        """Make a picture of a cell in the dark and in the light theme, which is the one afterwards."""
        for theme in ("Dark", "Light") if self._folder is not None else ():
            notebook.theme(theme)
            notebook.page.locator("#jupyterlab-splash").wait_for(state="detached")
            notebook.page.wait_for_timeout(300)
            self.take(notebook.cell(index), f"{name}_{theme.lower()}")


@pytest.fixture(scope="session")
def pictures(request: pytest.FixtureRequest) -> Pictures:
    """Give what makes pictures, where they are wanted."""
    if "FLYTE_NOTEBOOK_TEST_PICTURES" not in os.environ:
        return Pictures(None)
    folder: Path = request.config.rootpath / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return Pictures(folder)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _address(runtime: Path, server: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the server says where it listens: it takes another port when somebody was faster."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s and server.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError):  # it is being written
                return str(json.loads(path.read_text())["url"])
        time.sleep(0.05)
    server.terminate()
    server.wait(PATIENCE_S)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")
