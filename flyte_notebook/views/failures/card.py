"""The form below a card: type other limits, see at once whether they are possible, and run again with one click.

ipywidgets is loaded when a form is made. A form is a separate output next to the card: it exists only as long as its
kernel, and the card must be complete without it.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.core.overrides import Override, changes, quick_choices, seconds_text
from flyte_notebook.core.units import format_memory, quantity_memory
from flyte_notebook.views.markup import NO_MATH, line, with_code
from flyte_notebook.views.style import style_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flyte_notebook.core.limits import Limits
    from flyte_notebook.core.overrides import FieldName

logger = logging.getLogger("flyte_notebook.views")

WIDGET_VIEW: Final = "application/vnd.jupyter.widget-view+json"

LABELS: Final[Mapping[FieldName, str]] = {"memory": "Memory", "cpu": "CPU", "timeout": "Timeout", "retries": "Retries"}
CODE_CHARACTERS: Final = 4_000
SETTLED_S: Final = 0.3
"""How long no text has to change before Enter counts; twice as long as between the last two texts, if that is more."""

SLOWEST_S: Final = 2.0
"""Texts that are further apart than this were not typed at once."""

# The text of the code is read from the page, so that the copied and the shown text are the same.
_COPY: Final = (
    "const code=this.parentElement.querySelector('code').textContent;"
    "navigator.clipboard.writeText(code).then(()=>{this.textContent='Copied'})"
)


_REST: Final = "flyte-notebook-rest"

# JupyterLab and Notebook put one output below the other. Where a form that works follows its card, the rest of the card
# is shown below the form instead of above it, so that what to do is on the screen. A form whose kernel has ended says
# so in one line, and its card is complete again.
_CARD: Final = ".jp-OutputArea-child:has(.flyte-notebook-card)"
_LIVE: Final = ".flyte-notebook-form.fnb-works:not(.jupyter-widgets-disconnected)"

FORM_STYLE: Final = (
    f"""
.{_REST}{{display:none}}
{_CARD}+.jp-OutputArea-child {_LIVE} .{_REST}{{display:block;border:0;margin:0;background:none}}
{_CARD}:has(+.jp-OutputArea-child {_LIVE}) .fnb-rest{{display:none}}
"""
    """
.flyte-notebook-form.fnb-works.jupyter-widgets-disconnected>*{display:none!important}
.flyte-notebook-form.fnb-works.jupyter-widgets-disconnected::after{
content:"The kernel was restarted; load the extension and run the cell again.";font-size:.9em;
color:var(--jp-ui-font-color2,inherit)}
.flyte-notebook-form{container-type:inline-size;box-sizing:border-box}
.flyte-notebook-form.fnb-works{padding:.5rem .9rem;margin-right:20px;border-radius:.3rem;
background:var(--jp-layout-color1,var(--vscode-editor-background,inherit));
border:1px solid var(--jp-border-color2,var(--vscode-panel-border,#d1d9e0));border-left:.3rem solid #c62828}
.flyte-notebook-form .flyte-notebook-rest>.fnb-body{padding:.5rem 0 0}
.flyte-notebook-form .fnb-fields{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:.2rem .8rem}
@container (min-width:44rem){.flyte-notebook-form .fnb-fields{grid-template-columns:repeat(4,minmax(0,1fr))}}
.flyte-notebook-form{font:14px/1.5 var(--jp-ui-font-family,var(--vscode-font-family,system-ui,sans-serif));
color:var(--jp-ui-font-color1,var(--vscode-foreground,inherit))}
.flyte-notebook-form .fnb-form-title{font-weight:600}
.flyte-notebook-form .fnb-soft{color:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,inherit));
font-size:.9em}
.flyte-notebook-form .widget-html-content,.flyte-notebook-form .widget-html{overflow:visible;height:auto;
line-height:1.5;white-space:normal;overflow-wrap:anywhere}
.flyte-notebook-form .fnb-problem{border-left:.2rem solid #c62828;padding-left:.4rem;font-size:.85em;
line-height:1.35;margin-bottom:.3rem}
.flyte-notebook-form code{font-family:var(--jp-code-font-family,ui-monospace,monospace);font-size:.92em;
background:var(--jp-layout-color2,var(--vscode-textCodeBlock-background,#f3f4f6));
color:var(--jp-content-font-color1,var(--vscode-foreground,inherit));padding:.1rem .3rem;border-radius:.2rem}
.flyte-notebook-form .fnb-code button{font:inherit;font-size:.85em;cursor:pointer;padding:0 .5rem;
border:1px solid var(--jp-border-color1,var(--vscode-panel-border,#888));border-radius:.2rem;background:transparent;
color:inherit}
.flyte-notebook-form .fnb-status{padding:.15rem 0}
.flyte-notebook-form button.jupyter-button:disabled{opacity:.65}
"""
)


_TITLE: Final = (
    f'<style>{FORM_STYLE}</style><div class="fnb-form-title" role="heading" aria-level="4">Run it again</div>'
)


def warm() -> None:
    """Load the libraries of a form; this takes a part of a second."""
    import ipywidgets  # noqa: F401, PLC0415 - loading is the purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class FormData:
    """What a form begins with: limits and retries of the failed attempt, the suggestion, and the rest of the card.

    ``of_memory`` is whether memory has to do with the failure. ``rest`` is `failure_rest_html`.
    """

    limits: Limits
    retries: int
    suggested: Limits | None = None
    of_memory: bool = True
    rest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Click:
    """What a click does: as code, and in words where that is not what a reader expects.

    ``today`` is empty unless there are other inputs to offer.
    """

    code: str
    words: str = ""
    today: str = ""


class OverrideForm:
    """The widgets of one form. Every method may be called from any thread.

    ``check(texts)`` parses the fields. ``click(override, today)`` returns the effect of a click, with the inputs of
    today or of then. ``on_rerun(override)`` is called by a click, on any thread: it must return at once.
    ``later(seconds, call)`` calls something after a while.
    """

    def __init__(
        self,
        data: FormData,
        *,
        check: Callable[[Mapping[FieldName, str]], Override | dict[FieldName, str]],
        click: Callable[[Override, bool], Click],
        on_rerun: Callable[[Override], object],
        later: Callable[[float, Callable[[], object]], object],
    ) -> None:
        import ipywidgets as widgets  # noqa: PLC0415 - loaded when the first form is made

        self._widgets: Any = widgets
        self._data = data
        self._check, self._click, self._on_rerun, self._later = check, click, on_rerun, later
        self._changed_s = self._gap_s = 0.0
        self._lock = threading.Lock()
        self._override = Override()
        texts = _texts(data)
        self._fields = {name: self._field(name, texts[name], _untouched(data)[name]) for name in LABELS}
        self._problems = {name: widgets.HTML(layout=widgets.Layout(margin="0")) for name in LABELS}
        self._quick = widgets.Box(self._choices(data), layout=widgets.Layout(display="flex", flex_flow="row wrap"))
        self._today = widgets.Checkbox(indent=False, layout=widgets.Layout(display="none", width="auto"))
        self._today.observe(lambda _: self.look(), names="value")
        self._button = widgets.Button(
            description="Rerun",
            icon="repeat",
            button_style="primary",
            tooltip="Run this task again with these settings; if the kernel was restarted, run the cell again instead",
        )
        self._button.on_click(lambda _: self._clicked())
        self._shown_code = widgets.HTML()
        self._status = widgets.HTML()
        self._box = self._laid_out()
        self._typed()

    # its parts

    def _field(self, name: FieldName, text: str, empty: str) -> Any:  # noqa: ANN401 - a widget; ipywidgets has no types
        field = self._widgets.Text(
            value=text,
            placeholder=empty,
            description=LABELS[name],
            continuous_update=True,
            style={"description_width": "4.2rem"},
            layout=self._widgets.Layout(width="auto", margin="0"),
        )
        field.observe(lambda _: self._changed(), names="value")
        field.on_msg(lambda _field, content, _buffers: self._entered(content))
        return field

    def _choices(self, data: FormData) -> list[Any]:
        choices = quick_choices(data.limits) if data.of_memory else ()
        return [self._choice(label, memory_bytes) for label, memory_bytes in choices]

    def _choice(self, label: str, memory_bytes: int) -> Any:  # noqa: ANN401 - a widget
        quantity = quantity_memory(memory_bytes)
        button = self._widgets.Button(
            description=f"{label} = {quantity}",
            tooltip=f"Set memory to {quantity} ({format_memory(memory_bytes)})",
            layout=self._widgets.Layout(width="auto"),
        )
        button.on_click(lambda _: setattr(self._fields["memory"], "value", quantity))
        return button

    def _laid_out(self) -> Any:  # noqa: ANN401 - a widget
        widgets = self._widgets
        wrap = widgets.Layout(display="flex", flex_flow="row wrap", align_items="center", width="100%")
        fields = widgets.Box([widgets.VBox([self._fields[name], self._problems[name]]) for name in LABELS])
        fields.add_class("fnb-fields")
        self._rest = widgets.HTML(_rest_html(self._data))
        children = [
            widgets.HTML(_TITLE),
            fields,
            widgets.Box([self._button, self._quick, self._today], layout=wrap),
            self._shown_code,
            self._status,
            self._rest,
        ]
        box = widgets.VBox(children, layout=widgets.Layout(max_width="60rem", overflow="visible"))
        box.add_class("flyte-notebook-form")
        box.add_class("fnb-works")
        return box

    def bundle(self) -> dict[str, Any]:
        """Return the MIME bundle that shows the form; without its widgets it is empty."""
        view = self._box._repr_mimebundle_()
        return {WIDGET_VIEW: view[WIDGET_VIEW], "text/html": "<span></span>", "text/plain": ""}

    # its actions

    @property
    def texts(self) -> dict[FieldName, str]:
        """The texts in the fields."""
        return {name: str(field.value) for name, field in self._fields.items()}

    def _changed(self) -> None:
        """Note when a text changed: a page sends the next one when it knows that the one before has arrived."""
        now_s = monotonic_s()
        self._changed_s, self._gap_s = now_s, now_s - self._changed_s
        self._typed()

    def _typed(self) -> None:
        """Show errors beside their fields, else the code for a click."""
        checked = self._check(self.texts)
        problems: Mapping[FieldName, str] = checked if isinstance(checked, dict) else {}
        for name, shown in self._problems.items():
            problem = problems.get(name)
            shown.value = "" if problem is None else f'<div class="fnb-problem" role="alert">{line(problem)}</div>'
        self._button.disabled = bool(problems)
        if problems:
            self._shown_code.value = ""  # no click is possible, and the code of an earlier one would be read as this
        if isinstance(checked, Override):
            self._override = changes(checked, self._data.limits, self._data.retries)
            self.look()

    def look(self) -> None:
        """Show the effect of a click, which the notebook's variables may have changed."""
        if self._button.disabled and self._button.description == "Rerun":
            return  # a field is wrong
        click = self._click(self._override, self._today.value)
        self._today.description = click.today
        self._today.layout.display = None if click.today else "none"
        self._shown_code.value = _code_html(click)

    def _clicked(self) -> None:
        with self._lock:  # two clicks in a row are one
            if self._button.disabled:
                return
            self._set_disabled(disabled=True)
        try:
            self._on_rerun(self._override)
        except Exception as error:  # ipywidgets would only print it, and the button would never come back
            logger.exception("a rerun did not begin")
            self._set_disabled(disabled=False)
            self.say(f"✗ it did not begin: {type(error).__name__}: {error}")

    def _entered(self, content: Mapping[str, Any]) -> None:
        """Take Enter in a field as a click, once the last text has arrived: Enter may arrive before it."""
        if content.get("event") == "submit":
            self._click_when_settled()

    def _click_when_settled(self) -> None:
        gap_s = self._gap_s if self._gap_s < SLOWEST_S else 0.0
        left_s = max(SETTLED_S, 2 * gap_s) - (monotonic_s() - self._changed_s)
        if left_s > 0:
            self._later(left_s, self._click_when_settled)
        else:
            self._clicked()

    def _set_disabled(self, *, disabled: bool) -> None:
        for widget in (self._button, *self._quick.children, self._today, *self._fields.values()):
            widget.disabled = disabled

    def running(self, words: str) -> None:
        """Show that a rerun is running; the fields cannot be changed meanwhile."""
        self._set_disabled(disabled=True)
        self._button.description = "Running"
        self.say(words)

    def say(self, words: str) -> None:
        """Show a message below the form."""
        self._status.value = f'<div class="fnb-status" role="status">{with_code(words)}</div>' if words else ""

    def again(self, data: FormData, words: str) -> None:
        """Show a new failure: its limits, its suggestion; the fields can be changed again."""
        self._data = data
        for name, text in _texts(data).items():
            self._fields[name].value = text
            self._fields[name].placeholder = _untouched(data)[name]
        choices, self._quick.children = self._quick.children, self._choices(data)
        for choice in choices:
            _close(choice)
        self._rest.value = _rest_html(data)
        self._button.description = "Rerun"
        self._set_disabled(disabled=False)
        self.say(words)
        self._typed()

    def ask(self, question: str, answers: Sequence[tuple[str, Callable[[], object]]]) -> None:
        """Ask a question with one button for each answer; only the first click counts."""
        answered = threading.Event()
        buttons: list[Any] = []
        for words, act in answers:
            button = self._widgets.Button(description=words, layout=self._widgets.Layout(width="auto"))

            def clicked(_: object, act: Callable[[], object] = act) -> None:
                if not answered.is_set():
                    answered.set()
                    for other in buttons:
                        other.disabled = True
                    act()

            button.on_click(clicked)
            buttons.append(button)
        self._button.description = "Rerun"
        self.say(question)
        *form, rest = self._box.children
        self._box.children = (*form, self._widgets.Box(buttons), rest)

    def finish(self, words: str) -> None:
        """Keep only a last sentence.

        A page that was loaded again gets no message when an output is replaced; there the form shows the result.
        """
        self._status.value = said_html(words)
        self._box.remove_class("fnb-works")
        rest = [child for child in self._box.children if child is not self._status]
        self._box.children = (self._status,)
        for child in rest:
            _close(child)

    def close(self) -> None:
        """End the widgets; the output that shows them has to be replaced before."""
        _close(self._box)


def _close(widget: Any) -> None:  # noqa: ANN401 - a widget
    """Close a widget and its parts: ipywidgets keeps every widget that is not closed."""
    for child in getattr(widget, "children", ()):
        _close(child)
    for part in (widget.layout, getattr(widget, "style", None)):
        if part is not None:
            part.close()
    widget.close()


def said_html(words: str) -> str:
    """Return the replacement of a form that is not needed any more."""
    return f'<style>{FORM_STYLE}</style><div class="flyte-notebook-form fnb-status">{with_code(words)}</div>'


def _texts(data: FormData) -> dict[FieldName, str]:
    limits = data.suggested or data.limits
    runtime = limits.max_runtime_s
    return {
        "memory": "" if limits.memory_bytes is None else quantity_memory(limits.memory_bytes),
        "cpu": "" if limits.cpu_cores is None else f"{limits.cpu_cores:g}",
        "timeout": "" if runtime is None else f"{seconds_text(runtime)}s",
        "retries": str(data.retries),
    }


def _untouched(data: FormData) -> dict[FieldName, str]:
    """Return the meaning of an empty field: the setting of the attempt."""
    had = _texts(FormData(limits=data.limits, retries=data.retries))
    none: Mapping[FieldName, str] = {"memory": "no limit", "cpu": "no limit", "timeout": "none", "retries": "0"}
    return {name: f"as it was: {text}" if text else none[name] for name, text in had.items()}


def _rest_html(data: FormData) -> str:
    """Return the rest of the card, which a front end shows below the form instead of above it, where it can."""
    style = style_of(_REST)
    return f'<div class="{_REST}"><style>{style}</style><div class="fnb-body {NO_MATH}">{data.rest}</div></div>'


def _code_html(click: Click) -> str:
    words = f' <span class="fnb-soft">{with_code(click.words)}</span>' if click.words else ""
    return (
        '<div class="fnb-code"><span class="fnb-soft">The click runs</span> '
        f"<code>{line(click.code, CODE_CHARACTERS)}</code>{words} "
        f'<button type="button" aria-label="Copy this code" onclick="{_COPY}">Copy</button></div>'
    )
