"""Against the compiled library that published results come from: the same posteriors."""

import numpy as np
import pydensecrf.densecrf as reference
import pytest
import skimage.data
import skimage.transform
import torch

from segmend.data.scenes import make_scenes
from segmend.tags.dense_crf import CRF_SETTINGS, CrfSettings, dense_crf, dense_crf_from_labels


def by_reference(energy, image, chosen, scale=1.0):
    """Posterior of pydensecrf2: the library that published results come from."""
    classes, height, width = energy.shape
    field = reference.DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(classes, -1).numpy()))
    field.addPairwiseGaussian(sxy=chosen.smooth_width * scale, compat=chosen.smooth_weight)
    field.addPairwiseBilateral(
        sxy=chosen.colour_width * scale,
        srgb=chosen.colour_range,
        rgbim=(image * 255).round().byte().permute(1, 2, 0).contiguous().numpy(),
        compat=chosen.colour_weight,
    )
    return np.array(field.inference(chosen.iterations)).reshape(energy.shape)


def picture(name, height, width):
    """(3, height, width): a photograph, or a procedural scene."""
    if name == "scene":
        return next(make_scenes(1, size=(height, width), seed=7)).image
    small = skimage.transform.resize(getattr(skimage.data, name)(), (height, width))
    return torch.from_numpy(small).permute(2, 0, 1).float()


def blurry_probs(classes, height, width, seed=0):
    """Probabilities as networks give them: smooth, with noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, 5, 5, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (2 * logits + 0.3 * torch.randn(logits.shape, generator=generator)).softmax(0)


@pytest.mark.parametrize("name", CRF_SETTINGS)
@pytest.mark.parametrize(
    ("photo", "height", "width", "classes"),
    [("astronaut", 107, 160, 3), ("chelsea", 90, 131, 5), ("scene", 96, 128, 2)],
)
def test_equals_the_reference(name, photo, height, width, classes):
    image, probs = picture(photo, height, width), blurry_probs(classes, height, width)
    wanted = by_reference(-probs.log(), image, CRF_SETTINGS[name])
    found = dense_crf(probs, image, settings=name).numpy()
    # Same lattice, other order of sums: mean field can magnify the last digit, not more.
    assert np.abs(found - wanted).max() < 1e-3
    assert np.abs(found - wanted).mean() < 1e-6
    assert (found.argmax(0) == wanted.argmax(0)).mean() > 0.9999
    assert np.abs(wanted - probs.numpy()).mean() > 0.02  # it does something


@pytest.mark.parametrize("classes", [2, 4, 6, 23])
def test_equals_the_reference_for_any_number_of_classes(classes):
    image, probs = picture("coffee", 40, 60), blurry_probs(classes, 40, 60)
    chosen = CrfSettings(smooth_weight=1, colour_width=20, colour_weight=2, iterations=4)
    wanted = by_reference(-probs.log(), image, chosen, 0.75)
    found = dense_crf(probs, image, settings=chosen, scale=0.75).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (2, 2)])
def test_tiny_images_equal_the_reference(height, width):
    image, probs = picture("coffee", height, width), blurry_probs(3, height, width)
    wanted = by_reference(-probs.log(), image, CrfSettings())
    np.testing.assert_allclose(dense_crf(probs, image), wanted, atol=1e-5)


def test_hard_labels_equal_the_reference():
    image = picture("astronaut", 60, 80)
    labels = blurry_probs(3, 60, 80).argmax(0)
    energy = torch.full((3, 60, 80), -np.log(0.15))
    energy.scatter_(0, labels.unsqueeze(0), -np.log(0.7))
    wanted = by_reference(energy, image, CRF_SETTINGS["confident-labels"])
    found = dense_crf_from_labels(labels, image, num_classes=3)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
