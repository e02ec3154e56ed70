"""Recipes: TOML both ways, precedence of overrides, and a clear refusal of everything that is not a recipe."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfx import FixedType, OMode, Override, QMode, Recipe, RecipeError, Spec
from qfx.recipe import OPTIONAL_ROLES, ROLES, ObserverName


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    width = draw(st.integers(1, 32))
    o = draw(st.sampled_from(OMode))
    return Spec(
        width,
        draw(st.sampled_from(QMode)),
        o,
        draw(st.integers(0, width)) if o in (OMode.WRAP, OMode.WRAP_SM) else 0,
        draw(st.sampled_from(("tensor", "channel", "element"))),
        draw(st.sampled_from((None, True) if o is OMode.WRAP_SM else (None, True, False))),
        draw(st.none() | st.integers(-100, 100)),
        draw(st.booleans()),
        draw(st.booleans()) and o in (OMode.SAT, OMode.SAT_SYM),  # where a word length has a gradient
        draw(st.sampled_from(get_args(ObserverName))),
        draw(st.floats(0, 100, exclude_min=True) | st.integers(1, 100)),
        draw(st.integers(0, 100)),
        draw(st.booleans()),
    )


@st.composite
def overrides(draw: st.DrawFn) -> Override:
    spec = draw(specs())
    fields = draw(
        st.sets(
            st.sampled_from(("width", "granularity", "signed", "frac_bits", "learn", "learn_width", "learn_range", "q", "observer", "percentile"))
        )
    )
    if draw(st.booleans()):
        fields |= {"o", "n", "width"}
    pattern = draw(st.text(st.characters(codec="utf-8"), min_size=1))
    if spec.learn_width:
        fields -= {"n"}  # which alone is taken for a wrap's, and a wrap gives a word length no gradient
    changes = {name: getattr(spec, name) for name in sorted(fields) if getattr(spec, name) is not None}
    if spec.o is OMode.WRAP_SM or "o" not in changes:
        changes.pop("signed", None)
    return Override(pattern, changes)


@given(
    st.fixed_dictionaries({role: specs() for role in ROLES} | {role: st.none() | specs() for role in OPTIONAL_ROLES}),
    st.sampled_from(("keep", "fold")),
    st.lists(overrides(), max_size=3),
)
def test_toml_there_and_back(roles: dict[str, Spec], batch_norm: Any, changes: list[Override]) -> None:
    recipe = Recipe(**roles, batch_norm=batch_norm, overrides=tuple(changes))
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_files_there_and_back(tmp_path: Path) -> None:
    recipe = Recipe.uniform(4, batch_norm="fold", overrides=(Override("é*\n\"'\\\x7f\t[😀]", {"width": 3, "q": "AP_RND_CONV", "learn": False}),))
    recipe.save(tmp_path / "recipe.toml")
    assert Recipe.load(tmp_path / "recipe.toml") == recipe
    assert copy.deepcopy(recipe) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_what_is_left_out_keeps_its_default() -> None:
    assert Recipe.from_toml("") == Recipe()
    assert Recipe.from_toml("[reciprocal]\nwidth = 9") == Recipe(reciprocal=Spec(9, learn=False))
    text = '[[override]]\npattern = "a.*"\nq = "AP_TRN"\nn = 2\no = "AP_WRAP"\n'
    assert Recipe.from_toml(text) == Recipe(overrides=(Override("a.*", {"q": QMode.TRN, "n": 2, "o": OMode.WRAP}),))


def test_uniform() -> None:
    recipe = Recipe.uniform(5, output=Spec(20))
    assert (recipe.weight, recipe.activation, recipe.output, recipe.bias) == (Spec(5), Spec(5), Spec(20), Recipe().bias)


def test_modes_are_taken_as_text() -> None:
    assert Spec(q="AP_TRN", o="AP_SAT_SYM") == Spec(q=QMode.TRN, o=OMode.SAT_SYM)
    assert Spec(9, "AP_TRN", "AP_WRAP", 2).type(signed=False, frac_bits=4) == FixedType(9, 5, False, QMode.TRN, OMode.WRAP, 2)


def test_patterns_mean_quantizers_or_layers_and_later_ones_win() -> None:
    recipe = Recipe(
        weight=Spec(8),
        overrides=(
            Override("layer1.*", {"width": 6, "granularity": "channel"}),
            Override("layer1.0.conv", {"width": 5}),
            Override("layer?.0.conv.weight", {"width": 4}),
            Override("[ab].weight", {"learn": False}),
        ),
    )
    assert recipe.spec("layer1.0.conv.weight", "weight") == Spec(4, granularity="channel")
    assert recipe.spec("layer1.0.conv.bias", "bias") == Spec(5, granularity="channel")
    assert recipe.spec("layer1.1.conv.bias", "bias") == Spec(6, granularity="channel")
    assert recipe.spec("layer2.0.conv.bias", "bias") == recipe.bias
    assert recipe.spec("a.weight", "weight") == Spec(8, learn=False)
    assert recipe.spec("input", "input") == recipe.input
    assert not Override("conv", {}).matches("conv1.weight")
    assert not Override("CONV1", {}).matches("conv1.weight")
    assert Override("input", {}).matches("input")


def test_n_may_be_meant_for_a_role_that_wraps() -> None:
    recipe = Recipe(activation=Spec(8, o=OMode.WRAP), overrides=(Override("a.output", {"n": 3}),))
    assert recipe.spec("a.output", "activation").n == 3
    with pytest.raises(RecipeError, match="N is 3 with AP_SAT"):
        recipe.spec("a.output", "weight")


def test_a_pattern_that_matches_nothing() -> None:
    names = ["input", "conv1.weight", "conv1.output"]
    Recipe(overrides=(Override("conv1", {}), Override("*.weight", {}))).check_patterns(names)
    for pattern, remedy in (
        ("conv2.weight", "did you mean 'conv1.weight'"),
        ("cnov1", "did you mean 'conv1'"),
        ("zzz", "the names are: input, conv1"),
    ):
        with pytest.raises(RecipeError, match=f"{pattern!r} matches nothing") as caught:
            Recipe(overrides=(Override(pattern, {}),)).check_patterns(names)
        assert remedy in caught.value.remedy
    many = [f"l{i}.weight" for i in range(40)]
    with pytest.raises(RecipeError) as caught:
        Recipe(overrides=(Override("?", {}),)).check_patterns(many)
    assert caught.value.remedy.endswith("...")


BAD_SPECS: dict[str, dict[str, Any]] = {
    "width is 0": {"width": 0},
    "width is 33": {"width": 33},
    "width is '8'": {"width": "8"},
    "width is 8.0": {"width": 8.0},
    "width is True": {"width": True},
    "n is None": {"n": None},
    "N is 9": {"n": 9, "o": "AP_WRAP"},
    "N is 2 with AP_SAT": {"n": 2},
    "q is 'RND'": {"q": "RND"},
    "o is []": {"o": []},
    "granularity is 'row'": {"granularity": "row"},
    "granularity is []": {"granularity": []},
    "signed is 1": {"signed": 1},
    "signed is 'yes'": {"signed": "yes"},
    "frac_bits is 101": {"frac_bits": 101},
    "frac_bits is 1.5": {"frac_bits": 1.5},
    "learn is 1": {"learn": 1},
    "learn_width is None": {"learn_width": None},
    "observer is 'best'": {"observer": "best"},
    "percentile is 0": {"percentile": 0},
    "percentile is nan": {"percentile": float("nan")},
    "percentile is True": {"percentile": True},
    "AP_WRAP_SM on an unsigned type": {"o": "AP_WRAP_SM", "signed": False},
}


@pytest.mark.parametrize("message", BAD_SPECS)
def test_bad_specs(message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Spec(**BAD_SPECS[message])
    assert message in caught.value.what
    assert caught.value.remedy
    if None not in BAD_SPECS[message].values() and "AP_SAT" not in message and "N is" not in message:
        with pytest.raises(RecipeError, match=r"^override 'a': "):
            Override("a", BAD_SPECS[message])


def test_bad_values() -> None:
    bad: list[tuple[Any, str]] = [
        (lambda: Override("", {}), "pattern is ''"),
        (lambda: Override(None, {}), "pattern is None"),  # type: ignore[arg-type]
        (lambda: Override("a", 4), "changes is 4"),  # type: ignore[arg-type]
        (lambda: Override("a", {4: 4}), "unknown field 4"),  # type: ignore[dict-item]
        (lambda: Override("a", {"widht": 4}), "did you mean 'width'"),
        (lambda: Override("a", {"frac_bits": None}), "leave it out"),
        (lambda: Recipe(weight=8), "weight is 8"),  # type: ignore[arg-type]
        (lambda: Recipe(batch_norm="folded"), "batch_norm is 'folded'"),  # type: ignore[arg-type]
        (lambda: Recipe(overrides=Override("a", {})), "overrides is"),  # type: ignore[arg-type]
        (lambda: Recipe(overrides=None), "overrides is None"),  # type: ignore[arg-type]
        (lambda: Recipe(overrides=(1,)), "overrides is 1"),  # type: ignore[arg-type]
    ]
    for make, message in bad:
        with pytest.raises(RecipeError) as caught:
            make()
        assert message in str(caught.value)


BAD_TOML = {
    "[wieght]\nwidth = 3": "unknown field 'wieght'\n  remedy: did you mean 'weight'?",
    "[weight]\nwdith = 3": "recipe.toml [weight]: unknown field 'wdith'\n  remedy: did you mean 'width'?",
    "[weight]\nxyzzy = 3": "known names: width, q,",
    "[weight]\nwidth = 3.0": "[weight]: width is 3.0",
    "[weight]\nwidth = 64": "[weight]: width is 64",
    '[weight]\nq = "AP_ROUND"': "[weight]: q is 'AP_ROUND'\n  remedy: use one of AP_RND,",
    "[weight]\ngranularity = [1]": "[weight]: granularity is [1]",
    "[weight.deep]\nwidth = 3": "unknown field 'deep'",
    "weight = 3": "weight is 3\n  remedy: write it as a table",
    'batch_norm = "fould"': "batch_norm is 'fould'",
    "batch_norm = []": "batch_norm is []",
    "override = 3": "override is 3\n  remedy: write [[override]]",
    '[override]\npattern = "a"': "write [[override]]",
    "[[override]]\nwidth = 3": "give it a pattern",
    "[[override]]\npattern = 3": "pattern is 3",
    '[[override]]\npattern = "a"\nwidht = 3': "override 'a': unknown field 'widht'\n  remedy: did you mean 'width'?",
    '[[override]]\npattern = "a"\nwidth = 99': "override 'a': width is 99",
    "not a recipe": "not TOML",
    "[weight]\nwidth = 3\nwidth = 4": "not TOML",
}


@pytest.mark.parametrize("text", BAD_TOML)
def test_bad_files_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert BAD_TOML[text] in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert caught.value.remedy


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "missing.toml", tmp_path / "binary"):
        with pytest.raises(RecipeError, match="cannot be read") as caught:
            Recipe.load(path)
        assert caught.value.where == str(path)
    with pytest.raises(RecipeError, match="cannot be written"):
        Recipe().save(tmp_path / "missing" / "recipe.toml")


def test_a_recipe_from_before_observers_loads() -> None:
    old = "\n".join(line for line in Recipe.uniform(4).to_toml().splitlines() if not line.startswith(("observer", "percentile")))
    assert Recipe.from_toml(old) == Recipe.uniform(4)
    assert Recipe.from_toml('[activation]\nobserver = "percentile"\npercentile = 99\n').activation == Spec(8, observer="percentile", percentile=99.0)
