"""Masks drawn to colour edges by a fully connected CRF, with the parameter sets in use.

Mean-field inference in NumPy on the CPU, with nothing to compile: kernels by
`segmend.tags.permutohedral`, conventions and results of the reference implementation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.tags.permutohedral import Floats, PermutohedralLattice

_TOGETHER = 20  # classes in one matrix product: more gain nothing, but take memory
_LEAST = 1e-5  # floor of probabilities, for -log to be finite; the one in common use


@dataclass(frozen=True)
class CrfSettings:
    """Kernel widths and weights of a dense CRF with a Potts model.

    Attributes:
        smooth_width, smooth_weight: of the kernel on positions; pixels.
        colour_width, colour_range, colour_weight: of the kernel on positions and colours; pixels
            and grey levels of 255.
        iterations: of mean-field inference.
        label_confidence: probability of a hard label, with the rest shared among the other
            classes; for `dense_crf_from_labels` only.
    """

    smooth_width: float = 3
    smooth_weight: float = 3
    colour_width: float = 80
    colour_range: float = 13
    colour_weight: float = 10
    iterations: int = 10
    label_confidence: float = 0.7


CrfName = Literal[
    "affinity-labels", "confident-labels", "final-hfpl", "final-mctformer", "narrow", "walked"
]

CRF_SETTINGS: dict[str, CrfSettings] = {
    "affinity-labels": CrfSettings(),
    "confident-labels": CrfSettings(colour_width=50, colour_range=5),
    "final-hfpl": CrfSettings(colour_width=32, iterations=1),
    "final-mctformer": CrfSettings(
        smooth_width=4, colour_width=83, colour_range=5, colour_weight=3
    ),
    "narrow": CrfSettings(colour_width=32),
    "walked": CrfSettings(colour_width=20),
}
"""Published: of the labels for AffinityNet (PSA, SEAM, HFPL), of IRN's confident labels (from hard
labels), and of segmentation networks' probabilities in HFPL and MCTformer. Ours: the first with a
shorter reach, "narrow" for maps and "walked" for scores that a walk has spread. On photos of 320
pixels the first spoils what SEAM or a walk has found, and gives plain maps less."""


def dense_crf(
    probs: Tensor,
    image: Tensor,
    *,
    settings: CrfSettings | str = "affinity-labels",
    scale: float = 1.0,
) -> Tensor:
    """Posterior of every class after a dense CRF on class probabilities.

    Args:
        probs: float in [0, 1], (K, H, W), background included. They need not sum to 1: scores of
            a background and max-normalised maps are used as they are.
        image: float in [0, 1], (3, H, W).
        settings: one of `CRF_SETTINGS` or your own.
        scale: of this image against the full one (0.5: half the sides); widths follow it.
    Returns:
        float32 (K, H, W) on the CPU, sums to 1 over classes. A single class gives ones.
    Raises:
        SegmendError: an argument is not as above.
    Reference:
        Krähenbühl and Koltun, NeurIPS 2011.
    """
    if probs.ndim != 3 or not probs.is_floating_point() or 0 in probs.shape:
        raise SegmendError(
            f"probs: want float (K, H, W) with at least one class and pixel, "
            f"got {probs.dtype} {tuple(probs.shape)}"
        )
    if not bool((probs >= 0).all() & (probs <= 1).all()):
        raise SegmendError("probs: want numbers in [0, 1], found others; normalise maps first")
    unary = -probs.detach().cpu().float().clamp(_LEAST, 1.0).log()
    return _infer(unary, image, find_settings(settings), scale)


def dense_crf_from_labels(
    labels: Tensor,
    image: Tensor,
    *,
    num_classes: int,
    settings: CrfSettings | str = "confident-labels",
    scale: float = 1.0,
) -> Tensor:
    """Posterior of every class after a dense CRF on hard labels.

    Args:
        labels: integer (H, W) in [0, num_classes). Number the classes that an image may contain
            without gaps: one that is absent takes its share of the doubt.
        image, settings, scale: `dense_crf`; `label_confidence` of the settings counts, too.
        num_classes: at least 1.
    Returns:
        float32 (num_classes, H, W) on the CPU.
    Raises:
        SegmendError: an argument is not as above.
    """
    if labels.ndim != 2 or labels.is_floating_point() or 0 in labels.shape:
        raise SegmendError(f"labels: want integer (H, W), got {labels.dtype} {tuple(labels.shape)}")
    labels = labels.detach().cpu().long()
    if num_classes < 1 or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise SegmendError(
            f"labels: want them in [0, {num_classes}), "
            f"found {int(labels.min())} to {int(labels.max())}"
        )
    chosen = find_settings(settings)
    if not 0 < chosen.label_confidence < 1:
        raise SegmendError(f"label_confidence: want it in (0, 1), got {chosen.label_confidence}")
    doubt = (1 - chosen.label_confidence) / max(1, num_classes - 1)
    probs = torch.full((num_classes, *labels.shape), doubt)
    probs.scatter_(0, labels.unsqueeze(0), chosen.label_confidence)
    return _infer(-probs.log(), image, chosen, scale)


def find_settings(settings: CrfSettings | str) -> CrfSettings:
    """The settings of that name, or the ones given."""
    if isinstance(settings, CrfSettings):
        return settings
    if settings not in CRF_SETTINGS:
        raise SegmendError(f"settings: want one of {', '.join(CRF_SETTINGS)}, got {settings!r}")
    return CRF_SETTINGS[settings]


def _infer(unary: Tensor, image: Tensor, settings: CrfSettings, scale: float) -> Tensor:
    """Mean-field posterior for negative log-likelihoods (K, H, W)."""
    classes, height, width = unary.shape
    if image.shape != (3, height, width) or not image.is_floating_point():
        raise SegmendError(
            f"image: want float (3, {height}, {width}) in [0, 1], "
            f"got {image.dtype} {tuple(image.shape)}"
        )
    if not scale > 0 or settings.iterations < 0:
        raise SegmendError(
            f"want scale > 0 and iterations >= 0, got {scale} and {settings.iterations}"
        )
    widths = (settings.smooth_width, settings.colour_width, settings.colour_range)
    if not min(widths) > 0:
        raise SegmendError("CRF settings: want widths > 0, got {}, {} and {}".format(*widths))
    if classes == 1:
        return torch.ones_like(unary)
    colours = (image.detach().cpu().clamp(0, 1) * 255).round()
    kernels = _kernels(colours.numpy(), settings, scale)
    posterior = _mean_field(unary.flatten(1).numpy(), kernels, settings.iterations)
    return torch.from_numpy(posterior).reshape(classes, height, width)


def _kernels(
    colours: Floats, settings: CrfSettings, scale: float
) -> list[tuple[float, PermutohedralLattice]]:
    """The weighted kernels, normalised by the roots of their sums at both pixels."""
    height, width = colours.shape[1:]
    rows, cols = np.mgrid[:height, :width].astype(np.float32).reshape(2, -1)
    places = np.stack([cols, rows])
    near = places / np.float32(settings.smooth_width * scale)
    alike = places / np.float32(settings.colour_width * scale)
    alike = np.concatenate([alike, colours.reshape(3, -1) / np.float32(settings.colour_range)])
    kernels = []
    for weight, features in ((settings.smooth_weight, near), (settings.colour_weight, alike)):
        if weight != 0:
            kernels.append((weight, PermutohedralLattice(features)))
            kernels[-1][1].normalise()
    return kernels


def _mean_field(
    energy: Floats, kernels: list[tuple[float, PermutohedralLattice]], iterations: int
) -> Floats:
    """Posterior (K, n) for energies alike; a pixel hears itself, as in the reference.

    Probabilities sum to one and filters are linear: the last class is what is left of the sum.
    """

    def message(values: Floats) -> Floats:
        heard = np.zeros_like(values)
        for weight, lattice in kernels:
            heard += np.float32(weight) * lattice.filter(values)
        return heard

    total = message(np.ones_like(energy[0]))
    posterior = _softmax(-energy)
    for _ in range(iterations):
        logits, left = -energy, total.copy()
        for part in _batches(len(energy) - 1):
            heard = message(np.ascontiguousarray(posterior[part].T)).T
            logits[part] += heard
            left -= heard if heard.ndim == 1 else heard.sum(axis=0)
        logits[-1] += left
        posterior = _softmax(logits)
    return posterior


def _batches(count: int) -> list[int] | list[slice]:
    """Classes to filter together: one by one, where there are few."""
    if count < 4:
        return list(range(count))
    ends = np.linspace(0, count, math.ceil(count / _TOGETHER) + 1).round().astype(int).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]


def _softmax(logits: Floats) -> Floats:
    """Over the first axis, in place."""
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits
