"""`segmend evaluate` from end to end: real files in, table, JSON and CSV out, and bad input."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from segmend.cli.main import build_app
from segmend.metrics import boundary_counts, boundary_f, iou, region_counts


@pytest.fixture(scope="module")
def run():
    app = build_app(["evaluate"])

    def call(*words):
        return CliRunner().invoke(app, ["evaluate", "--no-progress", *map(str, words)])

    return call


def blobs(count, seed, size=(24, 32)):
    """Smooth probability maps (count, H, W) and the masks that are nearly their level sets."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.random((count, 1, 5, 6)))
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return smooth[:, 0].clamp(0, 1)


def save_masks(folder, masks, suffix=""):
    folder.mkdir()
    for index, mask in enumerate(masks):
        pixels = (np.asarray(mask) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"im_{index}{suffix}.png")
    return folder


def save_index(folder, masks):
    folder.mkdir()
    for index, mask in enumerate(masks):
        Image.fromarray(np.asarray(mask).astype(np.uint8)).save(folder / f"im_{index}.png")
    return folder


def save_maps(folder, maps):
    folder.mkdir()
    for index, one in enumerate(maps):
        np.save(folder / f"im_{index}.npy", np.asarray(one, dtype=np.float32))
    return folder


def read_json(path):
    return json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)


def read_csv(path):
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def test_hard_masks_with_a_rival(run, tmp_path):
    maps = blobs(6, 0)
    target, ours, theirs = maps > 0.5, maps > 0.45, maps > 0.35
    folders = [
        save_masks(tmp_path / "masks", target, "_mask"),
        save_masks(tmp_path / "ours", ours),
        save_masks(tmp_path / "theirs", theirs, "_pred"),
    ]
    out = tmp_path / "results" / "scores.json"
    table = out.with_suffix(".csv")
    result = run(
        *("--masks", folders[0], "--pred", folders[1], "--against", folders[2]),
        *("--out", out, "--out", table),
    )
    assert result.exit_code == 0, result.output
    summary = read_json(out)
    counts = [region_counts(x.long(), target.long()) for x in (ours, theirs)]
    edges = [boundary_counts(x.long(), target.long()) for x in (ours, theirs)]
    for name, region, edge in zip(("pred", "against"), counts, edges, strict=True):
        scores = summary["scores"][name]
        assert scores["pooled_iou"] == pytest.approx(float(iou(region.sum(0))[1]))
        assert scores["per_image_iou"] == pytest.approx(float(iou(region)[:, 1].mean()))
        assert scores["pooled_boundary_f"] == pytest.approx(float(boundary_f(edge.sum(0))[1]))
        assert scores["per_image_boundary_f"] == pytest.approx(float(boundary_f(edge)[:, 1].mean()))
    for name, gap in summary["differences"].items():
        sides = [summary["scores"][side][name] for side in ("pred", "against")]
        assert gap["difference"] == pytest.approx(sides[0] - sides[1])
        assert 0 < gap["low"] <= gap["difference"] <= gap["high"]
    assert set(summary["differences"]) == {"pooled_iou", "per_image_iou", "per_image_boundary_f"}
    rows = read_csv(table)
    assert [row["name"] for row in rows] == [f"im_{i}" for i in range(6)]
    assert float(rows[2]["iou"]) == pytest.approx(float(iou(counts[0])[2, 1]))
    assert float(rows[2]["iou_against"]) == pytest.approx(float(iou(counts[1])[2, 1]))
    assert int(rows[3]["fp"]) == int(counts[0][3, 1, 1])
    for text in ("foreground IoU, pooled", "foreground IoU, per image", "95% interval", "6 images"):
        assert text in result.output
    record = read_json(out.with_name("scores.json.run.json"))
    assert record["command"] == "evaluate"


def test_probability_maps_binary(run, tmp_path):
    maps = blobs(5, 1)
    masks = save_masks(tmp_path / "masks", maps > 0.6)
    probs = save_maps(tmp_path / "probs", maps)
    out = tmp_path / "scores.json"
    result = run("--masks", masks, "--probs", probs, "--out", out)
    assert result.exit_code == 0, result.output
    scores = read_json(out)["scores"]["pred"]
    assert scores["pooled_iou"] < 1
    assert scores["best_threshold"] == pytest.approx(0.6, abs=0.01)
    assert scores["best_threshold_iou"] == pytest.approx(1.0, abs=1e-3)
    gaps = (maps.float().double() - (maps > 0.6).double()).abs()
    assert scores["mae"] == pytest.approx(float(gaps.mean()), rel=1e-6)
    assert {"max_f", "mean_f", "adaptive_f", "calibration_error"} <= scores.keys()
    tuned = run("--masks", masks, "--probs", probs, "--out", out, "--threshold", 0.6)
    assert tuned.exit_code == 0
    assert read_json(out)["scores"]["pred"]["pooled_iou"] == pytest.approx(1.0, abs=1e-3)


def test_many_classes_by_argmax_equal_their_hard_masks(run, tmp_path):
    maps = torch.rand(4, 3, 9, 11, generator=torch.Generator().manual_seed(2)).softmax(1)
    target = torch.randint(3, (4, 9, 11), generator=torch.Generator().manual_seed(3))
    masks = save_index(tmp_path / "masks", target)
    results = []
    for flag, folder in (
        ("--probs", save_maps(tmp_path / "probs", maps)),
        ("--pred", save_index(tmp_path / "pred", maps.argmax(1))),
    ):
        out = tmp_path / f"{folder.name}.json"
        words = ("--masks", masks, flag, folder, "--num-classes", 3, "--out", out)
        result = run(*words, "--metrics", "region,contour")
        assert result.exit_code == 0, result.output
        assert "mIoU (pooled per class)" in result.output
        results.append(read_json(out)["scores"]["pred"] | {"folder": None})
    assert results[0] == results[1]
    expected = iou(region_counts(maps.argmax(1), target, num_classes=3).sum(0))
    assert results[0]["class_iou"] == pytest.approx(expected.tolist())


def test_all_background_all_ignored_and_tiny_images(run, tmp_path):
    target = [
        torch.zeros(8, 8),
        torch.full((8, 8), 255),
        torch.ones(1, 1),
        torch.tensor([[0, 1, 1, 255, 0]]),
        torch.tensor([[1], [0], [1]]),
    ]
    pred = [torch.zeros(8, 8), torch.ones(8, 8), torch.ones(1, 1)]
    pred += [torch.tensor([[0, 1, 0, 1, 0]]), torch.tensor([[1], [0], [1]])]
    masks, preds = save_index(tmp_path / "masks", target), save_masks(tmp_path / "pred", pred)
    out = tmp_path / "a.json"
    words = ("--masks", masks, "--pred", preds, "--set", "encoding=index", "--out", out)
    result = run(*words, "--out", tmp_path / "a.csv")
    assert result.exit_code == 0, result.output
    scores = read_json(out)["scores"]["pred"]
    assert scores["pooled_iou"] == pytest.approx(4 / 5)
    assert scores["per_image_iou"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert scores["num_scored_iou"] == 3
    rows = read_csv(tmp_path / "a.csv")
    assert [row["iou"] for row in rows[:3]] == ["", "", "1.0"]
    assert rows[2]["boundary_f"] == ""  # one pixel has no neighbour, so no boundary


def test_nothing_to_score_is_null_not_nan(run, tmp_path):
    blank = [torch.zeros(4, 4)] * 2
    folders = [save_masks(tmp_path / name, blank) for name in ("masks", "pred", "other")]
    out = tmp_path / "a.json"
    words = ("--masks", folders[0], "--pred", folders[1], "--against", folders[2])
    result = run(*words, "--out", out)
    assert result.exit_code == 0, result.output
    summary = read_json(out)
    assert summary["scores"]["pred"]["pooled_iou"] is None
    assert summary["differences"]["pooled_iou"]["low"] is None
    assert "none" in result.output


def test_recipe_set_and_partial(run, tmp_path):
    masks = save_masks(tmp_path / "masks", blobs(3, 4) > 0.5)
    pred = save_masks(tmp_path / "pred", blobs(2, 4) > 0.5)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("metrics: [region]\nnum_resamples: 10\n")
    out = tmp_path / "a.json"
    words = ("--masks", masks, "--pred", pred, "--against", pred, "--out", out)
    result = run(*words, "--recipe", recipe, "--set", "level=0.9", "--partial")
    assert result.exit_code == 0, result.output
    summary = read_json(out)
    assert summary["num_images"] == 2
    assert "pooled_boundary_f" not in summary["scores"]["pred"]
    gap = summary["differences"]["pooled_iou"]
    assert (gap["level"], gap["num_resamples"]) == (0.9, 10)
    assert set(summary["differences"]) == {"pooled_iou", "per_image_iou"}


@pytest.fixture
def pair(tmp_path):
    """Folders (masks, pred, probs) of three good pairs, to be broken by a test."""
    maps = blobs(3, 5)
    return (
        save_masks(tmp_path / "masks", maps > 0.5),
        save_masks(tmp_path / "pred", maps > 0.4),
        save_maps(tmp_path / "probs", maps),
    )


def refused(result, *texts):
    """Exit 2, a message with all of `texts`, and no traceback."""
    assert result.exit_code == 2, result.output
    flat = result.output.replace("\n", " ")
    for text in texts:
        assert str(text) in flat
    assert "Traceback" not in flat


def test_missing_partner_is_named(run, pair):
    (pair[1] / "im_1.png").unlink()
    refused(run("--masks", pair[0], "--pred", pair[1]), "im_1")


def test_missing_partner_of_the_rival_is_named(run, pair, tmp_path):
    rival = save_masks(tmp_path / "rival", blobs(2, 6) > 0.5)
    refused(run("--masks", pair[0], "--pred", pair[1], "--against", rival), "im_2")


def test_sizes_that_differ_name_both_files(run, pair):
    Image.fromarray(np.zeros((5, 7), dtype=np.uint8)).save(pair[1] / "im_2.png")
    refused(
        run("--masks", pair[0], "--pred", pair[1]),
        pair[1] / "im_2.png",
        pair[0] / "im_2.png",
        "5x7",
        "24x32",
    )


def test_label_beyond_the_classes_names_the_file(run, tmp_path):
    masks = save_index(tmp_path / "masks", [torch.tensor([[0, 1], [2, 0]])] * 2)
    pred = save_index(tmp_path / "pred", [torch.tensor([[0, 1], [2, 4]])] * 2)
    for folder, swap in ((pred, (masks, pred)), (pred, (pred, masks))):
        result = run("--masks", swap[0], "--pred", swap[1], "--num-classes", 3)
        refused(result, folder / "im_0.png", "4")


def test_ignored_label_in_a_prediction_names_the_files(run, tmp_path):
    masks = save_index(tmp_path / "masks", [torch.tensor([[0, 1], [2, 0]])])
    pred = save_index(tmp_path / "pred", [torch.tensor([[0, 1], [2, 255]])])
    result = run("--masks", masks, "--pred", pred, "--num-classes", 3)
    refused(result, pred / "im_0.png", "label 255")


@pytest.mark.parametrize("value", [math.nan, -3.0, 7.5])
def test_no_probability_names_the_file(run, pair, value):
    broken = np.full((24, 32), 0.5, dtype=np.float32)
    broken[3, 4] = value
    np.save(pair[2] / "im_1.npy", broken)
    refused(run("--masks", pair[0], "--probs", pair[2]), pair[2] / "im_1.npy")


def test_wrong_number_of_channels_names_the_file(run, pair):
    np.save(pair[2] / "im_0.npy", np.full((3, 24, 32), 1 / 3, dtype=np.float32))
    refused(run("--masks", pair[0], "--probs", pair[2]), pair[2] / "im_0.npy", "3 channels")


def test_truncated_and_empty_files_are_named(run, pair):
    whole = (pair[1] / "im_0.png").read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        (pair[1] / "im_0.png").write_bytes(content)
        refused(run("--masks", pair[0], "--pred", pair[1]), pair[1] / "im_0.png")


def test_options_that_cannot_be(run, pair, tmp_path):
    masks, pred, probs = pair
    refused(run("--masks", masks), "--pred", "--probs")
    refused(run("--masks", masks, "--pred", pred, "--probs", probs), "either")
    refused(run("--masks", masks, "--pred", pred, "--metrics", "mae"), "mae needs probability maps")
    refused(run("--masks", masks, "--pred", pred, "--metrics", "rgion"), "rgion")
    refused(run("--masks", masks, "--pred", pred, "--threshold", 2), "threshold")
    refused(run("--masks", masks, "--pred", pred, "--out", tmp_path / "a.xlsx"), ".json")
    refused(run("--masks", tmp_path / "nowhere", "--pred", pred), "nowhere")


def test_unwritable_output_leaves_nothing(run, pair, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(
        run("--masks", pair[0], "--pred", pair[1], "--out", tmp_path / "file" / "a.json"), "file"
    )
    assert {p.name for p in tmp_path.iterdir()} == {"file", "masks", "pred", "probs"}
