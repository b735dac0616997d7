"""`segmend predict` as a user types it."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner, Result

from segmend.cli.main import build_app
from segmend.data.images import read_image, write_image
from segmend.data.probability_maps import read_probabilities
from segmend.engine.checkpoints import save_segmenter
from segmend.models.segmenters import build_segmenter


@pytest.fixture
def images(tmp_path):
    rng = torch.Generator().manual_seed(0)
    for name, size in [("a", (48, 40)), ("sub/b", (1, 1)), ("sub/c", (1, 30))]:
        write_image(tmp_path / f"images/{name}.png", torch.rand(3, *size, generator=rng))
    return tmp_path / "images"


def predict(*words: object) -> Result:
    return CliRunner().invoke(
        build_app(["predict"]), ["predict", "--no-progress", *map(str, words)]
    )


@pytest.mark.parametrize(("channels", "suffix"), [(1, ".png"), (3, ".npz")])
def test_maps_are_the_models(images, tmp_path, channels, suffix):
    model = build_segmenter("fpn", num_classes=channels).eval()
    save_segmenter(tmp_path / "model", model)
    out = tmp_path / "maps"
    result = predict(
        "--checkpoint", tmp_path / "model", "--images", images, "--out", out,
        "--set", "precision=32-true",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3 probability maps" in result.output
    for name in ("a", "sub/b", "sub/c"):
        with torch.no_grad():
            logits = model(read_image(images / f"{name}.png")[None])[0]
        expected = logits.sigmoid() if channels == 1 else logits.softmax(0)
        stored = read_probabilities(out / f"{name}{suffix}")
        torch.testing.assert_close(stored, expected, atol=2e-3, rtol=0)
    assert json.loads((out / "run.json").read_text())["command"] == "predict"


def test_bad_input_is_one_line_and_status_2(images, tmp_path):
    out = ["--out", tmp_path / "maps"]
    result = predict("--checkpoint", tmp_path / "none", "--images", images, *out)
    assert result.exit_code == 2
    assert "model.json: not found" in " ".join(result.output.split())
    save_segmenter(tmp_path / "model", build_segmenter("fpn"))
    broken = images / "broken.png"
    broken.write_bytes((images / "a.png").read_bytes()[:200])
    result = predict("--checkpoint", tmp_path / "model", "--images", images, *out)
    assert result.exit_code == 2
    assert "broken.png" in result.output
    assert "Traceback" not in result.output
    for path in (tmp_path / "maps").rglob("*.png"):
        read_probabilities(path)
