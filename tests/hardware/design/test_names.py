"""Identifiers are C++, unique, deterministic, and never a path out of the folder."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfx.errors import ProjectError
from qfx.hardware.design.names import KEYWORDS, Names, checked_top, identifier, top_name


@given(st.text())
def test_any_text_becomes_an_identifier(text: str) -> None:
    name = identifier(text)
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name), name
    assert name not in KEYWORDS
    assert identifier(text) == name
    assert checked_top(top_name(text)) == top_name(text)
    assert top_name(text) in (name, f"n_{name}")


@given(st.lists(st.sampled_from(["a", "A", "a.b", "a/b", "a_b", "a_2", "../a", "", "int"]), max_size=12))
def test_names_are_unique_whatever_the_case(texts: list[str]) -> None:
    names = Names()
    given_ = [names.new(text, "s") for text in texts]
    assert len({name.lower() for name in given_}) == len(given_)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*_s", name) and "__" not in name for name in given_)


@pytest.mark.parametrize("name", ["net", "Net2", "my_net"])
def test_good_tops(name: str) -> None:
    assert checked_top(name) == name


@pytest.mark.parametrize("name", ["", "2net", "int", "main", "a b", "a-b", "../a", "_net", "a__b", "net;", "é", "x" * 49])
def test_bad_tops(name: str) -> None:
    with pytest.raises(ProjectError, match="cannot name the top function"):
        checked_top(name)
