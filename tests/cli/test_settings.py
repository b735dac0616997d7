"""Settings: precedence, recipes, errors that say where, and a record that can be run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

import segmend
from segmend.cli.settings import bundled_recipes, print_settings, resolve, write_run_record
from segmend.errors import SegmendError
from segmend.refine import RefineOptions


class Network(BaseModel):
    model_config = ConfigDict(frozen=True)

    width: int = Field(32, gt=0)
    kind: Literal["small", "large"] = "small"


class Options(BaseModel):
    model_config = ConfigDict(frozen=True)

    epochs: int = Field(30, ge=0)
    rate: float = Field(1e-3, gt=0)
    name: str = "a"
    amp: bool = False
    crop: int | None = 256
    sizes: tuple[int, ...] = (1, 2)
    network: Network = Network()
    extra: Network | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if self.amp and self.epochs == 0:
            raise ValueError("amp: pointless without epochs")
        return self


TEXT = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), max_size=8
).filter(lambda t: not t.startswith(("[", "{")) and t not in ("null", "~"))
NETWORKS = st.builds(Network, width=st.integers(1, 99), kind=st.sampled_from(["small", "large"]))
OPTIONS = st.builds(
    Options,
    epochs=st.integers(1, 10**6),
    rate=st.floats(1e-12, 1e6),
    name=TEXT,
    amp=st.booleans(),
    crop=st.none() | st.integers(-5, 5),
    sizes=st.lists(st.integers(-9, 9), max_size=3).map(tuple),
    network=NETWORKS,
    extra=st.none() | NETWORKS,
    seed=st.integers(-(2**40), 2**40),
)


def texts(values: dict[str, object], prefix: str = "") -> list[str]:
    """Settings as a user would type them; shares no code with the library."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += texts(value, f"{prefix}{key}.")
        elif value is None:
            lines.append(f"{prefix}{key}=null")
        elif isinstance(value, list | tuple):
            lines.append(f"{prefix}{key}=[{', '.join(map(str, value))}]")
        else:
            lines.append(f"{prefix}{key}={value}")
    return lines


@given(OPTIONS)
def test_sets_round_trip(options: Options) -> None:
    assert resolve(Options, None, texts(options.model_dump()), {}) == options


@given(OPTIONS)
def test_recipes_round_trip(tmp_path_factory: pytest.TempPathFactory, options: Options) -> None:
    recipe = tmp_path_factory.mktemp("recipe") / "r.yaml"
    recipe.write_text(yaml.safe_dump(options.model_dump(mode="json"), allow_unicode=True), "utf-8")
    assert resolve(Options, recipe, [], {}) == options


@given(OPTIONS)
def test_a_run_record_is_a_recipe(
    tmp_path_factory: pytest.TempPathFactory, options: Options
) -> None:
    record = write_run_record(tmp_path_factory.mktemp("run"), "test", options)
    assert resolve(Options, record, [], {}) == options


@given(
    st.dictionaries(st.sampled_from(["epochs", "crop", "seed"]), st.integers(1, 9)),
    st.dictionaries(st.sampled_from(["epochs", "crop", "seed"]), st.integers(10, 19)),
    st.dictionaries(st.sampled_from(["epochs", "crop", "seed"]), st.none() | st.integers(20, 29)),
)
def test_precedence(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: dict[str, int],
    sets: dict[str, int],
    flags: dict[str, int | None],
) -> None:
    path = tmp_path_factory.mktemp("recipe") / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    want = Options().model_dump() | recipe | sets
    want |= {key: value for key, value in flags.items() if value is not None}
    got = resolve(Options, path, [f"{k}={v}" for k, v in sets.items()], flags)
    assert got == Options(**want)


def test_a_part_set_after_its_group_keeps_only_the_part() -> None:
    assert resolve(Options, None, ["extra=null", "extra.width=8"], {}).extra == Network(width=8)
    assert resolve(Options, None, ["extra.width=8", "extra=null"], {}).extra is None


def test_bundled_recipes_are_found_by_name_and_are_mappings() -> None:
    for name, path in bundled_recipes().items():
        assert path.stem == name
        assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["epoch=3"], r"--set epoch: unknown setting 'epoch'\. Did you mean 'epochs'\? Known"),
        (["network.widht=3"], r"unknown setting 'network\.widht'\. Did you mean 'network\.width'"),
        (["zzz=3"], r"unknown setting 'zzz'\. Known settings: amp, crop, epochs"),
        (["epochs=many"], r"--set epochs: epochs: got 'many'; Input should be a valid integer"),
        (["epochs=-1"], r"epochs: got '-1'; Input should be greater than or equal to 0"),
        (["network.kind=huge"], r"network\.kind: got 'huge'; Input should be 'small' or 'large'"),
        (["network=3"], r"network: got '3'"),
        (["sizes=[1, a]"], r"sizes: got \[1, 'a'\]; Input should be a valid integer"),
        (["sizes=[1"], r"sizes=\[1: the value is not a valid YAML list or map"),
        (["epochs"], r"--set epochs: want key=value"),
        (["=3"], r"--set =3: want key=value"),
        (["epochs=0", "amp=true"], r"amp: pointless without epochs"),
    ],
)
def test_set_errors(sets: list[str], message: str) -> None:
    with pytest.raises(SegmendError, match=message):
        resolve(Options, None, sets, {})


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(SegmendError, match=r"(?s)epochs: got.*rate: got"):
        resolve(Options, None, ["epochs=x", "rate=y"], {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3", "unknown setting 'epoch'"),
        ("epochs: x", "recipe .*r.yaml: epochs: got 'x'"),
        ("- 1", "want `key: value` lines, got list"),
        ("just text", "want `key: value` lines, got str"),
        ("a: [1", "not valid yaml"),
        ("epochs: 3\nseed: 1\nepochs: 4", "not valid yaml: 'epochs' is given twice .* line 3"),
        ("network:\n  width: 3\n  width: 4", "not valid yaml: 'width' is given twice .* line 3"),
        ("network: {width: 0}", "network.width: got 0; Input should be greater than 0"),
    ],
)
def test_recipe_errors_name_the_file(tmp_path: Path, content: str, message: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(content)
    with pytest.raises(SegmendError, match=message):
        resolve(Options, recipe, [], {})


def test_a_recipe_that_is_not_there_lists_the_bundled_ones() -> None:
    with pytest.raises(SegmendError, match=r"recipe nowhere: cannot be read .*bundled recipe"):
        resolve(Options, Path("nowhere"), [], {})


def test_a_recipe_that_is_not_text(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SegmendError, match=r"r\.yaml: cannot be read"):
        resolve(Options, recipe, [], {})


def test_an_empty_recipe_gives_the_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("# nothing\n")
    assert resolve(Options, recipe, [], {}) == Options()


def test_print_settings_shows_every_value_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_settings(Options(epochs=7, extra=Network()), title="train")
    out, err = capsys.readouterr()
    assert out == ""
    shown = " ".join(err.split())
    for part in ("train:", "epochs=7", "crop=256", "network.width=32", 'extra.kind="small"'):
        assert part in shown


def test_the_record_says_what_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["segmend", "train", "--seed", "5"])
    path = write_run_record(tmp_path, "train", Options(seed=5), {"images": tmp_path / "im"})
    record = json.loads(path.read_text("utf-8"))
    assert path == tmp_path / "run.json"
    assert record["command"] == "train"
    assert record["argv"] == ["train", "--seed", "5"]
    assert record["seed"] == 5
    assert record["settings"]["network"] == {"width": 32, "kind": "small"}
    assert record["images"] == str(tmp_path / "im")
    assert record["versions"]["segmend"] == segmend.__version__
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["versions"]["torch"]


def test_the_record_of_a_file_stands_beside_it(tmp_path: Path) -> None:
    path = write_run_record(tmp_path / "scores.json", "evaluate", {"seed": 3})
    assert path == tmp_path / "scores.json.run.json"
    assert json.loads(path.read_text())["seed"] == 3


def test_a_folder_of_the_same_name_does_not_hide_a_bundled_recipe(tmp_path, monkeypatch):
    (tmp_path / "refine-published").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve(RefineOptions, Path("refine-published")).width == 32
