"""Tests of the text view: what a terminal shows, and that nothing a task writes can disturb it."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from failures import LINES, NASTY, OOM, SEEN, hostile

from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import LastLine, SourceLine
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.views.failures.html import failure_html
from flyte_notebook.views.text import clean, clean_line, failure_text, short_traceback

EXPECTED = """\
OOMError: Ran out of memory (limit 250 MiB) after 0.21 s, on line 4: `return [0] * 10**9`
  task    oomer, attempt 1 of 3
  error   kind user, code OOMKilled
  worker  run-a1-0
  memory  Peak 125 MiB of 250 MiB. Python and Flyte use 36 MiB of that.
          [###############...............] 50% of the limit
  limits  memory: kernel (cgroup v1) · 0.5 CPU: kernel (cgroup v1) · max_runtime 30 s

Your lines:
  In [3], line 12, in pipeline
    12 | total = load(frame)
  In [3], line 4, in load
  > 4 | return [0] * 10**9

Message:
  Pod failed.
  Message:

Last output:
  | epoch 1
  | epoch 2

Try 500Mi, twice the limit.
"""


SAID = "Ran out of memory (limit 250 MiB) after 0.21 s, on line 4: `return [0] * 10**9`"


def test_a_failure_reads_from_its_headline_down() -> None:
    """The text names the error, the measured and the allowed, the line, the message, the output and what to do."""
    assert EXPECTED == failure_text(OOM)


def test_the_short_traceback_is_the_users_lines_and_the_error() -> None:
    """The lines that replace a traceback are the user's own, the failing one marked, and the error in a sentence."""
    expected = [
        "  In [3], line 12, in pipeline",
        "    12 | total = load(frame)",
        "  In [3], line 4, in load",
        "  > 4 | return [0] * 10**9",
        f"OOMError: {SAID}",
    ]
    assert expected == short_traceback(OOM)
    assert [f"OOMError: {SAID}"] == short_traceback(replace(OOM, lines=(), line=None))


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (LastLine(stack=LINES, how="stopped"), "The marked line was running at the kill."),
        (LastLine(stack=LINES, age_s=0.0042), "The marked line was running 4 ms before the kill."),
        (LastLine(stack=LINES, age_s=0.0), "The marked line was running less than 1 ms before the kill."),
        (LastLine(stack=LINES, age_s=2.5), "The marked line was running 2.5 s before the kill."),
        (
            LastLine(stack=LINES, age_s=0.06, how="grew"),
            "The task was waiting at the kill. On the marked line its memory grew last, 60 ms before.",
        ),
    ],
)
def test_how_a_line_is_known_stands_below_it(seen: LastLine, words: str) -> None:
    """A line that no exception told is said to be read before a stop, or when it was last seen."""
    failure = replace(SEEN, report=replace(SEEN.report, last_line=seen))
    assert f"  > 4 | return [0] * 10**9\n  {words}\n" in failure_text(failure)
    assert words in failure_html(failure)


def test_the_lines_that_memory_grew_on_stand_with_how_exact_that_is() -> None:
    """Most first, what gave memory back last, and that samples some milliseconds apart are behind it."""
    expected = """\
Lines on which memory grew:
      +180 MiB  In [3], line 4  return [0] * 10**9
       +10 MiB  In [3], line 12  total = load(frame)
       −20 MiB  In [3], line 5  del old
  Measured every 2-100 ms, so short steps may be counted on the next line.
"""  # noqa: RUF001 - a minus sign
    assert expected in failure_text(SEEN)
    html = failure_html(SEEN)
    assert "<td>+180 MiB</td><td><bdi>In [3], line 4</bdi></td><td><code>return [0] * 10**9</code></td>" in html
    assert "Lines on which memory grew" not in failure_html(OOM)


def test_a_line_without_frames_is_shown() -> None:
    """A failing line that is known without a traceback stands alone, marked."""
    assert "  > 4 | return [0] * 10**9" in short_traceback(replace(OOM, lines=(), line=LINES[-1]))


def test_one_line_that_the_sentence_says_stands_in_it_alone() -> None:
    """Where a killed task was seen in the cell itself, the short traceback is the sentence; with callers they stand."""
    seen = replace(SEEN, headline="killed, on line 12", lines=SEEN.lines[:1], line=SEEN.lines[0])
    assert ["OOMError: Killed, on line 12."] == short_traceback(seen)
    assert 1 < len(SEEN.lines)
    assert 1 < len(short_traceback(SEEN))
    assert 1 == len(short_traceback(replace(SEEN, reason="stopped")))


def test_a_recursion_is_cut_in_the_middle_and_marked_once() -> None:
    """Of a thousand frames the first and the last are shown, and only the innermost is marked."""
    line = SourceLine(file="In [1]", number=2, text="f()")
    lines = short_traceback(replace(OOM, lines=(line,) * 1000, line=line))
    assert 1 == sum(text.startswith("  > ") for text in lines)
    assert lines[-2].startswith("  > ")
    assert "  [… 988 more frames …]" in lines
    assert len(lines) < 40


@pytest.mark.parametrize(
    ("expected", "limit_bytes", "trace"),
    [
        ("Peak not measured, limit 1 GiB.", 2**30, MemoryTrace()),
        ("Peak at least 512 MiB, no limit.", None, MemoryTrace(peak_bytes=2**29)),
        ("Peak 512 MiB of 1 GiB.", 2**30, MemoryTrace(peak_bytes=2**29, peak_source="memory.peak")),
    ],
)
def test_the_peak_is_never_claimed_more_exact_than_it_is(
    expected: str, limit_bytes: int | None, trace: MemoryTrace
) -> None:
    """A sampled peak is a lower bound and says so; one that was not measured is not invented."""
    limits = Limits(memory_bytes=limit_bytes)
    assert f"  memory  {expected}\n" in failure_text(
        replace(OOM, limits=limits, report=replace(OOM.report, trace=trace))
    )


def test_a_message_that_the_headline_holds_is_not_repeated() -> None:
    """A short message that the headline quotes is not shown twice."""
    assert "Message:" not in failure_text(replace(OOM, message="after 0.21 s, on line 4"))


@pytest.mark.parametrize(
    ("shown", "written"),
    [
        ("plain\ttext\n\u05e9\u05dc\u05d5\u05dd 你好", "plain\ttext\n\u05e9\u05dc\u05d5\u05dd 你好"),
        ("red", "\x1b[1;31mred\x1b[0m"),
        ("link", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x07"),
        ("a b", "a\x1b(B b"),
        ("100%", "  0%\r 50%\r100%"),
        ("100%\ndone", " 50%\r100%\r\ndone"),
        ("kept", "kept\r"),
        ("a\u2400b\u2408\u2421", "a\x00b\x08\x7f"),
        ("[U+202E]evil[U+2069]", "\u202eevil\u2069"),
        ("a\\udcffb", "a\udcffb"),
        ("a\nb\nc", "a\u2028b\x85c"),
    ],
)
def test_what_cannot_be_shown_becomes_visible_or_goes(shown: str, written: str) -> None:
    """Colours go, overwritten lines show their last state, hidden characters show; honest text is untouched."""
    assert shown == clean(written, 100)


@pytest.mark.parametrize("keep", ["both", "tail"])
@pytest.mark.parametrize("length", [101, 399, 401, 5_000_000])
def test_a_long_text_keeps_its_ends(keep: str, length: int) -> None:
    """A text that is too long is cut with a note, and its end, the last thing written, stays."""
    shown = clean("first" + "x" * length + "last", 100, keep=keep)
    assert len(shown) < 170
    assert "characters left out" in shown
    assert shown.endswith("last")
    assert shown.startswith("first") is (keep == "both")


def test_a_cut_tail_begins_with_a_whole_line() -> None:
    """The kept tail of an output begins at the start of a line."""
    shown = clean("".join(f"line {number}\n" for number in range(1000)), 100, keep="tail")
    assert shown.split("\n")[1].startswith("line ")


def test_a_line_is_one_line() -> None:
    """Text for one line has no newline in it and ends in an ellipsis where it was cut."""
    assert "a b" == clean_line(" a\nb ")
    assert "aaa…" == clean_line("a" * 1000, 4)


@pytest.mark.parametrize(
    ("part", "times"), [(NASTY, 1), ("\x1b[" + "0" * 10**6, 1), ("x", 50_000_000), ("\r", 10**6), ("\x1b]", 10**6)]
)
def test_no_input_disturbs_the_terminal_or_takes_long(part: str, times: int) -> None:
    """Whatever a task wrote, the text is short, quick to make, encodable, and has no control characters."""
    text = part * times
    begun = time.perf_counter()
    shown = failure_text(hostile(text))
    assert time.perf_counter() - begun < 10
    assert len(shown.encode()) < 50_000
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_a_difference_to_a_cluster_is_said() -> None:
    """Where the reference and today's cluster differ, the text and the card say so in one line; else neither does."""
    noted = replace(OOM, note="the reference says CustomError; today's cluster raises RuntimeUserError")
    assert "  note    the reference says CustomError; today's cluster raises RuntimeUserError" in failure_text(noted)
    assert "Note: the reference says CustomError; today&#x27;s cluster raises RuntimeUserError" in failure_html(noted)
    assert "note  " not in failure_text(OOM)
    assert "Note:" not in failure_html(OOM)
