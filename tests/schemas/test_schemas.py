"""The schemas of files that people write: what they say is what the readers take."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_docs import PAGES, ROOT, blocks

import qfx
from qfx.cli import main
from qfx.errors import ProjectError, QfxError, RecipeError
from qfx.files import schema_line, schema_name
from qfx.hardware import board as boards
from qfx.hardware.folding import file as folding_file
from qfx.recipe import Override, Recipe, Spec
from qfx.schemas import board, folding, recipe
from qfx.schemas.schemas import SCHEMAS, text

CHECKS = {kind: jsonschema.Draft4Validator(make()) for kind, make in SCHEMAS.items()}
KINDS = sorted(SCHEMAS)


def told(kind: str, data: Any) -> str:
    """What is wrong with the data by the schema; "" if nothing is."""
    return "; ".join(error.message for error in CHECKS[kind].iter_errors(data))


def toml(data: Mapping[str, Any]) -> str:
    """TOML of nested mappings, lists of mappings, texts, numbers and truth values."""
    plain = {key: value for key, value in data.items() if not isinstance(value, Mapping)}
    return "\n".join(
        [f"{json.dumps(key)} = {_value(value)}" for key, value in plain.items()]
        + [f"{json.dumps(k)} = {_value(v)}" for k, v in data.items() if k not in plain]
    )


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(part)}" for key, part in value.items()) + " }"
    return f"[{', '.join(map(_value, value))}]" if isinstance(value, list) else json.dumps(value)


def refusal(kind: str, data: Mapping[str, Any], folder: Path) -> str:
    """What the reader of that kind of file says, "" if it takes it."""
    written = toml(data)
    assert tomllib.loads(written) == data
    place = folder / "a.toml"
    place.write_text(written, encoding="utf-8")
    readers: dict[str, Callable[[], object]] = {
        "recipe": lambda: Recipe.load(place),
        "board": lambda: boards.board(str(place)),
        "folding": lambda: folding_file.read(place),
    }
    try:
        readers[kind]()
    except (RecipeError, ProjectError) as error:
        return error.what
    return ""


GOOD: dict[str, dict[str, Any]] = {
    "recipe": {"batch_norm": "keep", "weight": {"width": 8, "o": "AP_SAT"}, "override": [{"pattern": "a.*", "width": 4}]},
    "board": {"title": "B", "part": "xczu3eg-sbva484-1-i", "lut": 9, "ff": 9, "dsp": 0, "bram36": 0, "uram": 0},
    "folding": {"ports": {"input": 1, "output": {"y": 2}}, "layers": {"conv1": {"pe": 2}}, "fifos": {"a": 3, "b": {"depth": 2, "storage": "lut"}}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_beside_the_definitions_are_what_these_give(kind: str) -> None:
    assert (ROOT / "qfx" / "schemas" / schema_name(kind)).read_text(encoding="utf-8") == text(kind), "make schemas"
    jsonschema.Draft4Validator.check_schema(SCHEMAS[kind]())


def test_every_field_is_described() -> None:
    assert set(recipe.FIELDS) == set(Spec.__dataclass_fields__)
    assert set(recipe.PARTS) == {name for name in Recipe.__dataclass_fields__ if name != "overrides"} | {"override"}
    assert set(board.FIELDS) == {field.name for field in dataclasses.fields(boards.Board)} - {"name"}
    assert set(folding.FIELDS) == {*folding_file.TABLES, *folding_file.PORTS, *folding_file.LAYER_KEYS, *folding_file.FIFO_KEYS, "merged"}


def test_the_command_prints_and_writes_them(tmp_path: Path) -> None:
    for kind in KINDS:
        assert CliRunner().invoke(main, ["schema", kind]).stdout == text(kind)
    place = tmp_path / "recipe.schema.json"
    assert CliRunner().invoke(main, ["schema", "recipe", "-o", str(place)]).exit_code == 0
    assert place.read_text() == text("recipe")
    again = CliRunner().invoke(main, ["schema", "recipe", "-o", str(place)])
    assert again.exit_code == 2
    assert "exists" in again.stderr
    assert CliRunner().invoke(main, ["schema", "design"]).exit_code == 2


def test_files_that_qfx_writes_name_their_schema_and_fit_it(tmp_path: Path) -> None:
    made = Recipe(operand=Spec(3), table_error=0.5, overrides=(Override("a", {"q": "AP_TRN", "n": 2, "o": "AP_WRAP"}),))
    made.save(tmp_path / "recipe.toml")
    written = (tmp_path / "recipe.toml").read_text()
    assert written.startswith(schema_line("recipe") + "\n")
    assert told("recipe", tomllib.loads(written)) == ""
    assert Recipe.load(tmp_path / "recipe.toml") == made
    for place in (ROOT / "hls" / "boards").glob("*.toml"):
        first, _, rest = place.read_text().partition("\n")
        assert first.startswith("#:schema ")
        assert (place.parent / first.removeprefix("#:schema ")).resolve() == ROOT / "qfx" / "schemas" / "board.schema.json"
        assert told("board", tomllib.loads(rest)) == ""


def test_a_project_brings_the_schema_of_its_folding(tmp_path: Path) -> None:
    import torch

    qmodel = qfx.quantize(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()), torch.rand(8, 4))
    qfx.export_onnx(qmodel, tmp_path / "m.onnx")
    assert CliRunner().invoke(main, ["hls", str(tmp_path / "m.onnx"), "--board", "zcu104", "-o", str(tmp_path / "p")]).exit_code == 0
    written = (tmp_path / "p" / "folding.toml").read_text()
    assert written.startswith("#:schema ./folding.schema.json\n")
    assert (tmp_path / "p" / "folding.schema.json").read_text() == text("folding")
    assert told("folding", tomllib.loads(written)) == ""


def test_the_examples_of_the_pages_fit() -> None:
    seen = set()
    for page in PAGES:
        for block in blocks(page):
            if block.language != "toml":
                continue
            data = tomllib.loads(block.text)
            kind = "board" if "part" in data else "folding" if data.keys() & {"ports", "layers", "fifos"} else "recipe"
            assert told(kind, data) == "", f"{page.name}:{block.line}"
            seen.add(kind)
    assert {"recipe", "board"} <= seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_may_name_its_schema_by_a_key(kind: str, tmp_path: Path) -> None:
    named = {**GOOD[kind], "$schema": f"./{schema_name(kind)}"}
    assert (refusal(kind, GOOD[kind], tmp_path), refusal(kind, named, tmp_path)) == ("", "")
    assert told(kind, named) == ""
    assert refusal(kind, {**GOOD[kind], "$schema": 3}, tmp_path) != ""
    assert told(kind, {**GOOD[kind], "$schema": 3}) != ""


def places(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every table and value in the data, by the way to it."""
    found = [path]
    for key, value in data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ():
        found += places(value, (*path, key))
    return found


def changed(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(data) if isinstance(data, Mapping) else list(data)
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


def at(data: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


NAMES = sorted({*recipe.FIELDS, *recipe.PARTS, *board.FIELDS, *folding.FIELDS, "pattern", "overrides", "wdith", "x"})
WORDS = st.sampled_from(
    ["", "AP_RND", "AP_SAT", "channel", "mse", "auto", "dsp", "mixed", "lut", "xc7z020", "keep", "M_AXI_GP0", "S_AXI_HP0_FPD", "{", "conv*"]
)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-3, 40),
    st.integers(-200, 2000),
    st.sampled_from([0.0, 0.5, 5.0, 99.9, 101.5, 2500.0]),
    WORDS,
    st.just({}),
    st.just([]),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@example(data=None)
@given(data=st.data())
def test_what_a_reader_takes_the_schema_takes_and_what_the_schema_refuses_the_reader_does(
    kind: str, data: st.DataObject | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file that is right, with one key or value changed. The schema cannot say which fields go together, so it may take what the reader refuses;
    the other way round never, and never for a key that is not known."""
    folder = tmp_path_factory.getbasetemp()
    if data is None:
        assert (refusal(kind, GOOD[kind], folder), told(kind, GOOD[kind])) == ("", "")
        return
    place = data.draw(st.sampled_from(places(GOOD[kind])))
    here = at(GOOD[kind], place)
    if isinstance(here, Mapping):
        here = {**here, data.draw(st.sampled_from(NAMES)): data.draw(VALUES)}
        wrong = changed(GOOD[kind], place, here)
    else:
        wrong = changed(GOOD[kind], place, data.draw(VALUES))
    ours, theirs = told(kind, wrong), refusal(kind, wrong, folder)
    if ours:
        assert theirs, f"the schema alone refuses: {ours}"
    elif theirs:
        assert not theirs.startswith(("unknown field", "a board has no")), theirs
        assert " is not a" not in theirs


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("recipe", ("weight", "width"), 33),
        ("recipe", ("weight", "wdith"), 8),
        ("recipe", ("activation",), {"accumulator": 20}),
        ("recipe", ("bias",), {"digits": 2}),
        ("recipe", ("table_error",), 0),
        ("recipe", ("weight", "percentile"), 0),
        ("recipe", ("override",), [{"width": 3}]),
        ("board", ("ps",), "microblaze"),
        ("board", ("title",), "{"),
        ("board", ("lut",), 0),
        ("board", ("lut",), 1.5),
        ("folding", ("layers", "conv1", "pe"), 0),
        ("folding", ("layers", "conv1", "arithmetic"), "fabric"),
        ("folding", ("fifos", "b", "storage"), ""),
        ("folding", ("fifos", "b", "width"), 3),
        ("folding", ("ports", "merged"), 1),
    ],
)
def test_both_refuse(kind: str, path: tuple[str, ...], value: Any, tmp_path: Path) -> None:
    wrong = changed(GOOD[kind], path[:-1], {**at(GOOD[kind], path[:-1]), path[-1]: value})
    assert refusal(kind, wrong, tmp_path) != ""
    assert told(kind, wrong) != ""


def test_a_planted_schema_that_forgets_a_field_is_seen() -> None:
    forgetful = recipe.schema()
    del forgetful["properties"]["weight"]["properties"]["width"]
    assert not jsonschema.Draft4Validator(forgetful).is_valid(GOOD["recipe"])
    with pytest.raises(QfxError):
        Recipe.from_toml("[weight]\nwidht = 3")
