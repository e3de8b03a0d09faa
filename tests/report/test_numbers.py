"""Number formats: as many digits as mean something."""

import pytest

from lightning_modules.report.numbers import (
    format_duration,
    format_exact_duration,
    format_interval,
    format_number,
    format_p,
    number_formatter,
)


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("%", 93.4312, "93.43"),
        ("", 87.30216, "87.302"),
        ("", 0.93667, "0.9367"),
        ("", 4.0, "4.0000"),
        ("", 1234.56, "1234.6"),
        ("", 123456.7, "123457"),
        ("", 1.234e12, "1.234e+12"),
        ("", 2.34e-7, "2.3e-07"),
        ("", 0.0, "0"),
        ("%", 0.0, "0.00"),
        ("%", 0.0012, "0.0012"),
        ("%", -5e-17, "0.00"),
        ("%", 1e300, "1e+300"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(unit: str, value: float, shown: str) -> None:
    seen = 93.0 if unit == "%" else value
    assert number_formatter(unit, seen)(value) == shown


def test_all_numbers_of_a_claim_have_the_digits_of_its_largest() -> None:
    write = number_formatter("", 87.302, 87.4, None, float("nan"))
    assert [write(value, sign=True) for value in (87.302, 0.0712, -0.25, 0.0)] == [
        "+87.302",
        "+0.071",
        "-0.250",
        "0.000",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (0.42, "0.42 s"), (48.4, "48 s"), (754.0, "13 min"), (12240.0, "3.4 h")],
)
def test_times_are_rounded(seconds: float | None, shown: str) -> None:
    assert format_duration(seconds) == shown


def test_an_interval_without_an_end_is_empty() -> None:
    write = number_formatter("%", 93.0)
    assert format_interval((-1.0, 2.5), write, sign=True) == "[-1.00, +2.50]"
    assert format_interval((None, 1.0), write) == format_interval(None, write) == ""


@pytest.mark.parametrize(
    ("p", "shown"), [(None, "–"), (0.00001, "< 0.0001"), (0.0042, "0.0042"), (0.03125, "0.0312"), (1.0, "1.0000")]
)
def test_p_has_four_decimals(p: float | None, shown: str) -> None:
    assert format_p(p) == shown


def test_measured_values_have_four_digits_and_large_ones_all() -> None:
    values = (None, float("nan"), 3.0, 0.123456, 12345.6, 1e16)
    assert [format_number(value) for value in values] == ["", "nan", "3", "0.1235", "12,346", "10,000,000,000,000,000"]


def test_exact_durations_are_to_the_second() -> None:
    assert [format_exact_duration(s) for s in (None, 4.21, 185, 7385)] == ["", "4.2 s", "3:05 min", "2:03:05 h"]
