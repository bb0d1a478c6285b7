"""The common style of all HTML views."""

from __future__ import annotations

from typing import Final


def theme(css_class: str, *, layer: int) -> str:
    """Return the rules that give an element the colours and fonts of its page.

    ``layer`` is the one of JupyterLab's that is behind the element's text: 0 as the notebook itself, 1 above it.
    """
    return f"""
.{css_class}{{--fnb-text:var(--jp-ui-font-color1,var(--vscode-foreground,#1f2328));
--fnb-soft:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#59636e));
--fnb-page:var(--jp-layout-color{layer},var(--vscode-editor-background,#fff));
--fnb-code:var(--jp-layout-color2,var(--vscode-textCodeBlock-background,#f3f4f6));
--fnb-used:#3f6fb5;background:var(--fnb-page);color:var(--fnb-text);
font:14px/1.5 var(--jp-ui-font-family,var(--vscode-font-family,system-ui,sans-serif))}}
@media (prefers-color-scheme:dark){{.{css_class}{{
--fnb-text:var(--jp-ui-font-color1,var(--vscode-foreground,#e6edf3));
--fnb-soft:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#9aa4af));
--fnb-page:var(--jp-layout-color{layer},var(--vscode-editor-background,#161b22));
--fnb-code:var(--jp-layout-color2,var(--vscode-textCodeBlock-background,#21262d))}}}}
"""


# Colours come from JupyterLab's theme, else VS Code's, else the reader's system. Background and text are always set
# together, so that a dark system and a white page do not mix. Jupyter has its own rules for outputs (it floats dt and
# dd, and breaks words in pre): the same properties are set here, by selectors with more weight. The last rule hides
# JupyterLab's message in place of a form whose kernel has ended ("model not found"): the card above it is complete
# without the form. It hides widget areas that contain only text.
STYLE: Final = (
    theme("flyte-notebook-card", layer=1)
    + """
.flyte-notebook-card{--fnb-edge:var(--jp-border-color2,var(--vscode-panel-border,#d1d9e0));
--fnb-bad:#c62828;--fnb-base:#8aa9d6;
box-sizing:border-box;max-width:60rem;margin:.25rem 0;border:1px solid var(--fnb-edge);
border-left:.3rem solid var(--fnb-bad);border-radius:.3rem}
@media (prefers-color-scheme:dark){.flyte-notebook-card{
--fnb-edge:var(--jp-border-color2,var(--vscode-panel-border,#3d444d))}}
.flyte-notebook-card .fnb-body{padding:.7rem .9rem;overflow-wrap:anywhere}
.flyte-notebook-card .fnb-body{container-type:inline-size}
.flyte-notebook-card .fnb-body>*,.flyte-notebook-card .fnb-rest>*{margin:0 0 .7rem}
.flyte-notebook-card .fnb-body>:last-child,.flyte-notebook-card .fnb-rest>:last-child{margin-bottom:0}
.flyte-notebook-card .fnb-body>.fnb-action{margin:0 0 .5rem}
.flyte-notebook-card .fnb-body ol.fnb-reruns:has(>:only-child){list-style:none;padding:0}
.flyte-notebook-card .fnb-body .fnb-run{margin:0 0 .5rem}
.flyte-notebook-card .fnb-body h3{font-size:1.15em;font-weight:700;line-height:1.3;margin:0 0 .3rem;color:inherit}
.flyte-notebook-card .fnb-body h4{font-size:.85em;font-weight:600;line-height:1.3;margin:0 0 .25rem;
color:var(--fnb-soft)}
.flyte-notebook-card .fnb-body h3 small{font-size:.75em;font-weight:400;color:var(--fnb-soft);margin-left:.5em}
.flyte-notebook-card .fnb-body p{margin:0 0 .3rem}
.flyte-notebook-card .fnb-body>p{margin:0 0 .7rem}
.flyte-notebook-card .fnb-body p:last-child{margin-bottom:0}
.flyte-notebook-card .fnb-body dl{display:flex;flex-wrap:wrap;gap:.3rem .4rem;padding:0;width:auto}
.flyte-notebook-card .fnb-body dl div{display:inline-flex;border:1px solid var(--fnb-edge);border-radius:1rem;
padding:.05rem .65rem;font-size:.85em;max-width:100%;box-sizing:border-box}
.flyte-notebook-card .fnb-body dt{float:none;width:auto;font-weight:400;color:var(--fnb-soft);margin:0 .4em 0 0;
padding:0;white-space:nowrap}
.flyte-notebook-card .fnb-body dd{float:none;width:auto;font-weight:600;margin:0;padding:0;min-width:0}
.flyte-notebook-card .fnb-body .fnb-soft{color:var(--fnb-soft);font-size:.85em}
.flyte-notebook-card .fnb-body pre .fnb-soft{color:var(--fnb-text)}
.flyte-notebook-card .fnb-body svg{display:block;width:100%;height:1rem;margin-bottom:.15rem}
.flyte-notebook-card .fnb-body .fnb-track{fill:var(--fnb-code);stroke:var(--fnb-soft)}
.flyte-notebook-card .fnb-body .fnb-used{fill:var(--fnb-used)}
.flyte-notebook-card .fnb-body .fnb-base{fill:var(--fnb-base)}
.flyte-notebook-card .fnb-body .fnb-limit{stroke:var(--fnb-text)}
.flyte-notebook-card .fnb-body pre{margin:0;padding:.4rem .6rem;border-radius:.2rem;background:var(--fnb-code);
color:inherit;font:12.5px/1.45 var(--jp-code-font-family,var(--vscode-editor-font-family,ui-monospace,monospace));
white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;max-height:24rem;overflow:auto}
.flyte-notebook-card .fnb-body mark{display:block;background:none;color:inherit;font-weight:700;
box-shadow:inset .2rem 0 var(--fnb-bad);margin-left:-.6rem;padding-left:.6rem}
.flyte-notebook-card .fnb-body summary{cursor:pointer;font-size:.85em;font-weight:600;color:var(--fnb-soft)}
.flyte-notebook-card .fnb-body summary:focus-visible{outline:2px solid var(--fnb-used);outline-offset:2px}
.flyte-notebook-card .fnb-body details{margin:0 0 .3rem}
.flyte-notebook-card .fnb-body details pre{margin-top:.3rem}
.flyte-notebook-card .fnb-body ol.fnb-reruns{margin:0 0 .7rem;padding:0 0 0 1.2rem}
.flyte-notebook-card .fnb-body table{border-collapse:collapse;margin:.3rem 0;font-size:.85em;width:auto;
table-layout:auto;color:inherit}
.flyte-notebook-card .fnb-body th,.flyte-notebook-card .fnb-body td{text-align:left;vertical-align:top;
padding:.1rem .8rem .1rem 0;font-weight:400;border:0;background:none;white-space:normal;max-width:none}
.flyte-notebook-card .fnb-body th{color:var(--fnb-soft)}
.flyte-notebook-card .fnb-body tbody tr{background:none}
.flyte-notebook-card .fnb-body tbody tr:nth-child(even){background:var(--fnb-code)}
.flyte-notebook-card .fnb-body img.fnb-chart{display:block;width:100%;max-width:42rem;height:auto;
margin:0 0 .3rem;mix-blend-mode:multiply}
.flyte-notebook-card .fnb-body img.fnb-narrow{display:none}
@container (max-width:28rem){.flyte-notebook-card .fnb-body img.fnb-narrow{display:block!important}
.flyte-notebook-card .fnb-body img.fnb-wide{display:none}}
@media (prefers-color-scheme:dark){.flyte-notebook-card .fnb-body img.fnb-chart{
filter:invert(1) hue-rotate(180deg);mix-blend-mode:screen}}
[data-jp-theme-light="true"] .flyte-notebook-card .fnb-body img.fnb-chart,
.vscode-light .flyte-notebook-card .fnb-body img.fnb-chart{filter:none;mix-blend-mode:multiply}
[data-jp-theme-light="false"] .flyte-notebook-card .fnb-body img.fnb-chart,
.vscode-dark .flyte-notebook-card .fnb-body img.fnb-chart{filter:invert(1) hue-rotate(180deg);mix-blend-mode:screen}
.jp-OutputArea-child:has(.flyte-notebook-card)~.jp-OutputArea-child>.jp-OutputArea-output.jupyter-widgets:not(:has(*)){
display:none}
.flyte-notebook-card[data-rerun="passed"]{border-left-color:#2e7d32}
.flyte-notebook-card[data-reason="stopped"]{border:0}
.flyte-notebook-card[data-reason="stopped"] .fnb-body{padding:.1rem 0}
"""
)


def style_of(css_class: str) -> str:
    """Return the same rules for another root element, by its class."""
    return STYLE.replace(".flyte-notebook-card", f".{css_class}")
