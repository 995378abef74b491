"""The walls of the house: who may import whom, and that a scan or a file never waits for torch."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import app

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ("app", "drivers", "recon", "simulators")
SOURCES = sorted(path for part in HOUSE for path in (ROOT / part).rglob("*.py"))
WIRES = ("simulators/apt_wire.py", "simulators/pylon_wire.py")
QT = ("app/gui/", "tests/gui/")

# Outside packages that only some files may import, wherever in the file: a name that ends in "/" is a folder.
ALLOWED: dict[str, tuple[str, ...]] = {
    "torch": ("recon/",),
    "safetensors": ("recon/decoders/",),
    "pypylon": ("drivers/basler.py", *WIRES),
    "thorlabs_apt_device": ("drivers/apt_device.py", "drivers/apt_link.py", *WIRES),
    "serial": ("drivers/apt_device.py", "drivers/apt_link.py", *WIRES),
    "PyQt5": QT,
    "PyQt6": QT,
    "PySide6": QT,
    "pyqtgraph": QT,
    "qtpy": QT,
    "zmq": ("app/worker/",),
}
TORCH_FREE_RECON = ("recon/dataset.py", "recon/streaming.py", "recon/files/")
INIT_LINES = 40

# The work behind `calibrate`, `reconstruct`, `demo` and `study`: the command line imports these when it is asked for
# them.
LOADS_TORCH = (
    "app.calibration",
    "app.methods",
    "app.reconstruction",
    "app.task",
    "app.request",
    "app.latent",
    "app.demo",
    "app.combining",
    "app.deciding",
    "app.worker.engine",
    "app.studies.dose",
    "app.studies.decoder",
    "app.studies.landscape",
    "app.studies.nextframe",
    "app.studies.work",
)


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _inside(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or (place.endswith("/") and path.startswith(place)) for place in places)


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module's full name, lazy imports included, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for name in node.names:
                yield f"{module}.{name.name}", node.lineno


def test_the_import_contracts_hold():
    script = (
        "import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True, config_filename='pyproject.toml'))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_an_outside_package_is_imported_only_where_it_may_be(package):
    offences = [
        f"{_relative(path)}:{line} imports {name}"
        for path in SOURCES
        for name, line in _imports(path)
        if name.split(".")[0] == package and not _inside(_relative(path), ALLOWED[package])
    ]
    assert offences == []


def test_data_and_files_never_name_torch():
    offences = [
        f"{_relative(path)}:{line}"
        for path in SOURCES
        if _inside(_relative(path), TORCH_FREE_RECON)
        for name, line in _imports(path)
        if name.split(".")[0] == "torch"
    ]
    assert offences == []


def test_simulators_know_of_the_drivers_their_protocols_and_clocks_only():
    offences = [
        f"{_relative(path)}:{line} imports {name}"
        for path in SOURCES
        if _relative(path).startswith("simulators/")
        for name, line in _imports(path)
        if name.split(".")[0] == "drivers" and name.split(".")[1] not in ("base", "clock")
    ]
    assert offences == []


def test_nothing_in_the_house_imports_the_tests():
    names = {name.split(".")[0] for path in SOURCES for name, _ in _imports(path)}
    assert not names & {"tests", "benchmarks", "conftest", "pytest", "hypothesis"}


def test_every_init_is_empty_or_a_short_face():
    long = [
        f"{_relative(path)}: {count} lines"
        for path in SOURCES
        if path.name == "__init__.py" and (count := len(path.read_text(encoding="utf-8").splitlines())) > INIT_LINES
    ]
    assert long == []


def test_torch_process_wide_defaults_are_left_alone():
    setters = {"set_default_dtype", "set_default_device", "set_default_tensor_type", "set_num_threads"}
    offences = [
        f"{_relative(path)}:{node.lineno} {node.attr}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in setters
    ]
    assert offences == []


def _modules_without_torch() -> list[str]:
    """Every module whose import must not load torch, those of `check` and `scan` among them; Qt's are left out."""
    names = ["app", "drivers", "simulators", "recon", "recon.dataset", "recon.files"]
    for package in ("app", "drivers", "simulators", "recon/files"):
        prefix = package.replace("/", ".") + "."
        names += [found.name for found in pkgutil.walk_packages([str(ROOT / package)], prefix)]
    return sorted(name for name in set(names) if not name.startswith(("app.gui", *LOADS_TORCH)))


def test_importing_everything_but_reconstruction_leaves_torch_unloaded():
    names = _modules_without_torch()
    assert {"app.cli", "app.profile", "app.acquire.runner", "recon.dataset", "drivers.base"} <= set(names)
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} loads torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_house_under_test_is_this_checkout():
    assert Path(app.__file__).resolve().parents[1] == ROOT
