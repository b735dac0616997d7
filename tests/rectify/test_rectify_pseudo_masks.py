"""What a segmenter learns from and is shown with: pseudo-masks, scaled crops, CRF, pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from segmend.data.masks import read_mask, write_mask
from segmend.data.scenes import write_scenes
from segmend.data.tags import TagFolder
from segmend.errors import SegmendError
from segmend.rectify.files import load_rectified
from segmend.rectify.inference import read_image_probabilities
from segmend.rectify.items import PseudoMasked
from segmend.rectify.jobs import predict_rectified, train_rectified
from segmend.rectify.options import RectifyOptions, RectifyPredictOptions
from segmend.rectify.pictures import picture_of_rectification, striped
from segmend.rectify.task import rescaled

OPTIONS = RectifyOptions(epochs=1, crop=48, batch_size=4, threads=1, start=0.0)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    folder = write_scenes(
        tmp_path_factory.mktemp("scenes"), 4, size=(48, 56), num_classes=4,
        splits={"train": 1.0},
    )  # fmt: skip
    return TagFolder(folder, split="train")


def constant_masks(items, label, out):
    paths = [out / f"{name}.png" for name in items.names]
    for path in paths:
        write_mask(path, torch.full((48, 56), label), encoding="palette")
    return paths


def test_other_masks_take_the_place_of_a_set_s_own(items, tmp_path):
    masked = PseudoMasked(items, constant_masks(items, 2, tmp_path))
    assert len(masked) == 4
    item, own = masked[1], items[1]
    assert (item["target"] == 2).all()
    assert torch.equal(item["image"], own["image"])
    assert torch.equal(masked.tag_table(), items.tag_table())
    with pytest.raises(SegmendError, match="want 4, one an image, got 3"):
        PseudoMasked(items, masked.masks[:3])


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.zeros(48, 55, dtype=torch.int64), "want equal sizes"),
        (torch.full((48, 56), 9), "label"),
    ],
)
def test_a_pseudo_mask_that_does_not_fit_is_named(items, tmp_path, mask, said):
    paths = constant_masks(items, 0, tmp_path)
    write_mask(paths[2], mask, encoding="palette")
    with pytest.raises(SegmendError, match=said) as raised:
        train_rectified(OPTIONS, items, tmp_path / "run", masks=paths, progress=False)
    assert str(paths[2]) in str(raised.value)


def test_images_without_tags_and_masks_without_a_label_train_to_finite_weights(items, tmp_path):
    """All that is left is what rectification and the gate say, and here they say nothing."""
    paths = constant_masks(items, 255, tmp_path)
    tags = tmp_path / "tags.json"
    tags.write_text("{" + ", ".join(f'"{name}": []' for name in items.names) + "}")
    untagged = TagFolder(items.root, split="train", tags=tags, with_masks=False)
    for name, changes in {"a": {}, "b": {"head": "plain", "form": "all", "adaptive": True}}.items():
        settings = OPTIONS.model_copy(update=changes)
        run = tmp_path / name
        result = train_rectified(settings, untagged, run, masks=paths, progress=False)
        assert np.isfinite(result.curve[-1]["train_loss"])
        state = load_rectified(run).model.state_dict()
        assert all(v.isfinite().all() for v in state.values() if v.is_floating_point())


def test_scaled_crops_keep_labels_on_their_pixels():
    target = torch.zeros(40, 60, dtype=torch.int64)
    target[:, 30:] = 3
    target[:10] = 254
    image = torch.stack([(target == label).float() for label in (0, 3, 254)])
    rng = torch.Generator().manual_seed(1)
    sizes = set()
    for _ in range(20):
        scaled, labels = rescaled(image, target, (0.5, 1.5), rng)
        assert scaled.shape[1:] == labels.shape
        assert set(labels.unique().tolist()) <= {0, 3, 254}
        winner = torch.tensor([0, 3, 254])[scaled.argmax(0)]
        assert float((winner != labels).float().mean()) < 0.07  # the seams alone
        sizes.add(tuple(labels.shape))
    heights = [size[0] for size in sizes]
    assert min(heights) >= 20
    assert max(heights) <= 60
    assert len(sizes) > 10


def test_scaled_crops_are_trained_on(items, tmp_path):
    settings = OPTIONS.model_copy(update={"rescale": (0.5, 1.5)})
    paths = constant_masks(items, 1, tmp_path)
    found = train_rectified(settings, items, tmp_path / "run", masks=paths, progress=False)
    plain = train_rectified(OPTIONS, items, tmp_path / "plain", masks=paths, progress=False)
    assert found.curve[0]["train_loss"] != plain.curve[0]["train_loss"]


def test_probabilities_are_refined_before_they_are_masked(items, tmp_path):
    run = tmp_path / "run"
    train_rectified(OPTIONS, items, run, progress=False)
    seen = []

    def all_second(probs, image):
        seen.append((probs, image))
        return torch.nn.functional.one_hot(torch.full(image.shape[1:], 2), 4).permute(2, 0, 1) * 1.0

    model, settings = load_rectified(run).model, RectifyPredictOptions()
    reading = read_image_probabilities(model, items[0]["image"], settings, refine=all_second)
    torch.testing.assert_close(
        seen[0][0], read_image_probabilities(model, items[0]["image"], settings).probs
    )
    assert (reading.probs.argmax(0) == 2).all()
    for masking, wanted in (("none", 2), ("all", 0)):
        settings = RectifyPredictOptions(masking=masking)
        paths = predict_rectified(
            settings, run, items, tmp_path / masking, tags=torch.tensor([[1, 0, 1]] * 4),
            refine=all_second, masks=True, progress=False,
        )  # fmt: skip
        labels = read_mask(paths[3], num_classes=4, encoding="index")
        # With its class masked, the mass left is shared by background and tags; 0 is the first.
        assert (labels == wanted).all()


def test_picture_stripes_exactly_what_is_out_of_candidate(items, tmp_path):
    tags = items.tag_table()
    index = next(i for i, row in enumerate(tags) if 0 < row.sum() < 3)
    wrong, right = (int((tags[index] == v).nonzero()[0]) + 1 for v in (0, 1))
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        constant_masks(items, 0, folder)
    labels = torch.full((48, 56), right)
    labels[:24] = wrong
    labels[0] = 255
    write_mask(before / f"{items.names[index]}.png", labels, encoding="palette")
    shown = {"plain": before, "rectified": after}
    path = picture_of_rectification(items, shown, tmp_path / "a.png", shown=1)
    assert path == tmp_path / "a.png"
    pixels = np.asarray(Image.open(path)).astype(int)
    assert pixels.shape[1] == 4 * (256 + 8) + 8
    panel = pixels[28 : 28 + 219, 8 + 2 * 264 : 8 + 2 * 264 + 256]  # plain: 48x56 in 256 wide
    black = (panel.sum(2) < 30).mean(1)
    assert black[20:100].mean() == pytest.approx(0.5, abs=0.1)
    assert black[120:].max() < 0.05
    other = pixels[28 : 28 + 219, 8 + 3 * 264 : 8 + 3 * 264 + 256]
    assert (other.sum(2) < 30).mean() < 0.05
    with pytest.raises(SegmendError, match="want one folder"):
        picture_of_rectification(items, {}, tmp_path / "b.png")
    with pytest.raises(SegmendError, match="nowhere"):
        picture_of_rectification(items, {"x": tmp_path / "nowhere"}, tmp_path / "b.png")
    write_mask(before / f"{items.names[index]}.png", labels[:40], encoding="palette")
    with pytest.raises(SegmendError, match="want the same height and width"):
        picture_of_rectification(items, shown, tmp_path / "b.png", shown=4)


def test_stripes_leave_the_rest_of_a_picture_alone():
    picture, where = torch.rand(3, 12, 9), torch.zeros(12, 9, dtype=torch.bool)
    assert torch.equal(striped(picture, where), picture)
    where[:6] = True
    found = striped(picture, where)
    assert torch.equal(found[:, 6:], picture[:, 6:])
    assert 0.3 < float((found[:, :6].sum(0) == 0).float().mean()) < 0.7
