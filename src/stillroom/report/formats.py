"""Numbers as a reader wants them: few digits, thousands apart, a true minus sign, a dash where there is none."""

from __future__ import annotations

from collections.abc import Iterable

DASH = "–"
MINUS = "\u2212"


def short(text: str, limit: int = 28) -> str:
    """A text on one line, cut in its middle to ``limit`` characters, for names often differ at their ends.

    >>> short("resnet8 from\\nresnet56, seed 1", 16)
    'resnet8 … seed 1'
    """
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    tail = (limit - 1) // 2
    return f"{line[: limit - 1 - tail]}…{line[len(line) - tail :]}"


def decimal(value: float | None, digits: int = 1) -> str:
    """A number with fixed decimals, or a dash.

    >>> decimal(84.349), decimal(-0.04), decimal(-2.5), decimal(None)
    ('84.3', '0.0', '−2.5', '–')
    """
    if value is None:
        return DASH
    text = f"{abs(value):,.{digits}f}"
    return MINUS + text if value < 0 and text.strip("0.,") else text


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign.

    >>> signed(2.13), signed(-3.41), signed(0.0)
    ('+2.1', '−3.4', '0.0')
    """
    text = decimal(value, digits)
    return text if value <= 0 or not text.strip("0.,") else "+" + text


def whole(value: float | None) -> str:
    """A whole number with its thousands apart, or a dash.

    >>> whole(853018)
    '853,018'
    """
    return DASH if value is None else f"{round(value):,}"


def scaled(value: float | None, unit: str = "") -> str:
    """A large number in thousands, millions or more (decimal), to three digits, or a dash.

    >>> scaled(78042), scaled(12_500_000), scaled(320_000, "B"), scaled(8)
    ('78.0 k', '12.5 M', '320 kB', '8')
    """
    if value is None:
        return DASH
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,950 would be written as 1000 k.
        if value >= factor * 0.9995:
            return f"{three_digits(value / factor)} {prefix}{unit}"
    return f"{value:,.0f} {unit}".rstrip()


def three_digits(value: float) -> str:
    """A positive number to three significant digits, without an exponent.

    >>> three_digits(1.2345), three_digits(12.5), three_digits(320.4), three_digits(0.01234)
    ('1.23', '12.5', '320', '0.0123')
    """
    if value >= 99.95:
        return f"{value:,.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.9995 else f"{value:.3g}"


def times(ratio: float) -> str:
    """A factor: one decimal below 9.95, whole above.

    >>> times(10.93), times(4.21), times(1)
    ('11×', '4.2×', '1.0×')
    """
    return f"{ratio:,.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×"


def factor(teacher: float | None, student: float | None, less: str, more: str) -> tuple[str, str] | None:
    """How a cost of the student compares to the teacher's, and which way; None where either is missing or zero.

    >>> factor(853018, 78042, "fewer", "more"), factor(5, 5, "fewer", "more")
    (('11×', 'fewer'), ('1.0×', ''))
    """
    if not teacher or not student:
        return None
    text = times(max(teacher, student) / min(teacher, student))
    return text, "" if text == "1.0×" else less if teacher >= student else more


def versus(teacher: float | None, student: float | None, less: str, more: str) -> str | None:
    """The same in words.

    >>> versus(853018, 78042, "fewer", "more"), versus(2.0, 3.0, "lower", "higher"), versus(5, 5, "fewer", "more")
    ('11× fewer', '1.5× higher', 'the same')
    """
    found = factor(teacher, student, less, more)
    return None if found is None else f"{found[0]} {found[1]}" if found[1] else "the same"


def amount(value: float | None, digits: int = 2) -> str:
    """A number with fixed decimals, a very large one with an exponent.

    >>> amount(61.204), amount(-2.5e12), amount(-0.001), amount(None)
    ('61.20', '−2.50e+12', '0.00', '–')
    """
    if value is None:
        return DASH
    if abs(value) < 1e7:
        return decimal(value, digits)
    return f"{value:.2e}".replace("-", MINUS, 1) if value < 0 else f"{value:.2e}"


def change(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, as :func:`amount` writes it.

    >>> change(2.0), change(-3e9), change(0.0)
    ('+2.00', '−3.00e+09', '0.00')
    """
    text = amount(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.,") else text


def digits_of(values: Iterable[float | None]) -> int:
    """Decimals by which the largest of some values has three digits.

    >>> digits_of([120.0, None]), digits_of([12.0]), digits_of([-1.2]), digits_of([0.12]), digits_of([0.012])
    (0, 1, 2, 3, 4)
    """
    largest = max((abs(value) for value in values if value is not None), default=1.0)
    ends = (99.95, 9.995, 0.9995, 0.09995)
    return next((place for place, end in enumerate(ends) if largest >= end), 4)


def p_value(value: float | None) -> str:
    """A p, to three decimals; below them only that it is.

    >>> p_value(0.0312), p_value(0.00004), p_value(1.0), p_value(None)
    ('0.031', '< 0.001', '1.000', '–')
    """
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
