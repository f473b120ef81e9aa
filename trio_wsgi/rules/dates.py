"""HTTP-dates: read in the three forms they may come in, written in one (RFC 9110, section 5.6.7).

Laws:

* Nothing a client sends makes a function of this module raise: what is no date is None.
* There is no clock here: whoever needs the present passes `now`, in whole seconds since 1970.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from functools import lru_cache

_DAYS = b"Mon Tue Wed Thu Fri Sat Sun".split()
# strftime's are translated.
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NUMBERS = {name.encode(): number for number, name in enumerate(MONTHS, 1)}
_TIME = rb"(?P<H>\d\d):(?P<M>\d\d):(?P<S>\d\d)"
_MONTH = rb"(?P<m>" + b"|".join(_NUMBERS) + rb")"
_SHORT_DAY = rb"(?:" + b"|".join(_DAYS) + rb")"
_LONG_DAY = rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_DATE_FORMS = (
    re.compile(_SHORT_DAY + rb", (?P<d>\d\d) " + _MONTH + rb" (?P<y>\d{4}) " + _TIME + rb" GMT"),  # IMF
    re.compile(_LONG_DAY + rb", (?P<d>\d\d)-" + _MONTH + rb"-(?P<y>\d\d) " + _TIME + rb" GMT"),  # RFC 850
    re.compile(_SHORT_DAY + rb" " + _MONTH + rb" (?P<d>[ \d]\d) " + _TIME + rb" (?P<y>\d{4})"),  # asctime
)
_EPOCH = datetime(1970, 1, 1)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_LAST_SECOND = 253402300799  # of the year 9999: a later date has no HTTP form


def parse_http_date(value: bytes, *, now: int | None = None) -> int | None:
    """Read an HTTP-date in any of its three forms (section 5.6.7).

    Args:
        value: the field's value.
        now: the present, for the two-digit years of the RFC 850 form: a date more than 50 years ahead is in
            the past. Without it the window is POSIX's (69 is 1969, 68 is 2068).

    Returns:
        Whole seconds since 1970, maybe negative; None for everything that is not a date, to be ignored.
    """
    value = value.strip(b" \t")
    for form in _DATE_FORMS:
        if found := form.fullmatch(value):
            break
    else:
        return None
    year, month, day = int(found["y"]), _NUMBERS[found["m"]], int(found["d"])
    clock = int(found["H"]), int(found["M"]), int(found["S"])
    if clock[0] > 23 or clock[1] > 59 or clock[2] > 60:  # 60: a leap second is a valid time
        return None
    if len(found["y"]) == 2:
        year = _full_year(year, (month, day, *clock), now)
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:  # the 30th of February, the year 0
        return None
    return days * 86400 + clock[0] * 3600 + clock[1] * 60 + clock[2]


def _full_year(two_digits: int, rest: tuple[int, ...], now: int | None) -> int:
    """Return the latest year with these digits that does not lie more than 50 years after `now`."""
    if now is None or not 0 <= now <= _LAST_SECOND:
        return two_digits + (1900 if two_digits >= 69 else 2000)
    present = _EPOCH + timedelta(seconds=now)
    limit = present.year + 50
    year = limit - (limit - two_digits) % 100
    if year == limit and rest > present.timetuple()[1:6]:
        year -= 100
    return year


@lru_cache(maxsize=256)
def format_http_date(seconds: int) -> bytes | None:
    """Return `seconds` since 1970 as an IMF-fixdate (section 5.6.7); None if its year is not 1970 to 9999."""
    if not 0 <= seconds <= _LAST_SECOND:
        return None
    moment = _EPOCH + timedelta(seconds=seconds)
    month = MONTHS[moment.month - 1].encode()
    clock = b"%02d:%02d:%02d" % (moment.hour, moment.minute, moment.second)
    return b"%s, %02d %s %04d %s GMT" % (_DAYS[moment.weekday()], moment.day, month, moment.year, clock)
