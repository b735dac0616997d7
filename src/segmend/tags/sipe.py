"""SIPE: prototypes of each image's own classes draw its maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.backbones import Backbone
from segmend.tags.activation import at_least_float32, check_maps, check_tags, check_valid
from segmend.tags.classifier import CamClassifier, ClassifierSpec, Reading
from segmend.tags.pixel_correlation import with_background
from segmend.tags.pooling import pool_scores

BACKGROUND_FACTOR = 0.5
WIDTHS = (128, 128, 256, 256)
"""Published channels of the projected levels; of a backbone with fewer levels, the last ones."""
_EPSILON = 1e-5


def present_cams(logits: Tensor, tags: Tensor, valid: Tensor | None = None) -> Tensor:
    """relu(z) / (max + 1e-5), 0 where not tagged or not valid, with 1 - maximum in front.

    (N, 1 + C, h, w) of logits (N, C, h, w).
    """
    check_maps("logits", logits)
    kept = check_tags(tags, logits)[:, :, None, None]
    if valid is not None:
        check_valid(valid, logits)
        kept = kept & valid.unsqueeze(1)
    maps = torch.relu(at_least_float32(logits)).masked_fill(~kept, 0)
    return with_background(maps / (maps.amax((2, 3), keepdim=True) + _EPSILON))


@torch.no_grad()
def structure_seeds(
    cams: Tensor, features: Tensor, tags: Tensor, valid: Tensor | None = None
) -> Tensor:
    """The class whose map is most like a pixel's own correlation map: int64 (N, h, w).

    With S_ij = relu(cos(f_i, f_j)) and M_c a map, the class is the largest soft intersection over
    union  sum_j min(S_ij, M_cj) / sum_j max(S_ij, M_cj), the background's taken half.

    Args:
        cams: of `present_cams`, (N, 1 + C, h, w).
        features: float (N, D, h, w).
        tags: (N, C); only tagged classes and the background, 0, can win.
        valid: bool (N, h, w), the pixels that are compared. None (default, published): all.
    """
    if features.shape[2:] != cams.shape[2:] or len(features) != len(cams):
        raise SegmendError(
            f"features: want the size of the maps {tuple(cams.shape)}, got {tuple(features.shape)}"
        )
    present = check_tags(tags, cams, extra=1)
    seeds = torch.zeros_like(cams[:, 0], dtype=torch.int64)
    for n in range(len(cams)):
        inside = slice(None) if valid is None else valid[n].flatten()
        unit = F.normalize(at_least_float32(features[n]).flatten(1)[:, inside], dim=0)
        alike = torch.relu(unit.T @ unit)
        classes = [0, *(1 + present[n].nonzero().flatten()).tolist()]
        overlaps = []
        for c in classes:
            cam = cams[n, c].flatten()[inside]
            both = torch.minimum(alike, cam).sum(1)  # max = sum - min
            overlap = both / (alike.sum(1) + cam.sum() - both).clamp(min=_EPSILON)
            overlaps.append(BACKGROUND_FACTOR * overlap if c == 0 else overlap)
        winners = torch.stack(overlaps).argmax(0)
        seeds[n].view(-1)[inside] = torch.tensor(classes, device=cams.device)[winners]
    return seeds


def prototype_cams(
    seeds: Tensor, features: Tensor, num_classes: int, valid: Tensor | None = None
) -> Tensor:
    """relu(cos(f, p_c)) with p_c the mean of the features of class c's seeds: (N, K, h, w).

    Args:
        seeds: int64 (N, h, w) in [0, K).
        features: float (N, D, h, w); gradients reach them, in the prototypes, too.
        num_classes: K.
        valid: bool (N, h, w), the pixels that prototypes are made of. None: all.
    Returns:
        0 for a class without a seed.
    """
    chosen = F.one_hot(seeds, num_classes).flatten(1, 2).float()  # (N, hw, K)
    if valid is not None:
        chosen = chosen * valid.flatten(1).unsqueeze(2)
    flat = at_least_float32(features).flatten(2)
    prototypes = F.normalize(flat @ chosen / chosen.sum(1, keepdim=True).clamp(min=1), dim=1)
    maps = torch.relu(prototypes.mT @ F.normalize(flat, dim=1))
    return maps.reshape(len(maps), num_classes, *features.shape[2:])


class SipeClassifier(CamClassifier):
    """A plain classifier, and 1x1 projections of its levels in which prototypes are made.

    Maps are the prototypes' own. Without tags, all classes compete for seeds: give tags to `read`.

    Reference:
        Chen et al., CVPR 2022.
    """

    def __init__(self, backbone: Backbone, spec: ClassifierSpec) -> None:
        super().__init__(backbone, spec)
        channels = backbone.channels[-len(WIDTHS) :]
        widths = WIDTHS[-len(channels) :]
        pairs = zip(channels, widths, strict=True)
        self.sides = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in pairs)

    def maps(
        self, images: Tensor, tags: Tensor, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, C, h, w), `present_cams` and prototypes' maps, both (N, 1 + C, h, w)."""
        levels = self.backbone(self.prepared(images))
        logits = self.head(levels[-1])
        cams = present_cams(logits, tags, valid)
        used = levels[-len(self.sides) :]
        projected = [
            F.normalize(at_least_float32(side(level.detach())), dim=1)
            for side, level in zip(self.sides, used, strict=True)
        ]
        size = logits.shape[2:]
        features = torch.cat(
            [
                x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear")
                for x in projected
            ],
            1,
        )
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 is too coarse here
            seeds = structure_seeds(cams, levels[-1], tags, valid)
            own = prototype_cams(seeds, features, cams.shape[1], valid)
        return logits, cams, own

    def read(self, images: Tensor, tags: Tensor | None = None) -> Reading:
        if tags is None:
            shape = (len(images), self.classifier_spec.num_classes)
            tags = torch.ones(shape, device=images.device)
        logits, _, own = self.maps(images, tags)
        return Reading(own[:, 1:].float(), pool_scores(logits.float()))


def prototype_loss(cams: Tensor, own: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over images, all channels and (valid) pixels of |CAM - prototypes' map|."""
    apart = (cams - own).abs()
    if valid is None:
        return apart.mean()
    apart = apart.masked_fill(~valid.unsqueeze(1), 0)
    return apart.sum() / (valid.sum() * cams.shape[1]).clamp(min=1)
