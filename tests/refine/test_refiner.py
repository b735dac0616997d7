"""The refiner end to end on small maps: it mends a planted bias, and knows when it cannot."""

import json

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from segmend import Refiner, SegmendError
from segmend.data.masks import write_mask
from segmend.data.probability_maps import write_probabilities
from segmend.refine import RefineOptions

SMALL = RefineOptions(width=8, epochs=12, crop=32, folds=2, learning_rate=1e-2)


def blobs(count, *, seed, bias=3.0, size=32):
    """Maps of noisy discs whose logits are too high in the left half: a bias of `bias`."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = torch.rand(count, 2, 1, 1, generator=generator) * size
    radius = size * (0.2 + 0.2 * torch.rand(count, 1, 1, generator=generator))
    target = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < radius**2).long()
    logits = 4.0 * target - 2 + torch.randn(count, size, size, generator=generator)
    logits[..., : size // 2] += bias
    return logits.sigmoid().unsqueeze(1), target


def pooled_iou(mask, target):
    found, true = mask.bool(), target == 1
    return float((found & true).sum() / (found | true).sum())


@pytest.fixture(scope="module")
def fitted():
    return Refiner.fit(*blobs(12, seed=0), options=SMALL)


def test_planted_bias_is_mended_on_new_maps(fitted):
    probs, target = blobs(12, seed=1)
    cuts = [pooled_iou(probs[:, 0] > t, target) for t in torch.linspace(0.05, 0.95, 19)]
    assert fitted.gate.strength > 0
    assert pooled_iou(fitted(probs)[:, 0] > 0.5, target) > max(cuts) + 0.05


def test_maps_without_bias_are_left_as_they_are():
    probs, target = blobs(12, seed=2, bias=0.0)
    options = SMALL.model_copy(update={"epochs": 1, "gate_confidence": 0.99})
    refiner = Refiner.fit(probs, target, options=options)
    assert refiner.gate.strength == 0
    refined, cut = refiner(probs), torch.tensor(refiner.gate.base_threshold)
    torch.testing.assert_close(refined, (probs.logit() - cut).sigmoid(), atol=1e-4, rtol=0)


def test_same_seed_same_refiner_other_seed_another(fitted):
    probs, _ = blobs(2, seed=3)
    again = Refiner.fit(*blobs(12, seed=0), options=SMALL)
    assert torch.equal(again(probs), fitted(probs))
    other = Refiner.fit(*blobs(12, seed=0), options=SMALL.model_copy(update={"seed": 1}))
    assert not torch.equal(other(probs), fitted(probs))


def test_saved_and_loaded_refiner_is_the_same(fitted, tmp_path):
    probs, _ = blobs(2, seed=3)
    loaded = Refiner.load(fitted.save(tmp_path / "refiner"))
    assert torch.equal(loaded(probs), fitted(probs))
    assert loaded.options == fitted.options
    assert loaded.gate == fitted.gate


def test_tensors_loader_and_folder_are_fitted_alike(fitted, tmp_path):
    probs, target = blobs(12, seed=0)
    fresh, _ = blobs(2, seed=3)
    loader = DataLoader(TensorDataset(probs, target), batch_size=5)
    assert torch.equal(Refiner.fit(loader, options=SMALL)(fresh), fitted(fresh))
    for index, (map_, mask) in enumerate(zip(probs, target, strict=True)):
        write_probabilities(tmp_path / "probs" / f"{index:02}.npy", map_)
        write_mask(tmp_path / "masks" / f"{index:02}.png", mask)
    from_folder = Refiner.fit(tmp_path / "probs", tmp_path / "masks", options=SMALL)
    torch.testing.assert_close(from_folder(fresh), fitted(fresh), atol=0.02, rtol=0)


def test_ignored_pixels_cannot_matter(fitted):
    probs, target = blobs(12, seed=0)
    holes = torch.rand(target.shape, generator=torch.Generator().manual_seed(9)) < 0.1
    spoilt = torch.where(holes, 255, target)
    one = Refiner.fit(probs, spoilt, options=SMALL)
    other = Refiner.fit(probs, torch.where(holes, 7, target), options=SMALL, ignore_index=7)
    fresh, _ = blobs(2, seed=3)
    assert torch.equal(one(fresh), other(fresh))
    assert not torch.equal(one(fresh), fitted(fresh))


def three_classes(count, *, seed):
    one, first = blobs(count, seed=seed, bias=0.0)
    two, second = blobs(count, seed=seed + 100, bias=0.0)
    target = torch.where(second == 1, 2, first)
    logits = torch.cat([torch.zeros_like(one), one.logit(), two.logit() + 1], dim=1)
    logits[:, 1, :, :16] += 4.0
    return logits.softmax(1), target


@pytest.mark.parametrize("shared", [False, True])
def test_many_classes_are_mended_by_joint_argmax(shared):
    probs, target = three_classes(12, seed=0)
    options = SMALL.model_copy(update={"shared": shared, "epochs": 16})
    refiner = Refiner.fit(probs, target, options=options)
    fresh, truth = three_classes(12, seed=7)
    refined = refiner(fresh)
    torch.testing.assert_close(refined.sum(1), torch.ones_like(refined[:, 0]))
    before = float((fresh.argmax(1) == truth).double().mean())
    assert float((refined.argmax(1) == truth).double().mean()) > before + 0.03


def test_saliency_keeps_grey_levels_and_lowers_the_error():
    options = SMALL.model_copy(update={"task": "saliency"})
    refiner = Refiner.fit(*blobs(12, seed=0), options=options)
    probs, target = blobs(12, seed=1)
    refined = refiner(probs)
    assert refiner.gate.threshold == 0
    assert (refined[:, 0] - target).abs().mean() < (probs[:, 0] - target).abs().mean() - 0.05
    assert ((refined > 0.05) & (refined < 0.95)).any()


@pytest.mark.parametrize("use", ["network", "guide", "both"])
def test_image_is_used_where_it_is_given(use, tmp_path):
    probs, target = blobs(12, seed=0, bias=0.0)
    images = target[:, None].float().expand(-1, 3, -1, -1)
    noise = torch.rand(probs.shape, generator=torch.Generator().manual_seed(0))
    blurred = (probs.logit() * 0.1 + 2 * noise - 1).sigmoid()
    options = SMALL.model_copy(update={"use_images": use})
    refiner = Refiner.fit(blurred, target, images=images, options=options)
    assert refiner.with_images == (use != "guide")
    assert (refiner.gate.guide is not None) or use == "network"
    with pytest.raises(SegmendError, match="images: this refiner was fitted with images"):
        refiner(blurred)
    refined = refiner(blurred, images)
    assert pooled_iou(refined[:, 0] > 0.5, target) > refiner.gate.base_score
    assert torch.equal(Refiner.load(refiner.save(tmp_path))(blurred, images), refined)


@pytest.mark.parametrize("method", ["patch-refine-p0", "patch-refine-p4", "patch-refine-p64"])
def test_published_network_fits_saves_and_refines(method, tmp_path):
    probs, target = blobs(4, seed=0)
    options = RefineOptions(
        method=method, width=4, epochs=1, crop=None, pseudo_label_weight=0.7, folds=2,
        gate_confidence=0, merge="published", schedule="plateau",
    )  # fmt: skip
    refiner = Refiner.fit(probs, target, options=options)
    refined = refiner(probs)
    assert refined.shape == probs.shape
    assert torch.equal(Refiner.load(refiner.save(tmp_path))(probs), refined)


def test_resizing_brings_maps_of_any_size_back():
    probs, target = blobs(4, seed=0)
    options = SMALL.model_copy(update={"resize": 48, "epochs": 1, "gate_confidence": 0})
    refiner = Refiner.fit(probs, target, options=options)
    assert refiner(torch.rand(1, 1, 17, 40)).shape == (1, 1, 17, 40)


PROBS, TARGET = blobs(3, seed=0)


@pytest.mark.parametrize(
    ("probs", "target", "what"),
    [
        (PROBS.logit(), TARGET, "0: probs: want probabilities in .* apply a sigmoid"),
        (PROBS * torch.nan, TARGET, "0: probs: want probabilities"),
        (PROBS, TARGET[:2], r"target: want a tensor \(3, 32, 32\)"),
        (PROBS, TARGET * 3, r"0: the mask has labels \[3\]; want 0 to 1"),
        (PROBS[:0], TARGET[:0], "nothing to fit"),
    ],
)
def test_bad_tensors_are_named(probs, target, what):
    with pytest.raises(SegmendError, match=what):
        Refiner.fit(probs, target, options=SMALL)


def test_other_channel_count_is_named(fitted):
    with pytest.raises(SegmendError, match=r"fitted to maps of 1 channel\(s\), got 3"):
        fitted(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("spoil", ["missing", "truncated", "other weights", "not json"])
def test_damaged_refiner_is_named(fitted, tmp_path, spoil):
    folder = fitted.save(tmp_path / "refiner")
    weights, description = folder / "refiner.safetensors", folder / "refiner.json"
    if spoil == "missing":
        weights.unlink()
    elif spoil == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif spoil == "other weights":
        content = json.loads(description.read_text())
        content["options"]["width"] = 16
        description.write_text(json.dumps(content))
    else:
        description.write_text("{")
    with pytest.raises(SegmendError, match="want a refiner"):
        Refiner.load(folder)


def test_all_ignored_and_all_background_images_are_fine():
    probs, target = blobs(4, seed=0)
    target[0], target[1] = 255, 0
    refiner = Refiner.fit(probs, target, options=SMALL.model_copy(update={"epochs": 1}))
    assert torch.isfinite(refiner(probs)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (40, 1)])
def test_one_pixel_wide_maps_are_refined(fitted, size):
    refined = fitted(torch.rand(1, 1, *size))
    assert refined.shape == (1, 1, *size)
    assert torch.isfinite(refined).all()


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ({"batch_size": 1}, True),
        ({"crop": None}, True),
        ({"batch_size": 4}, False),
        ({"batch_size": 1, "batch_statistics": False}, False),
        ({"batch_size": 4, "batch_statistics": True}, True),
    ],
)
def test_norms_see_in_use_what_they_saw_while_they_learned(given, own, tmp_path):
    options = RefineOptions(
        **{"method": "patch-refine-p0", "width": 4, "epochs": 1, "crop": 32, "folds": 0, **given}
    )
    refiner = Refiner.fit(*blobs(2, seed=0), options=options)
    refiner.save(tmp_path)
    probs, _ = blobs(1, seed=1)
    [network] = Refiner.load(tmp_path).double().networks
    with torch.no_grad():
        used = network(probs.double()).global_
        learning = network.train()(probs.double()).global_
    assert torch.allclose(used, learning, atol=1e-8) == own
