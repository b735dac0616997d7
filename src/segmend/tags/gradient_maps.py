"""Maps from gradients (Grad-CAM and its relatives), by the grad-cam package.

It is an extra: `pip install segmend[cam]`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segmend.errors import SegmendError
from segmend.tags.classifier import CamClassifier, Reading, TagClassifier
from segmend.tags.pooling import pool_scores

GradientMaps = Literal[
    "grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "hires-cam", "eigen-grad-cam"
]
MapKind = Literal["cam"] | GradientMaps

CLASSES: dict[GradientMaps, str] = {
    "grad-cam": "GradCAM",
    "grad-cam++": "GradCAMPlusPlus",
    "xgrad-cam": "XGradCAM",
    "layer-cam": "LayerCAM",
    "hires-cam": "HiResCAM",
    "eigen-grad-cam": "EigenGradCAM",
}


def gradient_maps(
    model: TagClassifier, images: Tensor, kind: GradientMaps, tags: Tensor | None = None
) -> Reading:
    """Maps from the gradients of each class's score by the backbone's last map, and the scores.

    Args:
        model: a classifier with a head on the backbone's last map. With average pooling Grad-CAM
            is the class activation map over the number of its cells.
        images: float (N, 3, H, W) in [0, 1].
        kind: which of the package's maps.
        tags: (N, C); only classes that some image has are computed, others are 0. None: all.
    Raises:
        SegmendError: the package is missing, an unknown kind, or a model of another build.
    """
    if kind not in CLASSES:
        raise SegmendError(f"maps: want one of {('cam', *CLASSES)}, got {kind!r}")
    if not isinstance(model, CamClassifier):
        raise SegmendError(
            f"maps: {kind} wants a network with a head on its last map, not "
            f"{model.classifier_spec.method}; say maps=cam"
        )
    package = _package()
    with torch.inference_mode(False), torch.enable_grad():
        tapped = _Tapped(model)
        with getattr(package, CLASSES[kind])(tapped, [tapped.tap]) as cam:
            maps, scores = _maps(cam, tapped, images.clone(), tags)
    model.zero_grad()
    return Reading(torch.relu(maps).to(images.device), scores.detach().float())


class _Tapped(nn.Module):
    """Scores of images; the last map goes through `tap`, where gradients end.

    No gradient is computed in the backbone, nor kept in its parameters.
    """

    def __init__(self, model: CamClassifier) -> None:
        super().__init__()
        self.model = model
        self.tap = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.model.features(images)
        return pool_scores(self.model.head(self.tap(features.requires_grad_())))


def _maps(cam: Any, tapped: _Tapped, images: Tensor, tags: Tensor | None) -> tuple[Tensor, Tensor]:
    """Maps (N, C, h, w) as the package computes them, before it scales each to [0, 1]."""
    record = cam.activations_and_grads
    scores: Tensor = record(images)
    wanted = range(scores.shape[1])
    chosen = [c for c in wanted if tags is None or bool((tags[:, c] > 0.5).any())]
    activations = record.activations[0].numpy()
    maps = torch.zeros(len(images), len(wanted), *activations.shape[2:])
    for c in chosen:
        record.gradients = []
        torch.autograd.backward(scores[:, c].sum(), retain_graph=True)
        # The package's targets choose a class, which the gradients already have.
        found = cam.get_cam_image(
            images,
            tapped.tap,
            [None] * len(images),
            activations,
            record.gradients[0].numpy(),
            False,  # "eigen_smooth"
        )
        maps[:, c] = torch.as_tensor(found, dtype=torch.float32)
    return maps, scores


def _package() -> Any:
    try:
        return import_module("pytorch_grad_cam")
    except ImportError as error:
        raise SegmendError(
            "maps: maps from gradients want the package grad-cam; pip install 'segmend[cam]'"
        ) from error
