"""The board's driver: qfx's own modules in it, its words against the C++ test bench, batches through the model of the DMA, and what must fail."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hardware_models import classifier, per_channel

import qfx
from qfx.fixed.packing import Port, pack
from qfx.fixed.type import FixedType
from qfx.hardware.assets import hls_root, simulation_headers
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit.driver import SHARED
from qfx.hardware.emit.emit import CSIM_FLAGS
from qfx.hardware.project.csim import build
from qfx.hardware.project.project import write_project
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run, run_from_raw
from qfx.testing import adversarial_inputs

ROOT = Path(__file__).resolve().parents[3]


def write(folder: Path, graph: Graph, **ports: int) -> Path:
    path = write_project(graph, folder, board="ultra96v2", schedule=Schedule.of({}, **ports)).path
    build(path)
    return path


@pytest.fixture(scope="module")
def project(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier, 24 bits wide at the input."""
    return write(tmp_path_factory.mktemp("driver") / "p", classifier(), input_parallel=3)


@pytest.fixture(scope="module")
def driver(project: Path) -> Iterator[ModuleType]:
    """The project's package ``driver``."""
    sys.path.insert(0, str(project))
    try:
        import driver

        yield driver
    finally:
        sys.path.remove(str(project))
        for name in [name for name in sys.modules if name == "driver" or name.startswith("driver.")]:
            del sys.modules[name]


def module(project: Path, *arguments: str, python: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *python, "-m", "driver", *arguments]
    return subprocess.run(command, cwd=project, env=dict(os.environ) | environment, capture_output=True, text=True, check=False)


# --- the shared modules


def test_the_driver_carries_the_modules_of_qfx(tmp_path: Path) -> None:
    folder = write_project(classifier(), tmp_path / "p", board="zcu102").path / "driver"
    package = Path(qfx.__file__).parent
    for path in SHARED:
        assert (folder / path).read_bytes() == (package / path).read_bytes(), path
    carried = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    assert carried == {*SHARED, *(path.relative_to(hls_root() / "driver").as_posix() for path in (hls_root() / "driver").rglob("*.py"))}


def test_the_driver_is_python_3_10_and_imports_numpy_alone(tmp_path: Path) -> None:
    folder = write_project(classifier(), tmp_path / "p", board="zcu102").path / "driver"
    allowed = {
        "__future__",
        "argparse",
        "collections",
        "dataclasses",
        "enum",
        "fractions",
        "hashlib",
        "json",
        "math",
        "numpy",
        "os",
        "pathlib",
        "pynq",
        "re",
    }
    allowed |= {"subprocess", "sys", "tempfile", "time", "types", "typing"}
    newer = {
        "Self",
        "assert_never",
        "LiteralString",
        "Never",
        "override",
        "StrEnum",
        "NotRequired",
        "TypeVarTuple",
    }  # typing's and enum's of 3.11, 3.12
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 10))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                depth = len(path.relative_to(folder).parts)
                assert node.level <= depth, f"{path}: an import leaves the package"
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            roots = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            assert {root.split(".")[0] for root in roots} <= allowed, path
            assert not set(names) & newer, path


def test_the_driver_has_sound_types(tmp_path: Path) -> None:
    """``make lint`` cannot see it: the package is whole in a project alone."""
    folder = write_project(classifier(), tmp_path / "p", board="zcu102").path
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), "-p", "driver"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_driver_runs_without_qfx(project: Path, tmp_path: Path) -> None:
    """With the project and numpy alone on the path."""
    site = tmp_path / "site"
    site.mkdir()
    installed = Path(np.__file__).parent.parent
    for name in ("numpy", "numpy.libs"):
        if (installed / name).exists():
            (site / name).symlink_to(installed / name)
    code = (
        f"import sys; sys.path[:0] = [{str(project)!r}, {str(site)!r}]\n"
        "from driver.__main__ import main\n"
        "status = main(['--simulate', 'build/tb', '--selftest'])\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('qfx', 'torch', 'onnx')]\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-W", "error", "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "classifier: passed, 8 golden vectors\n", "")


# --- words


_ECHO_PORTS = (
    Port(FixedType(6, 3), (3, 5, 2), 8, 3),
    Port(FixedType(8, 3, False), (4, 3), 8, 2),
    Port(FixedType(13, 3), (2, 7), 16, 1),
    Port(FixedType(16, 3, False), (6,), 16, 6),
    Port(FixedType(31, 3), (5, 2, 2), 32, 5),
    Port(FixedType(32, 3, False), (2, 2), 32, 1),
    Port(FixedType(63, 3), (4, 2), 64, 2),
)


@pytest.fixture(scope="module")
def echo(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test bench's harness around a top function that passes words on and notes them: ``echo PORT raws.bin words.bin raws.bin`` and back."""
    folder = tmp_path_factory.mktemp("echo")
    structs, cases = [], []
    for i, port in enumerate(_ECHO_PORTS):
        values = {"pixels": port.pixels, "channels": port.channels, "parallel": port.parallel, "slot": port.slot}
        fields = "".join(f" static const int {name} = {value};" for name, value in values.items())
        signed = "true" if port.type.signed else "false"
        structs.append(f"struct port_{i} {{{fields} static const bool is_signed = {signed}; typedef qfx::axi_word<{port.word_bits}> word; }};")
        cases.append(f'  if (which == "{i}") return all<port_{i}>(argv);')
    source = folder / "echo.cpp"
    source.write_text(
        '#include "dma.h"\n#include "harness.h"\n' + "\n".join(structs) + "\nstatic qfx_tb::bytes seen;\n"
        "template <class Port> void top(hls::stream<typename Port::word>& in, hls::stream<typename Port::word>& out) {\n"
        "  for (int i = 0; i < Port::pixels * Port::channels / Port::parallel; i++) {\n"
        "    const typename Port::word word = in.read();\n"
        "    for (int b = 0; b < Port::slot * Port::parallel / 8; b++) {\n"
        "      const ap_uint<8> data = word.data.range(8 * b + 7, 8 * b);\n"
        "      seen.push_back(static_cast<char>(data.to_int()));\n    }\n"
        "    out.write(word);\n  }\n}\n"
        "template <class Port> int all(char** argv) {\n"
        "  qfx_tb::numbers in, out;\n  qfx_tb::bytes words;\n"
        "  if (!qfx_tb::load(argv[2], in) || !qfx_tb::run<Port, Port>(top<Port>, in, out) || in != out) return 1;\n"
        "  const qfx_tb::bytes packed = seen;\n"
        "  if (qfx_tb::transfer<Port, Port>(top<Port>, packed, words) != 0 || words != packed) return 1;\n"
        "  return qfx_tb::save_bytes(argv[3], packed) ? 0 : 1;\n}\n"
        "int main(int argc, char** argv) {\n  if (argc != 4) return 2;\n  const std::string which = argv[1];\n"
        + "\n".join(cases)
        + "\n  return 2;\n}\n"
    )
    executable = folder / "echo"
    flags = [flag for flag in CSIM_FLAGS if flag != "-O2"]
    command = [gxx, *flags, *simulation_headers(), f"-I{hls_root() / 'include'}", f"-I{hls_root() / 'templates'}", str(source), "-o", str(executable)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return executable


@pytest.mark.parametrize("index", range(len(_ECHO_PORTS)))
def test_words_equal_those_of_the_test_bench(echo: Path, tmp_path: Path, index: int) -> None:
    port = _ECHO_PORTS[index]
    rng = np.random.default_rng(index)
    raw = rng.integers(port.type.min_raw, port.type.max_raw, (3, *port.shape), endpoint=True)
    raw.reshape(-1)[:2] = port.type.min_raw, port.type.max_raw
    (tmp_path / "raws.bin").write_bytes(raw.astype("<i8").tobytes())
    done = subprocess.run([str(echo), str(index), str(tmp_path / "raws.bin"), str(tmp_path / "words.bin")], check=False)
    assert done.returncode == 0
    assert (tmp_path / "words.bin").read_bytes() == pack(raw, port).tobytes()


# --- through the model


def test_batches(project: Path, driver: ModuleType) -> None:
    graph = classifier()
    x = adversarial_inputs(graph, np.random.default_rng(1), 11)
    want_raw = run_from_raw(graph, quantize_input(graph, x))
    board = driver.SimulatedBoard(project / "build" / "tb", driver.load_description())
    with driver.Accelerator(device=board) as accelerator:
        assert np.array_equal(accelerator.quantize(x), quantize_input(graph, x))
        assert np.array_equal(accelerator.run(x), run(graph, x))
        assert (accelerator.timing.frames, accelerator.timing.transfers) == (11, 1)
        for batch, transfers in ((1, 11), (4, 3), (11, 1), (100, 1)):
            got = accelerator.run_raw(quantize_input(graph, x), batch=batch)
            assert np.array_equal(got, want_raw)
            assert accelerator.timing.transfers == transfers
            assert re.fullmatch(rf"11 frames in {transfers} transfers: .* ms \(.* frames/s\), of which transfers .*", str(accelerator.timing))
        assert accelerator.run(x[:0]).shape == (0, 10)
        assert board.accelerator.control == 0x81
    assert board.accelerator.control == 0x01  # which still waits for a frame
    with pytest.raises(driver.DeviceError, match="is closed"):
        accelerator.run(x)


@pytest.mark.usefixtures("gxx")
def test_binary_points_of_their_own_per_channel(tmp_path: Path) -> None:
    graph = per_channel()
    path = write(tmp_path / "p", graph, input_parallel=2, output_parallel=3)
    assert module(path, "--simulate", "build/tb", "--selftest").stdout == "per_channel: passed, 8 golden vectors\n"
    x = adversarial_inputs(graph, np.random.default_rng(2), 5)
    np.save(tmp_path / "x.npy", x)
    done = module(path, "--simulate", "build/tb", "--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy"), "--batch", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("5 frames in 3 transfers")
    assert np.array_equal(np.load(tmp_path / "y.npy"), run(graph, x))
    np.save(tmp_path / "raw.npy", quantize_input(graph, x).astype(np.int16))
    for arguments in (("raw.npy", ()), ("x.npy", ("--raw",))):
        done = module(path, "--simulate", "build/tb", "--input", str(tmp_path / arguments[0]), "--output", str(tmp_path / "y_raw.npy"), *arguments[1])
        assert done.returncode == 0, done.stderr
        assert np.array_equal(np.load(tmp_path / "y_raw.npy"), run_from_raw(graph, quantize_input(graph, x)))


@pytest.mark.parametrize("name", ["golden_x", "golden_input_raw", "golden_output_raw"])
def test_a_planted_bit_fails_the_self_test(project: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "p"
    shutil.copytree(project / "driver", copy / "driver")
    golden = np.load(copy / "driver" / f"{name}.npy")
    golden.reshape(-1)[7] += 1 if golden.dtype == np.int64 else 2**-3  # one least significant bit
    np.save(copy / "driver" / f"{name}.npy", golden)
    done = module(copy, "--simulate", str(project / "build" / "tb"), "--selftest")
    assert done.returncode == 1
    assert done.stdout.endswith("classifier: FAILED, 8 golden vectors\n")
    assert ("quantized input: 1 of 720 raws differ" in done.stdout) == (name != "golden_output_raw")
    assert "output, 8 frames a transfer: 1 of 80 raws differ, first at (0, 7)" in done.stdout or name != "golden_output_raw"


class _Careless:
    """A board whose buffers forget one of their duties."""

    def __init__(self, board: object, duty: str) -> None:
        self.board, self.duty = board, duty
        self.dma, self.accelerator = board.dma, board.accelerator  # type: ignore[attr-defined]

    def allocate(self, nbytes: int) -> np.ndarray:
        buffer: np.ndarray = self.board.allocate(nbytes)  # type: ignore[attr-defined]
        setattr(buffer, self.duty, lambda: None)
        return buffer


@pytest.mark.parametrize("duty", ["flush", "invalidate"])
def test_caches_that_are_not_kept_give_wrong_numbers(project: Path, driver: ModuleType, duty: str) -> None:
    """So a driver that forgot to keep them would fail here."""
    graph = classifier()
    x_raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(3), 3))
    board = driver.SimulatedBoard(project / "build" / "tb", driver.load_description())
    with driver.Accelerator(device=_Careless(board, duty)) as accelerator:
        assert not np.array_equal(accelerator.run_raw(x_raw), run_from_raw(graph, x_raw))


@pytest.mark.parametrize(
    ("control", "frames", "ends"), [(0x81, 3, True), (0x01, 1, True), (0x01, 3, False), (0x80, 3, True), (0, 1, True), (0, 2, False)]
)
def test_the_model_starts_as_the_hardware_does(  # the call that has begun takes its frame, whatever is written
    project: Path, driver: ModuleType, control: int, frames: int, ends: bool
) -> None:
    graph = classifier()
    x_raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(4), frames))
    board = driver.SimulatedBoard(project / "build" / "tb", driver.load_description())
    accelerator = driver.Accelerator(device=board, timeout_s=0.2)
    board.accelerator.write(0, control)
    if ends:
        assert np.array_equal(accelerator.run_raw(x_raw), run_from_raw(graph, x_raw))
        assert board.accelerator.read(0) == (0x81 if control & 0x80 else 0x04)
    else:
        with pytest.raises(driver.DeviceError, match=r"has not taken all frames in 0.2 s"):
            accelerator.run_raw(x_raw)
        with pytest.raises(driver.DeviceError, match="has failed before"):
            accelerator.run_raw(x_raw)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", r"has not given all results in 0.2 s"),  # no TLAST
        ('head -c 10 "$2" > "$3"', r"10 bytes of results instead of 40"),  # TLAST too early
        ('head -c 9999 /dev/zero > "$3"', r"DMA failed: DMA Internal Error"),  # TLAST too late
        ("echo complaint >&2; exit 2", r"C simulation failed \(status 2\): complaint"),
    ],
)
def test_streams_that_end_in_the_wrong_place(driver: ModuleType, tmp_path: Path, script: str, message: str) -> None:
    executable = tmp_path / "tb"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    board = driver.SimulatedBoard(executable, driver.load_description())
    with driver.Accelerator(device=board, timeout_s=0.2) as accelerator, pytest.raises(driver.DeviceError, match=message):
        accelerator.run_raw(np.zeros((2, 3, 6, 5), dtype=np.int64))


def test_transfers_that_the_dma_does_not_take(project: Path, driver: ModuleType) -> None:
    description = driver.load_description()
    board = driver.SimulatedBoard(project / "build" / "tb", replace(description, length_bits=8))
    send = board.dma.sendchannel
    buffer = board.allocate(4096)
    assert buffer.device_address % description.alignment == 0
    with pytest.raises(RuntimeError, match="not a multiple of 128 bytes"):
        send.transfer(buffer, 64, 90)
    with pytest.raises(ValueError, match="a transfer of 256 bytes; 1 to 255"):
        send.transfer(buffer, 0, 256)
    with pytest.raises(ValueError, match="a transfer of 0 bytes"):
        send.transfer(buffer, 0, 0)
    with pytest.raises(RuntimeError, match="bytes 4096 to 4186 of a buffer of 4096"):
        send.transfer(buffer, 4096, 90)
    send.transfer(buffer, 0, 90)
    with pytest.raises(RuntimeError, match="not idle"):
        send.transfer(buffer, 0, 90)
    buffer.freebuffer()
    with pytest.raises(RuntimeError, match="one that was freed"):
        board.dma.recvchannel.transfer(buffer, 0, 10)
    with pytest.raises(driver.DeviceError, match="no register"):
        board.accelerator.write(0x10, 1)


def test_long_batches_are_cut_to_what_the_dma_takes(project: Path, driver: ModuleType) -> None:
    graph = classifier()
    description = replace(driver.load_description(), length_bits=8)  # two frames of 90 bytes
    x_raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(5), 5))
    with driver.Accelerator(device=driver.SimulatedBoard(project / "build" / "tb", description), description=description) as accelerator:
        assert np.array_equal(accelerator.run_raw(x_raw), run_from_raw(graph, x_raw))
        assert accelerator.timing.transfers == 3
        for batch in (0, 3):
            with pytest.raises(Exception, match="use 1 to 2"):
                accelerator.run_raw(x_raw, batch=batch)
    description = replace(description, length_bits=6)
    with (
        driver.Accelerator(device=driver.SimulatedBoard(project / "build" / "tb", description), description=description) as accelerator,
        pytest.raises(driver.DeviceError, match="a frame has 90 bytes, a transfer at most 63"),
    ):
        accelerator.run_raw(x_raw)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 3, 6, 5), dtype=np.int32), "expected a float32 or float64 array, got int32"),
        (np.zeros((3, 6, 5), dtype=np.float32), r"expected the shape \(N, 3, 6, 5\), got \(3, 6, 5\)"),
        (np.full((1, 3, 6, 5), np.nan, dtype=np.float32), "element 0 .* is nan"),
    ],
)
def test_data_that_the_model_does_not_take(project: Path, driver: ModuleType, x: np.ndarray, message: str) -> None:
    board = driver.SimulatedBoard(project / "build" / "tb", driver.load_description())
    with driver.Accelerator(device=board) as accelerator, pytest.raises(Exception, match=message):
        accelerator.run(x)


# --- PYNQ and the command


def test_on_a_board(project: Path, tmp_path: Path) -> None:
    """As ``make deploy`` lays it out, with a stand-in for PYNQ over the model: the driver asks for nothing else of it."""
    deploy = tmp_path / "deploy"
    shutil.copytree(project / "driver", deploy / "driver")
    stand_in = Path(__file__).resolve().parents[1] / "board"
    pynq = {"PYTHONPATH": f"{stand_in}", "QFX_TEST_BENCH": str(project / "build" / "tb")}
    missing = module(deploy, "--selftest", **pynq)
    assert missing.returncode == 2
    assert "classifier.bit: the file is missing" in missing.stderr
    (deploy / "classifier.bit").write_text("bits")
    assert "classifier.hwh: the file is missing" in module(deploy, "--selftest", **pynq).stderr
    (deploy / "classifier.hwh").write_text("handoff")
    done = module(deploy, "--selftest", **pynq)
    assert (done.returncode, done.stdout, done.stderr) == (0, "classifier: passed, 8 golden vectors\n", "")
    other = module(deploy, "--selftest", **pynq, QFX_CELLS="dma axi_dma_0")
    assert other.returncode == 2
    assert "the design has no accelerator" in other.stderr
    script = (project / "vivado.tcl").read_text()
    for cell in ("dma", "accelerator"):
        assert re.search(rf"create_bd_cell -type ip -vlnv \S+ {cell}\]", script)
    assert "PYNQ cannot be imported" in module(deploy, "--selftest").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --selftest, or --data and --output"),
        (("--selftest", "--input", "x.npy", "--output", "y.npy"), "or too much"),
        (("--input", "x.npy"), "give --selftest, or --data and --output"),
        (("--simulate", "build/none", "--selftest"), "the test bench is missing"),
        (("--simulate", "build/tb", "--input", "none.npy", "--output", "y.npy"), "none.npy: cannot be read"),
        (("--simulate", "build/tb", "--input", "Makefile", "--output", "y.npy"), "Makefile: cannot be read"),
    ],
)
def test_bad_usage(project: Path, arguments: tuple[str, ...], message: str) -> None:
    done = module(project, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("change", [{"format": 9}, {"input": {}}, None])
def test_a_damaged_description(project: Path, tmp_path: Path, change: dict[str, object] | None) -> None:
    shutil.copytree(project / "driver", tmp_path / "driver")
    path = tmp_path / "driver" / "accelerator.json"
    path.write_text("{" if change is None else json.dumps(json.loads(path.read_text()) | change))
    done = module(tmp_path, "--simulate", str(project / "build" / "tb"), "--selftest")
    assert done.returncode == 2
    assert "accelerator.json" in done.stderr
    assert "write the project again" in done.stderr
