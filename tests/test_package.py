"""The package as a whole: what importing it costs, and what a wheel brings along."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import segmend

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
NOT_PYTHON = {p for p in SOURCE.rglob("*") if p.is_file() and p.suffix not in {".py", ".pyc"}}


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_segmend_imports_nothing_heavy() -> None:
    program = "import segmend, sys; print({'torch', 'numpy', 'lightning'} & sys.modules.keys())"
    assert python(program) == "set()"


def test_lazy_names_are_what_their_homes_hold() -> None:
    program = (
        "import segmend, segmend.refine, segmend.errors, segmend.tags;"
        "print(segmend.Refiner is segmend.refine.Refiner,"
        "segmend.SegmendError is segmend.errors.SegmendError,"
        "segmend.FeatureSimilarityLoss is segmend.tags.FeatureSimilarityLoss)"
    )
    assert python(program) == "True True True"


def test_every_public_name_can_be_had_and_is_listed() -> None:
    assert dir(segmend) == sorted(segmend.__all__)
    for name in segmend.__all__:
        assert getattr(segmend, name) is not None


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Refyner'.*'Refiner'"):
        _ = segmend.Refyner


def test_the_version_is_that_of_the_installed_package() -> None:
    assert version("segmend") == segmend.__version__


def test_the_package_installs_the_command() -> None:
    (command,) = entry_points(group="console_scripts", name="segmend")
    assert command.value == "segmend.cli.main:main"


def test_segmend_error_is_a_value_error() -> None:
    assert issubclass(segmend.SegmendError, ValueError)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel built by the project's own build backend, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    program = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_package(wheel: set[str]) -> None:
    modules = set(SOURCE.rglob("*.py"))
    for path in modules | NOT_PYTHON:
        assert path.relative_to(SOURCE).as_posix() in wheel


@pytest.mark.parametrize(
    "pattern",
    [
        "segmend/py.typed",
        "segmend/models/weights/squeezenet1_0_imagenet.safetensors",
        "segmend/models/weights/LICENSE.squeezenet",
        "segmend/data/sample/LICENSE.md",
        "segmend/data/sample/nuclei/images.json",
        "segmend/cli/recipes/refine-published.yaml",
    ],
)
def test_the_wheel_brings_data_along(wheel: set[str], pattern: str) -> None:
    assert pattern in wheel


def test_the_wheel_has_the_whole_sample(wheel: set[str]) -> None:
    sample = [name for name in wheel if name.startswith("segmend/data/sample/nuclei/")]
    assert sum(name.endswith(".jpg") for name in sample) == 60
    assert sum(name.endswith(".png") for name in sample) == 60


def test_the_wheel_has_nothing_but_the_package(wheel: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert tops == {"segmend", f"segmend-{segmend.__version__}.dist-info"}
