"""HTTP-dates: RFC 9110, section 5.6.7."""

from __future__ import annotations

import calendar
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.rules.dates import format_http_date, parse_http_date

THEN = 784111777  # the RFC's own example
IMF = b"Sun, 06 Nov 1994 08:49:37 GMT"
Y2025 = calendar.timegm((2025, 6, 15, 12, 0, 0))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        # §5.6.7: the three forms of one moment
        (IMF, THEN),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", THEN),
        (b"Sun Nov  6 08:49:37 1994", THEN),
        (b"Sun Nov 16 08:49:37 1994", THEN + 864000),
        (b" \t" + IMF + b" ", THEN),
        # §5.6.7: second = 00-60, a leap second
        (b"Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Wed, 31 Dec 1969 23:59:59 GMT", -1),
        (b"Sat, 01 Jan 0001 00:00:00 GMT", -62135596800),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", 253402300799),
        # not dates
        (b"", None),
        (b"0", None),
        (b"784111777", None),
        (b"Sun, 06 Nov 1994 08:49:37", None),
        (b"Sun, 06 Nov 1994 08:49:37 UTC", None),
        (b"Sun, 06 Nov 1994 08:49:37 +0000", None),
        (b"sun, 06 nov 1994 08:49:37 gmt", None),  # §5.6.7: case-sensitive
        (b"Sun, 6 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 24:00:00 GMT", None),
        (b"Sun, 06 Nov 1994 08:60:37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:61 GMT", None),
        (b"Sun, 30 Feb 1994 08:49:37 GMT", None),
        (b"Sun, 00 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 0000 08:49:37 GMT", None),
        (IMF + b", " + IMF, None),  # §13.1.3: more than one member
        (IMF + b"; length=1234", None),
        (IMF + b"\n", None),
        ("Sun, 06 Nov 199٤ 08:49:37 GMT".encode(), None),
    ],
)
def test_dates(value: bytes, seconds: int | None) -> None:
    assert parse_http_date(value) == seconds


@pytest.mark.parametrize(
    ("value", "now", "year"),
    [
        # §5.6.7: more than 50 years in the future is the most recent past year with those digits
        (b"Sunday, 06-Nov-94 08:49:37 GMT", Y2025, 1994),
        (b"Sunday, 06-Nov-24 08:49:37 GMT", Y2025, 2024),
        (b"Sunday, 06-Nov-74 08:49:37 GMT", Y2025, 2074),
        (b"Sunday, 15-Jun-75 12:00:00 GMT", Y2025, 2075),
        (b"Sunday, 15-Jun-75 12:00:01 GMT", Y2025, 1975),
        (b"Sunday, 06-Nov-76 08:49:37 GMT", Y2025, 1976),
        (b"Sunday, 06-Nov-10 08:49:37 GMT", 915148800, 2010),
        # without a clock: POSIX
        (b"Sunday, 06-Nov-68 08:49:37 GMT", None, 2068),
        (b"Sunday, 06-Nov-69 08:49:37 GMT", None, 1969),
    ],
)
def test_years_of_two_digits(value: bytes, now: int | None, year: int) -> None:
    seconds = parse_http_date(value, now=now)
    assert seconds is not None
    assert time.gmtime(seconds).tm_year == year


@given(st.integers(0, 253402300799), st.none() | st.integers())
def test_every_date_written_is_read_back(seconds: int, now: int | None) -> None:
    """§5.6.7: what we generate is an IMF-fixdate."""
    text = format_http_date(seconds)
    assert text is not None
    assert text == time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds)).encode()
    assert parse_http_date(text, now=now) == seconds


def test_dates_that_http_cannot_write() -> None:
    assert format_http_date(-1) is None
    assert format_http_date(253402300800) is None
