"""Tests of quantities: what is read, what is refused and with which words, what is written."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from flyte_notebook.core.units import (
    UnitError,
    format_cpu,
    format_duration,
    format_memory,
    parse_cpu,
    parse_duration,
    parse_memory,
    quantity_memory,
)

MI = 2**20
GI = 2**30


@pytest.mark.parametrize(
    ("memory_bytes", "given"),
    [
        (250 * MI, "250Mi"),
        (1536 * MI, "1.5Gi"),
        (2**10, "1Ki"),
        (2**40, "1Ti"),
        (2**50, "1Pi"),
        (10**3, "1k"),
        (250 * 10**6, "250M"),
        (10**9, "1G"),
        (10**12, "1T"),
        (10**15, "1P"),
        (10**18, "1E"),
        (12_345, "12345"),
        (12_345, 12_345),
        (1_000, "1e3"),
        (512, ".5Ki"),
        (1024, "1.Ki"),
        (250 * MI, " 250Mi\n"),
        (308, "0.3Ki"),  # 307.2, rounded up
    ],
)
def test_a_memory_quantity_means_bytes(memory_bytes: int, given: str | int) -> None:
    """Memory quantities are read as Kubernetes reads them, to the byte."""
    assert memory_bytes == parse_memory(given)


@pytest.mark.parametrize(
    ("right", "given"),
    [
        ("250MB is not a quantity; write 250M (10^6) or 250Mi (2^20)", "250MB"),
        ("250m is not a quantity; write 250M (10^6) or 250Mi (2^20)", "250m"),
        ("250mi is not a quantity; write 250Mi (2^20)", "250mi"),
        ("250 Mi is not a quantity; write 250Mi (2^20)", "250 Mi"),
        ("250MiB is not a quantity; write 250Mi (2^20)", "250MiB"),
        ("1.5gb is not a quantity; write 1.5G (10^9) or 1.5Gi (2^30)", "1.5gb"),
        ("8K is not a quantity; write 8k (10^3) or 8Ki (2^10)", "8K"),
        ("12 bytes is not a quantity; write 12 for bytes, or for example 250Mi", "12 bytes"),
    ],
)
def test_a_near_miss_is_answered_with_the_right_spelling(right: str, given: str) -> None:
    """A quantity with the wrong case, a B or a space is refused with the spelling that was probably meant."""
    with pytest.raises(UnitError) as caught:
        parse_memory(given)
    assert right == str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        *("", "  ", "0", "0Mi", "-5Mi", "nan", "inf", "lots", "Mi", "1_000", "٣Mi", "1e999", "9Ei", "9" * 100),
        *(True, False, 0, -1, 1.5, math.nan, math.inf, None),
    ],
)
def test_what_is_no_memory_is_refused_with_an_example(given: object) -> None:
    """Anything that is not a positive quantity of bytes is refused, and the message shows a right one."""
    with pytest.raises(UnitError, match="250Mi"):
        parse_memory(given)  # type: ignore[arg-type] # wrong on purpose


def test_an_integer_too_long_to_write_out_is_refused() -> None:
    """A number of which Python would not even print the digits gets a clear answer too."""
    with pytest.raises(UnitError, match="more memory than can be counted"):
        parse_memory(10**5000)


@pytest.mark.parametrize(("cores", "given"), [(0.5, "0.5"), (0.5, "500m"), (1.0, 1), (0.5, 0.5), (2.0, "2")])
def test_a_cpu_quantity_means_cores(cores: float, given: str | float) -> None:
    """CPU is read in cores and in thousandths of a core."""
    assert cores == parse_cpu(given)


@pytest.mark.parametrize("given", ["", "0", "-1", "1M", "0.5m", "nan", "inf", math.nan, math.inf, True, None, 10**400])
def test_what_is_no_cpu_is_refused_with_an_example(given: object) -> None:
    """Anything that is not at least a thousandth of a core is refused, and the message shows a right one."""
    with pytest.raises(UnitError, match="500m"):
        parse_cpu(given)  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize(
    ("seconds", "given"),
    [
        (30.0, "30s"),
        (300.0, "5m"),
        (5_400.0, "1h30m"),
        (0.5, "500ms"),
        (90.5, "1m30s500ms"),
        (172_800.0, "2d"),
        (5_400.0, "1.5h"),
        (30.0, "30"),
        (30.0, 30),
        (0.25, 0.25),
        (60.0, timedelta(minutes=1)),
    ],
)
def test_a_duration_means_seconds(seconds: float, given: str | float | timedelta) -> None:
    """Durations are read in any unit, combined from large to small; a bare number is seconds."""
    assert seconds == parse_duration(given)


@pytest.mark.parametrize(
    ("right", "given"),
    [
        ("30 s is not a duration; write 30s", "30 s"),
        ("30sec is not a duration; write 30s", "30sec"),
        ("5min is not a duration; write 5m", "5min"),
        ("2 hours is not a duration; write 2h", "2 hours"),
    ],
)
def test_a_near_miss_of_a_duration_is_answered_with_the_right_spelling(right: str, given: str) -> None:
    """A duration with a space or a longer word for its unit is refused with the right spelling."""
    with pytest.raises(UnitError) as caught:
        parse_duration(given)
    assert right == str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        *("", "0s", "-3s", "1:30", "30m1h", "1h1h", "1e3s", "s", "9999999d"),
        *(0, -1, True, None, math.nan, math.inf, timedelta(0), timedelta(seconds=-1)),
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(given: object) -> None:
    """Anything that is not a positive stretch of time is refused, and the message shows a right one."""
    with pytest.raises(UnitError, match=r"\b(30s|1h30m)\b"):
        parse_duration(given)  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize(
    ("text", "memory_bytes"),
    [
        ("0 B", 0),
        ("1023 B", 1023),
        ("250 KiB", 250 * 2**10),
        ("250 MiB", 250 * MI),
        ("36.4 MiB", 36.42 * MI),
        ("1 GiB", GI),
        ("1.3 GiB", 1.3 * GI),
        ("1 GiB", 1023.7 * MI),
        ("8 EiB", 2**63),
        ("-5 MiB", -5 * MI),
    ],
)
def test_bytes_are_written_for_people(text: str, memory_bytes: float) -> None:
    """Bytes are shown in the unit that keeps the number short, never as 1024 of a smaller one."""
    assert text == format_memory(memory_bytes)


@pytest.mark.parametrize(
    ("quantity", "memory_bytes"),
    [("250Mi", 250 * MI), ("1Gi", GI), ("1536Mi", 1536 * MI), ("1G", 10**9), ("1000001", 1_000_001), ("0", 0)],
)
def test_the_quantity_of_bytes_is_short_and_exact(quantity: str, memory_bytes: int) -> None:
    """The quantity that is written for code is the shortest whole one."""
    assert quantity == quantity_memory(memory_bytes)


@pytest.mark.parametrize("memory_bytes", [1, 999, 1_000, 1_024, 1_048_577, 250 * MI, 10**9, GI, 2**63 - 1, 3 * 10**15])
def test_a_quantity_reads_back_as_the_same_bytes(memory_bytes: int) -> None:
    """Writing a quantity and reading it again loses nothing."""
    assert memory_bytes == parse_memory(quantity_memory(memory_bytes))


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("0 s", 0),
        ("4 ms", 0.004),
        ("0.1 ms", 0.00001),
        ("0.21 s", 0.213),
        ("12.5 s", 12.49),
        ("30 s", 30),
        ("1 min", 59.97),
        ("1 min 30 s", 90),
        ("1 h", 3599.7),
        ("2 h 5 min", 7_500),
        ("3 d 1 h", 262_800),
        ("-5 s", -5),
    ],
)
def test_seconds_are_written_for_people(text: str, duration_s: float) -> None:
    """Durations are shown in at most two units, and never as 60 of a smaller one."""
    assert text == format_duration(duration_s)


@pytest.mark.parametrize(("text", "cores"), [("1 CPU", 1.0), ("0.5 CPU", 0.5), ("0.333 CPU", 1 / 3)])
def test_cores_are_written_for_people(text: str, cores: float) -> None:
    """Cores are shown with at most three decimals."""
    assert text == format_cpu(cores)
