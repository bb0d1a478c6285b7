"""A failure as plain text: for terminals, logs and notebooks that show nothing else.

It also has `clean`, which is applied to all output of a task before it is shown.
"""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Final

from flyte_notebook.core.units import format_cpu, format_duration, format_memory

if TYPE_CHECKING:
    from flyte_notebook.core.outcome import Failure, SourceLine

BAR_CHARACTERS: Final = 30
LINE_CHARACTERS: Final = 300
FIRST_FRAMES: Final = 3
LAST_FRAMES: Final = 9
OUTPUT_LINES: Final = 12
MESSAGE_LINES: Final = 20
SUGGESTIONS: Final = 5
GREW: Final = 8
LINES_TITLE: Final = "Your lines"
GREW_TITLE: Final = "Lines on which memory grew"
GREW_WORDS: Final = "Measured every 2-100 ms, so short steps may be counted on the next line."
SMALLEST_AGE_S: Final = 0.001
NEAR: Final = 0.9
"""From this part of the limit on, a failure may have to do with memory."""

# CSI, OSC (ended by BEL or ST, or by the line's end when it was cut), and the two-character escapes of ECMA-48.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]")
_LINE_ENDS = re.compile(r"\r+\n|[\v\f\x85\u2028\u2029]")
# C0 and C1 controls except tab and newline, and the marks that reorder or isolate the text after them
# (https://trojansource.codes). The plain direction marks U+200E and U+200F are kept: normal text needs them.
_HIDDEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")


def clean(text: str, characters: int, *, keep: str = "both") -> str:
    """Return ``text`` safe to show, at most about ``characters`` long, with a note where something was left out.

    Escape sequences for terminals are removed; a line that was overwritten with carriage returns shows its last state;
    other control characters, direction overrides and lone surrogates become visible. ``keep`` says which part of a too
    long text is kept: ``"both"`` its ends, ``"tail"`` its end. Linear in ``characters``, not in the text's length.
    """
    reach = 2 * characters
    if len(text) > 2 * reach:  # far too long: process its ends only
        before, after = _made_visible(text[:reach]), _made_visible(text[-reach:])
    else:
        before = after = _made_visible(text)
        if len(before) <= characters:
            return before
    left_out = f"[… about {max(len(text), len(before)) - characters:,} characters left out …]"
    if keep == "tail":
        return f"{left_out}\n{_tail(after, characters)}"
    return f"{before[: characters // 2]}\n{left_out}\n{_tail(after, characters // 2)}"


def clean_line(text: str, characters: int = LINE_CHARACTERS) -> str:
    """Return ``text`` as one line that is safe to show, cut with an ellipsis."""
    line = " ".join(_made_visible(text[: 4 * characters]).split("\n")).strip()
    return line if len(line) <= characters else line[: characters - 1] + "…"


def failure_text(failure: Failure) -> str:
    """Return the whole failure as text of at most a few dozen lines, for a terminal or ``text/plain``."""
    report = failure.report
    parts = [
        f"{title(failure)}: {headline(failure)}",
        f"  task    {clean_line(failure.task_name)}, attempt {failure.attempt + 1} of {failure.max_attempts}",
        f"  error   kind {clean_line(failure.kind)}, code {clean_line(codes(failure))}",
        f"  worker  {clean_line(failure.worker)}",
        f"  memory  {memory_words(failure)}",
    ]
    if failure.note:
        parts.insert(3, f"  note    {clean_line(failure.note, 200)}")
    bar = _bar(failure)
    if bar:
        parts.append(f"          {bar}")
    parts.append(f"  limits  {limit_words(failure)}")
    if failure.lines:
        parts += ["", f"{LINES_TITLE}:", *source_lines(failure), *filter(None, [f"  {line_words(failure)}".rstrip()])]
    grew = grew_rows(failure)
    if grew:
        parts += [
            "",
            f"{GREW_TITLE}:",
            *(f"  {size:>12}  {place}  {text}" for size, place, text in grew),
            f"  {GREW_WORDS}",
        ]
    message = clean(failure.message, 2_000).strip()
    if message and message not in failure.headline:
        parts += ["", "Message:", *(f"  {line}" for line in _middle_cut(message.split("\n")))]
    tail = clean(report.output_tail or failure.output_tail, 4_000, keep="tail").rstrip().split("\n")
    if tail != [""]:
        parts += ["", "Last output:", *(f"  | {clean_line(line)}" for line in tail[-OUTPUT_LINES:])]
    hints = [clean_line(suggestion.sentence) for suggestion in failure.suggestions[:SUGGESTIONS]]
    if hints:
        parts += ["", *hints]
    return "\n".join(parts) + "\n"


def short_traceback(failure: Failure) -> list[str]:
    """Return a few lines in place of a traceback: the user's own lines, then the error in one sentence.

    If there is no exception with a line, the sentence names the line: then lines without more information are left out,
    as are the lines of a stopped task.
    """
    said = failure.report.raised is None and (len(failure.lines) == 1 or failure.reason == "stopped")
    lines = [] if said else source_lines(failure)
    return [*lines, f"{title(failure)}: {headline(failure)}"]


def title(failure: Failure) -> str:
    """Return the class name of the failure's error."""
    return clean_line(type(failure.error).__name__, 120)


def headline(failure: Failure) -> str:
    """Return what happened, as a sentence."""
    return sentence(clean_line(failure.headline, 600))


def sentence(words: str) -> str:
    """Return words that begin with a capital letter and end with a full stop or another mark."""
    return f"{words[:1].upper()}{words[1:]}{'' if words[-1:] in '.!?…:`' else '.'}"


def codes(failure: Failure) -> str:
    """Return the error's code, with that of a cluster where it differs."""
    if failure.wire_code is None or failure.wire_code == failure.code:
        return failure.code
    return f"{failure.code} (a cluster calls it {failure.wire_code})"


def memory_words(failure: Failure) -> str:
    """Return peak against limit as text, and what Python and Flyte use of it."""
    trace, limit_bytes = failure.report.trace, failure.limits.memory_bytes
    if trace.peak_bytes is None:
        return f"Peak not measured, {'no limit' if limit_bytes is None else f'limit {format_memory(limit_bytes)}'}."
    limit = ", no limit" if limit_bytes is None else f" of {format_memory(limit_bytes)}"
    exact = "" if trace.peak_source != "samples" else "at least "
    base = (
        "" if trace.baseline_bytes is None else f" Python and Flyte use {format_memory(trace.baseline_bytes)} of that."
    )
    return f"Peak {exact}{format_memory(trace.peak_bytes)}{limit}.{base}"


def memory_matters(failure: Failure) -> bool:
    """Whether a failure has to do with memory, or may have: a kill for it, a refused request, a peak near the limit."""
    report = failure.report
    peak_bytes, limit_bytes = report.trace.peak_bytes, failure.limits.memory_bytes
    return (
        failure.reason in {"memory", "machine_memory", "never_fits"}
        or report.signal == signal.SIGKILL
        or (report.raised is not None and (report.raised.refused is not None or failure.code == "MemoryError"))
        or bool(peak_bytes and limit_bytes and peak_bytes >= NEAR * limit_bytes)
    )


def limit_words(failure: Failure) -> str:
    """Return the limits of the attempt and the mechanism that enforced each of them."""
    limits, enforcement = failure.limits, failure.report.enforcement
    words = [f"memory: {enforcement.memory_words}"]
    if limits.cpu_cores is not None:
        words.append(f"{format_cpu(limits.cpu_cores)}: {enforcement.cpu_words}")
    return " · ".join([*words, *(f"{name} {format_duration(seconds)}" for name, seconds in limits.times().items())])


def shown_frames(failure: Failure) -> list[tuple[SourceLine, bool] | int]:
    """Return the user's frames to show, outermost first, each with whether it is the failing one.

    A number means that this many frames are left out.
    """
    lines = failure.lines or (() if failure.line is None else (failure.line,))
    # A recursion passes the same line many times; the innermost is the one where it failed.
    failing = max((index for index, line in enumerate(lines) if line == failure.line), default=-1)
    frames: list[tuple[SourceLine, bool] | int] = [(line, index == failing) for index, line in enumerate(lines)]
    left_out = len(frames) - FIRST_FRAMES - LAST_FRAMES
    if left_out > 0:
        frames[FIRST_FRAMES:-LAST_FRAMES] = [left_out]
    return frames


def line_words(failure: Failure) -> str:
    """Return how the marked line is known; empty if an exception says it."""
    seen = failure.report.last_line
    if seen is None or failure.line is None or failure.report.raised is not None:
        return ""
    end = "stop" if failure.reason in {"stopped", "max_runtime", "deadline"} else "kill"
    if seen.how == "stopped":
        return f"The marked line was running at the {end}."
    before = f"{seen.age_s * 1000:.0f} ms" if seen.age_s < 1 else format_duration(seen.age_s)
    before = "less than 1 ms" if seen.age_s < SMALLEST_AGE_S else before
    if seen.how == "grew":
        return f"The task was waiting at the {end}. On the marked line its memory grew last, {before} before."
    return f"The marked line was running {before} before the {end}."


def grew_rows(failure: Failure) -> list[tuple[str, str, str]]:
    """Return the lines on which memory grew: by how much, where, and their text; lines that freed memory come last."""
    rows = []
    for grew in sorted(failure.report.grew, key=lambda grew: grew.grew_bytes, reverse=True)[:GREW]:
        line, sign = grew.line, "+" if grew.grew_bytes > 0 else "−"  # noqa: RUF001 - a minus sign
        size = f"{sign}{format_memory(abs(grew.grew_bytes))}"
        rows.append((size, f"{clean_line(line.file, 120)}, line {line.number}", clean_line(line.text, 120)))
    return rows


def source_lines(failure: Failure) -> list[str]:
    """Return the user's frames, outermost first, two lines each; ``>`` marks the line where it failed."""
    shown = []
    for frame in shown_frames(failure):
        if isinstance(frame, int):
            shown.append(f"  [… {frame} more frames …]")
            continue
        line, failing = frame
        shown.append(f"  {frame_words(line)}")
        shown.append(f"  {'>' if failing else ' '} {line.number} | {clean_line(line.text)}")
    return shown


def frame_words(line: SourceLine) -> str:
    """Return the position of a line: file, number and, when known, function."""
    function = f", in {clean_line(line.function, 80)}" if line.function else ""
    return f"{clean_line(line.file)}, line {line.number}{function}"


def _bar(failure: Failure) -> str:
    peak_bytes, limit_bytes = failure.report.trace.peak_bytes, failure.limits.memory_bytes
    if not peak_bytes or not limit_bytes:
        return ""
    filled = round(min(peak_bytes / limit_bytes, 1) * BAR_CHARACTERS)
    over = "!" if peak_bytes > limit_bytes else ""
    return f"[{'#' * filled}{'.' * (BAR_CHARACTERS - filled)}]{over} {peak_bytes / limit_bytes:.0%} of the limit"


def _middle_cut(lines: list[str]) -> list[str]:
    left_out = len(lines) - MESSAGE_LINES
    if left_out <= 0:
        return lines
    half = MESSAGE_LINES // 2
    return [*lines[:half], f"[… {left_out} lines left out …]", *lines[-half:]]


def _tail(text: str, characters: int) -> str:
    """Return the end of ``text``, from the start of a line when one begins soon enough."""
    end = text[-characters:]
    head, newline, rest = end.partition("\n")
    return rest if newline and len(head) <= characters // 4 and len(end) < len(text) else end


def _made_visible(text: str) -> str:
    text = _LINE_ENDS.sub("\n", _ANSI.sub("", text))
    if "\r" in text:
        text = "\n".join(_last_state(line) for line in text.split("\n"))
    text = _HIDDEN.sub(_shown, text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _last_state(line: str) -> str:
    """Return a terminal's final text for a line that was overwritten, as progress bars do."""
    return line.rstrip("\r").rpartition("\r")[2]


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    # Unicode has a picture for each C0 control and for DEL; anything else is named by its number.
    if code < 0x20:  # noqa: PLR2004 - a code point of Unicode's C0 controls and DEL
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"[U+{code:04X}]"  # noqa: PLR2004 - a code point of Unicode's C0 controls and DEL
