"""Numbers and settings as text. What is not known is an en dash."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeGuard

NONE = "–"
MINUS = "−"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def known(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 3) -> str:
    """A number to so many significant digits; whole numbers are written out.

    Example:
      >>> number(0.012345), number(-2.5e-7), number(None)
      ('0.0123', '−2.5×10⁻⁷', '–')
    """
    if not known(value):
        return NONE
    if isinstance(value, Integral) or (float(value).is_integer() and 10**digits <= abs(value) < 1e7):
        text = f"{value:,.0f}".replace(",", "\u202f")
    elif value == 0 or 1e-4 <= abs(value) < 10**digits:
        text = f"{value:.{digits}g}"
    elif abs(value) < 1e6 and abs(value) >= 1:
        text = f"{float(f'{value:.{digits}g}'):,.0f}".replace(",", "\u202f")
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{float(mantissa):g}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return text.replace("-", MINUS)


def fixed(value: Any, places: int = 3) -> str:
    """A number with so many decimal places, for columns that line up."""
    if not known(value):
        return NONE
    text = f"{value:.{places}f}" if abs(value) < 1000 or places == 0 else number(value, 4)
    return text.replace("-", MINUS)


def signed(value: Any, places: int = 3) -> str:
    """A difference: always with its sign, except where it rounds to zero."""
    text = fixed(value, places)
    return f"+{text}" if known(value) and round(value, places) > 0 else text.removeprefix(_zero(text))


def percent(value: Any, places: int = 1) -> str:
    """A share as a percentage."""
    return f"{fixed(100 * value, places)}%" if known(value) else NONE


def points(value: Any) -> str:
    """A difference of two shares, in percentage points."""
    return f"{signed(100 * value, 1)} points" if known(value) else NONE


def duration(seconds: Any) -> str:
    """A time span in the unit that suits it."""
    if not known(seconds):
        return NONE
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes / 60:.1f} h"


def plain(value: Any) -> str:
    """Any setting or piece of metadata in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value or NONE
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {plain(item)}" for key, item in value.items()) or NONE
    if isinstance(value, list | tuple):
        shown = ", ".join(plain(item) for item in value[:12]) or NONE
        return f"{shown}, … ({len(value)} in all)" if len(value) > 12 else shown
    return number(value, 6)


def capital(text: str) -> str:
    """The text with its first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


def elided(text: str, length: int) -> str:
    """A text cut in its middle to at most so many characters."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - half]}…{text[-half:]}"


def _zero(text: str) -> str:
    """The sign of a negative zero such as −0.000, which says nothing."""
    return MINUS if text.startswith(MINUS) and not text.strip("−0.") else ""
