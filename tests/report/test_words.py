"""Numbers as text."""

import doctest
import math

import pytest

from linft.report import words


def test_examples():
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (words.number(0.0), "0"),
        (words.number(12345.6), "12\u202f300"),
        (words.number(1234567), "1\u202f234\u202f567"),
        (words.number(True), "–"),
        (words.number(math.inf), "–"),
        (words.fixed(-0.5), "−0.500"),
        (words.fixed(151.9, 0), "152"),
        (words.fixed(math.nan), "–"),
        (words.signed(0.25), "+0.250"),
        (words.signed(-0.0001), "0.000"),
        (words.signed(None), "–"),
        (words.percent(0.8414), "84.1%"),
        (words.points(-0.0931), "−9.3 points"),
        (words.duration(0.25), "250 ms"),
        (words.duration(125.0), "2 min 5 s"),
        (words.duration(7200.0), "2.0 h"),
        (words.plain(None), "–"),
        (words.plain(False), "no"),
        (words.plain([["head", 10.0]]), "head, 10"),
        (words.plain({"width": 16, "norm": "batch"}), "width: 16; norm: batch"),
        (words.plain(list(range(1000))), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … (1000 in all)"),
        (words.elided("features.denseblock1", 9), "feat…ock1"),
    ],
)
def test_text(made: str, text: str):
    assert made == text
