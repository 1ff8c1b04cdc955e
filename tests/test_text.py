"""Names from outside as they are printed, and columns as a terminal counts them."""

import pytest

from xpconv._text import columns_of, pad, printable, wrap


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\nb\tc\rd\x00\x7f", r"a\nb\tc\rd\x00\x7f"),
        ("\x9b31m", r"\x9b31m"),  # the same in one character
        ("\u202egnp.exe", r"\u202egnp.exe"),  # turns the direction of the line
        ("\ud800\udcff", r"\ud800\udcff"),
        ("\u2028", r"\u2028"),
        ("Größe 猫 é", "Größe 猫 é"),
        ("\U0001f469\u200d\U0001f52c", "\U0001f469\u200d\U0001f52c"),  # a joiner within an emoji
        (b"\x1b".decode() + "\\", "\\x1b\\"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert printable(text) == shown


def test_kept_characters():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("猫", 2), ("e\u0301", 1), ("ｱ", 1), ("\uff21", 2), ("", 0)])
def test_columns(text, columns):
    assert columns_of(text) == columns
    assert columns_of(pad(text, 6)) == 6


def test_wrapping():
    lines = list(wrap("one two 猫猫猫 a-word-that-is-much-too-long end", 12, first="label ", indent="  "))
    assert lines == ["label one", "  two 猫猫猫", "  a-word-that-is-much-too-long", "  end"]
    assert list(wrap("eleven-long x", 13, first="label ", indent="  ")) == ["label", "  eleven-long", "  x"]
    assert list(wrap("", 12, first="label ")) == ["label"]
