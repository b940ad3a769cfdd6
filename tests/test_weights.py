"""Weights of words are read as users of A1111 write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.weights import fragments

UP, DOWN = 1.1, 1 / 1.1


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        ("a (cat)", [("a ", 1), ("cat", UP)]),
        ("a ((cat))", [("a ", 1), ("cat", UP**2)]),
        ("a [cat]", [("a ", 1), ("cat", DOWN)]),
        ("a (cat:1.3) at night", [("a ", 1), ("cat", 1.3), (" at night", 1)]),
        ("(a (red:1.5) cat:0.5)", [("a ", 0.5), ("red", 0.75), (" cat", 0.5)]),
        ("(cat: .5 )", [("cat", 0.5)]),
        ("(cat:-1)", [("cat", -1)]),
        ("[(cat)]", [("cat", 1)]),
        ("[cat:2]", [("cat:2", DOWN)]),
        ("(ratio 3:4 photo)", [("ratio 3:4 photo", UP)]),
        (r"a \(cat\) \[dog\] \\", [("a (cat) [dog] \\", 1)]),
        ("a (cat", [("a (cat", 1)]),
        ("a cat) (b", [("a cat) (b", 1)]),
        ("(a [b) c]", [("(a ", 1), ("b) c", DOWN)]),
        ("a\\b", [("a\\b", 1)]),
        ("()", []),
        ("(:1.5)", []),
    ],
)
def test_brackets_weigh_words(prompt: str, expected: list[tuple[str, float]]) -> None:
    found = fragments(prompt)
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert all(math.isclose(one, other) for (_, one), (_, other) in zip(found, expected, strict=True))


@given(st.text(st.characters(exclude_characters="()[]\\"), min_size=1))
def test_a_prompt_without_brackets_is_one_piece(prompt: str) -> None:
    assert fragments(prompt) == [(prompt, 1.0)]


@given(st.text("ab:1. ()[]\\", max_size=60))
def test_any_mixture_of_brackets_is_read_and_no_letter_is_made_up(prompt: str) -> None:
    found = fragments(prompt)
    assert all(text and math.isfinite(weight) for text, weight in found)
    rest = iter(prompt)
    assert all(letter in rest for letter in "".join(text for text, _ in found))


@given(st.text("ab ()[]\\"))
def test_what_is_escaped_is_read_as_it_was(prompt: str) -> None:
    escaped = "".join(f"\\{letter}" if letter in "()[]\\" else letter for letter in prompt)
    assert fragments(escaped) == ([(prompt, 1.0)] if prompt else [])
