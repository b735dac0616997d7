"""Against mean field with full kernel matrices in NumPy; what holds for any CRF; arguments."""

import sys
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.tags.dense_crf import (
    CRF_SETTINGS,
    CrfName,
    CrfSettings,
    dense_crf,
    dense_crf_from_labels,
)

HEIGHT, WIDTH = 9, 8


def scene(seed, classes=3):
    """(probs (K, H, W), image of a few flat regions)."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randn(classes, HEIGHT, WIDTH, generator=generator).softmax(0)
    blocks = torch.rand(3, 3, 2, generator=generator)
    return probs, blocks.repeat_interleave(3, 1).repeat_interleave(4, 2)


def mean_field(energy, image, chosen, scale=1.0):
    """Oracle: the exact sums that the library approximates on a lattice."""
    classes, height, width = energy.shape
    rows, cols = np.mgrid[:height, :width]
    places = np.stack([rows, cols], -1).reshape(-1, 2)
    colours = np.round(image.numpy() * 255).reshape(3, -1).T

    def squares(points):
        return ((points[:, None] - points[None]) ** 2).sum(-1)

    near = squares(places) / (chosen.smooth_width * scale) ** 2
    alike = squares(places) / (chosen.colour_width * scale) ** 2
    alike = alike + squares(colours) / chosen.colour_range**2
    message = np.zeros((height * width,) * 2)
    for weight, exponent in ((chosen.smooth_weight, near), (chosen.colour_weight, alike)):
        kernel = np.exp(-exponent / 2)
        root = np.sqrt(kernel.sum(1))
        message += weight * kernel / root[:, None] / root[None]

    def softmax(logits):
        grown = np.exp(logits - logits.max(0))
        return grown / grown.sum(0)

    flat = energy.numpy().reshape(classes, -1).astype(float)
    posterior = softmax(-flat)
    for _ in range(chosen.iterations):
        posterior = softmax(posterior @ message - flat)
    return posterior.reshape(energy.shape)


OPEN_CASES = [  # weak enough that the posterior is not all 0 and 1
    CrfSettings(smooth_weight=1, colour_weight=1, iterations=3),
    CrfSettings(smooth_weight=2, colour_weight=0, iterations=5),
    CrfSettings(smooth_weight=0, colour_width=5, colour_weight=2, iterations=2),
    CrfSettings(iterations=0),
]


@pytest.mark.parametrize("chosen", [*CRF_SETTINGS.values(), *OPEN_CASES])
@given(seed=st.integers(0, 2**16))
@settings(max_examples=5)
def test_agrees_with_exact_mean_field(chosen, seed):
    probs, image = scene(seed)
    found = dense_crf(probs, image, settings=chosen)
    wanted = mean_field(-probs.clamp(1e-5, 1).log(), image, chosen)
    # Pixels close to a tie can end on either side: the lattice is an approximation.
    assert np.abs(found.numpy() - wanted).mean() < 0.02
    torch.testing.assert_close(found.sum(0), torch.ones(HEIGHT, WIDTH))


def test_scale_shrinks_the_widths():
    probs, image = scene(3)
    chosen = CrfSettings(smooth_width=6, smooth_weight=2, colour_weight=0, iterations=3)
    energy = -probs.log()
    found = dense_crf(probs, image, settings=chosen, scale=0.25).numpy()
    assert np.abs(found - mean_field(energy, image, chosen, scale=0.25)).mean() < 0.005
    assert np.abs(found - mean_field(energy, image, chosen)).mean() > 0.02


@pytest.mark.parametrize("classes", [2, 4])
def test_hard_labels_share_the_doubt(classes):
    image = scene(5)[1]
    labels = torch.randint(0, classes, (HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    chosen = CrfSettings(smooth_weight=1, colour_weight=1, iterations=2)
    energy = torch.full((classes, HEIGHT, WIDTH), -np.log(0.3 / (classes - 1)))
    energy[labels.unsqueeze(0) == torch.arange(classes)[:, None, None]] = -np.log(0.7)
    found = dense_crf_from_labels(labels, image, num_classes=classes, settings=chosen)
    assert np.abs(found.numpy() - mean_field(energy, image, chosen)).mean() < 0.01


def test_one_class_is_certain():
    probs, image = scene(0, classes=1)
    assert torch.equal(dense_crf(probs * 0.3, image), torch.ones(1, HEIGHT, WIDTH))
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.long)
    assert torch.equal(
        dense_crf_from_labels(labels, image, num_classes=1), torch.ones(1, HEIGHT, WIDTH)
    )


def test_a_speck_goes_and_the_arguments_stay():
    image = torch.zeros(3, 16, 16)
    image[:, :, 8:] = 1
    probs = torch.full((2, 16, 16), 0.2)
    probs[0, :, :8] = probs[1, :, 8:] = 0.8
    probs[:, 4, 3] = torch.tensor([0.2, 0.8])
    before = probs.clone(), image.clone()
    labels = dense_crf(probs, image, settings="final-hfpl").argmax(0)
    assert torch.equal(labels, image[0].long())
    assert torch.equal(probs, before[0])
    assert torch.equal(image, before[1])


def test_published_settings():
    names = (
        "smooth_width",
        "smooth_weight",
        "colour_width",
        "colour_range",
        "colour_weight",
        "iterations",
    )
    table = {key: tuple(getattr(s, name) for name in names) for key, s in CRF_SETTINGS.items()}
    assert table == {
        "affinity-labels": (3, 3, 80, 13, 10, 10),
        "confident-labels": (3, 3, 50, 5, 10, 10),
        "final-hfpl": (3, 3, 32, 13, 10, 1),
        "final-mctformer": (4, 3, 83, 5, 3, 10),
        "narrow": (3, 3, 32, 13, 10, 10),  # ours
        "walked": (3, 3, 20, 13, 10, 10),
    }
    assert set(table) == set(get_args(CrfName))
    assert CRF_SETTINGS["confident-labels"].label_confidence == 0.7


def test_installs_without_the_reference(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    assert dense_crf(*scene(0)).shape == (3, HEIGHT, WIDTH)


@given(seed=st.integers(0, 99), classes=st.integers(2, 6))
@settings(max_examples=10)
def test_classes_are_alike_and_only_ratios_count(seed, classes):
    probs, image = scene(seed, classes)
    chosen = CrfSettings(smooth_weight=1, colour_weight=1, iterations=3)
    plain = dense_crf(probs.clamp(min=0.01), image, settings=chosen)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(classes, generator=generator)
    turned = dense_crf(probs.clamp(min=0.01)[order], image, settings=chosen)
    torch.testing.assert_close(turned, plain[order], atol=1e-5, rtol=0)
    # A factor on the scores of a pixel is a constant on its energies.
    factor = 0.1 + 0.9 * torch.rand(1, HEIGHT, WIDTH, generator=generator)
    scaled = dense_crf(probs.clamp(min=0.01) * factor, image, settings=chosen)
    torch.testing.assert_close(scaled, plain, atol=1e-5, rtol=0)


def test_nothing_to_tell_classes_apart():
    probs = torch.full((4, 12, 10), 0.25)
    found = dense_crf(probs, torch.full((3, 12, 10), 0.4), settings="confident-labels")
    torch.testing.assert_close(found, probs, atol=1e-4, rtol=0)


def test_certain_regions_stay():
    labels = torch.arange(3).repeat_interleave(5).expand(14, 15)
    image = torch.stack([labels / 2, 1 - labels / 2, (labels == 1).float()])
    sure = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1).float()
    once = dense_crf(sure, image)
    torch.testing.assert_close(once, sure, atol=1e-3, rtol=0)
    torch.testing.assert_close(dense_crf(once.clamp(0, 1), image), once, atol=1e-3, rtol=0)


PROBS, IMAGE = scene(0)
LABELS = torch.zeros(HEIGHT, WIDTH, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dense_crf(PROBS[0], IMAGE), r"probs: want float \(K, H, W\)"),
        (lambda: dense_crf(PROBS + 1, IMAGE), r"probs: want numbers in \[0, 1\]"),
        (lambda: dense_crf(PROBS * torch.nan, IMAGE), "probs: want numbers"),
        (lambda: dense_crf(PROBS, IMAGE[:, 1:]), r"image: want float \(3, 9, 8\)"),
        (lambda: dense_crf(PROBS, IMAGE, settings="no"), "want one of affinity-labels, conf"),
        (lambda: dense_crf(PROBS, IMAGE, scale=0), "want scale > 0"),
        (
            lambda: dense_crf(PROBS, IMAGE, settings=CrfSettings(colour_range=0)),
            "want widths > 0, got 3, 80 and 0",
        ),
        (lambda: dense_crf_from_labels(LABELS.float(), IMAGE, num_classes=1), "labels: want int"),
        (lambda: dense_crf_from_labels(LABELS + 2, IMAGE, num_classes=2), r"in \[0, 2\), found 2"),
        (
            lambda: dense_crf_from_labels(
                LABELS, IMAGE, num_classes=2, settings=CrfSettings(label_confidence=1)
            ),
            "label_confidence: want",
        ),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(SegmendError, match=message):
        call()
