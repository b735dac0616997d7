"""Every code block of README and docs runs, page by page, top to bottom, in an empty folder.

The folder holds what the pages say a user has: `data/train` and `data/test` with `images` and
`masks`, `probs/train` and `probs/test` from some base model, and `photos` with tags. Training is
cut short, nothing else is changed. A block that installs says so in a comment before it; only pip,
make and git may. README's commands run in a shell as they stand there. Those of the other pages are
called in this process, since starting PyTorch once a command would take most of the time.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from segmend.cli.main import build_app
from segmend.data.images import read_image, write_image
from segmend.data.masks import read_mask, write_mask
from segmend.data.probability_maps import write_probabilities
from segmend.data.sample import nuclei_sample
from segmend.data.scenes import make_scenes

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN, SHOWN = {"python", "bash", "console"}, {"text", "json", "yaml"}
MAY_BE_LEFT_OUT = {"make", "pip", "git"}
SHORTER = {
    "segmend train": "--set epochs=1 --set crop=64",
    "segmend refine fit": "--set epochs=1",
    "segmend tags run": "--set train.epochs=1 --set train.crop=64 --set cams.scales=[1.0]",
    "segmend tags train": "--set epochs=1 --set crop=64 --set batch_size=4",
    "segmend tags cams": "--set scales=[1.0]",
}
SIDE = 64
TAG_NAMES = ("bird", "cat", "dog")

FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^(?P<ticks>```+)(?P<language>[^\n]*)\n"
    r"(?P<code>.*?)^(?P=ticks)$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(
            m["language"].strip(), m["code"], text[: m.start("code")].count("\n") + 1, m["reason"]
        )
        for m in FENCE.finditer(text)
    ]


def commands_of(code: str) -> list[str]:
    """Logical lines without prompts, continuations, comments and blank lines."""
    joined = code.replace("\\\n", " ")
    lines = [line.removeprefix("$ ").partition("  #")[0].strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def shortened(command: str) -> str:
    for start, extra in SHORTER.items():
        if command.startswith(start):
            if "--segmenter" in command:
                extra += " --set segmenter.epochs=1 --set segmenter.crop=64"
            return f"{command} {extra}"
    return command


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def user_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    sample = nuclei_sample()
    torch.manual_seed(0)
    parts = [("train", sample.fit_images, sample.fit_masks, 6)]
    parts += [("test", sample.test_images, sample.test_masks, 3)]
    for part, images, masks, count in parts:
        for path in sorted(images.glob("*.jpg"))[:count]:
            image, mask = read_image(path), read_mask(masks / f"{path.stem}.png")
            write_image(folder / f"data/{part}/images/{path.stem}.png", image[:, :SIDE, :SIDE])
            mask = mask[:SIDE, :SIDE]
            write_mask(folder / f"data/{part}/masks/{path.stem}.png", mask)
            bias = F.interpolate(torch.randn(1, 1, 2, 2), size=mask.shape, mode="bilinear")[0, 0]
            probs = (3.0 * mask - 1.5 + bias + torch.randn(mask.shape)).sigmoid()
            write_probabilities(folder / f"probs/{part}/{path.stem}.png", probs.unsqueeze(0))
    rows = ["image,tags"]
    for number, scene in enumerate(make_scenes(6, size=(SIDE, SIDE), num_classes=4)):
        write_image(folder / f"photos/{number}.png", scene.image)
        names = [TAG_NAMES[c] for c in scene.tags.nonzero().flatten().tolist()]
        rows.append(f"{number}.png,{';'.join(names)}")
    (folder / "photos/tags.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


def in_a_shell(script: str, place: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{place}\n{script}\n{done.stdout}"


def in_this_process(command: str, place: str) -> None:
    program, *words = shlex.split(command)
    assert program == "segmend", f"{place}: {command}: only README runs other programs"
    result = CliRunner().invoke(build_app(words), words)
    assert result.exit_code == 0, f"{place}\n{command}\n{result.output}\n{result.exception!r}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_run(
    page: Path, user_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "probs", "photos"):
        (tmp_path / name).symlink_to(user_data / name)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.reason is not None or block.language not in RUN:
            continue
        place = f"{name_of(page)}:{block.line}"
        if block.language == "python":
            exec(compile("\n" * block.line + block.code, place, "exec"), namespace)
            continue
        commands = [shortened(command) for command in commands_of(block.code)]
        if page.name == "README.md":
            in_a_shell("\n".join(commands), place)
        else:
            for command in commands:
                in_this_process(command, place)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page: Path) -> None:
    fences = re.findall(r"^```", page.read_text("utf-8"), re.MULTILINE)
    blocks = blocks_of(page)
    assert len(fences) == 2 * len(blocks), "an unclosed fence, or one inside a list"
    for block in blocks:
        assert block.language in RUN | SHOWN, f"{name_of(page)}:{block.line}: {block.language!r}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_only_installation_is_left_out(page: Path) -> None:
    for block in blocks_of(page):
        if block.reason is None:
            continue
        for command in commands_of(block.code):
            for part in command.split("&&"):
                word = part.split()[0]
                assert word in MAY_BE_LEFT_OUT | {"cd"}, f"{name_of(page)}:{block.line}: {command}"


def test_the_blocks_are_found() -> None:
    readme = [b.language for b in blocks_of(ROOT / "README.md") if b.reason is None]
    assert readme.count("bash") >= 3
    assert readme.count("python") >= 2


def test_long_options_survive_being_shortened() -> None:
    code = "segmend train \\\n  --out base   # a comment\n\n# only a comment\nsegmend predict"
    assert [shortened(c) for c in commands_of(code)] == [
        "segmend train    --out base --set epochs=1 --set crop=64",
        "segmend predict",
    ]
