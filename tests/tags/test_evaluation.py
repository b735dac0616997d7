"""Scores of maps and masks against true masks, with and without a background class."""

import json

import pytest
import torch

from segmend import SegmendError
from segmend.data.images import write_image
from segmend.data.masks import write_mask
from segmend.data.tags import TagFolder
from segmend.tags.cam_files import write_cams
from segmend.tags.evaluation import evaluate_cams, evaluate_masks

SIZE = (24, 32)


def make_set(folder, masks, classes):
    """A data set in the VOC layout whose images are grey and whose masks are given."""
    for number, mask in enumerate(masks):
        write_image(folder / f"JPEGImages/{number}.png", torch.full((3, *mask.shape), 0.5))
        write_mask(folder / f"SegmentationClass/{number}.png", mask, encoding="palette")
    (folder / "classes.json").write_text(json.dumps({"classes": classes}))
    return TagFolder(folder, tags="masks")


def squares():
    """Class 1 on the left of one image, class 2 on the right of the other."""
    one, two = torch.zeros(2, *SIZE, dtype=torch.int64)
    one[8:16, 4:16] = 1
    two[4:20, 16:28] = 2
    return [one, two]


@pytest.fixture
def items(tmp_path):
    return make_set(tmp_path / "set", squares(), ["background", "cat", "dog"])


def test_true_masks_score_perfectly(items, tmp_path):
    for number, mask in enumerate(squares()):
        write_mask(tmp_path / f"{number}.png", mask, encoding="palette")
    scores = evaluate_masks(tmp_path, items, progress=False)
    assert scores.mean_iou == scores.boundary_f == 1
    assert scores.out_of_candidate == scores.ignored == 0


def test_a_class_that_no_tag_names_is_out_of_candidates(items, tmp_path):
    one, two = squares()
    two[0, :16] = 1  # 16 pixels of a class that only the first image has
    for number, mask in enumerate((one, two)):
        write_mask(tmp_path / f"{number}.png", mask, encoding="palette")
    scores = evaluate_masks(tmp_path, items, progress=False)
    assert scores.out_of_candidate == pytest.approx(16 / (2 * SIZE[0] * SIZE[1]))
    assert scores.mean_iou < 1


def test_pixels_left_open_count_as_background(items, tmp_path):
    for number, mask in enumerate(squares()):
        write_mask(tmp_path / f"{number}.png", mask.where(mask != 1, 255), encoding="palette")
    scores = evaluate_masks(tmp_path, items, progress=False)
    assert float(scores.per_class[1]) == 0
    assert float(scores.per_class[2]) == 1
    assert scores.ignored == pytest.approx(8 * 12 / (2 * SIZE[0] * SIZE[1]))


def test_maps_that_are_the_masks_find_them_at_some_constant(items, tmp_path):
    for number, mask in enumerate(squares()):
        maps = torch.stack([(mask == c).float() for c in (1, 2)])
        scores = torch.tensor([2.0, -2.0]) * (1 - 2 * number)
        write_cams(tmp_path / f"{number}.npz", maps, items.tags(number), scores, SIZE)
    found = evaluate_cams(tmp_path, items, progress=False)
    assert found.mean_iou == found.tag_map == 1
    assert evaluate_cams(tmp_path, items, constant=1.0, progress=False).mean_iou < 0.5


def test_without_a_background_every_pixel_takes_its_best_tag(tmp_path):
    mask = torch.zeros(SIZE, dtype=torch.int64)
    mask[:, 16:] = 1
    items = make_set(tmp_path / "set", [mask], ["grass", "sky"])
    assert items.background is None
    maps = torch.stack([(mask == 0).float(), 0.1 * (mask == 1).float()])
    (tmp_path / "cams").mkdir()
    write_cams(tmp_path / "cams/0.npz", maps, items.tags(0), torch.zeros(2), SIZE)
    found = evaluate_cams(tmp_path / "cams", items, progress=False)
    assert found.mean_iou == 1
    assert found.constant is None
    write_mask(tmp_path / "0.png", torch.full(SIZE, 255), encoding="palette")
    assert evaluate_masks(tmp_path, items, progress=False).mean_iou == 0


def test_what_is_missing_is_named(items, tmp_path):
    with pytest.raises(SegmendError, match=r"0\.png"):
        evaluate_masks(tmp_path, items, progress=False)
    with pytest.raises(SegmendError, match=r"0\.npz"):
        evaluate_cams(tmp_path, items, progress=False)


def test_a_mask_of_another_size_is_named(items, tmp_path):
    write_mask(tmp_path / "0.png", torch.zeros(5, 5, dtype=torch.int64), encoding="palette")
    with pytest.raises(SegmendError, match=r"0\.png: is \(5, 5\), its true mask \(24, 32\)"):
        evaluate_masks(tmp_path, items, progress=False)
