"""What a refiner has to beat: calibration, guided filter, dense CRF, and the oracle thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend import tags
from segmend.refine import patch_pseudo_labels
from segmend.refine.gate_scores import SHIFTS, binary_scores

Fitted = Callable[[Tensor, Tensor], Tensor]
"""(logits (H, W), image (3, H, W)) -> bool mask (H, W)."""


def best_cut(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[float, float]:
    """Logit threshold with the best pooled IoU on these images, and that IoU."""
    pooled = binary_scores([z.unsqueeze(0) for z in logits], labels).pooled()
    top = (pooled >= pooled.max() - 1e-9).nonzero()[:, 0]
    index = int(top[len(top) // 2])
    return float(SHIFTS[index]), float(pooled[index])


def tuned_threshold(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Fitted:
    """The base at the one threshold that suits the fitting images best."""
    cut, _ = best_cut(logits, labels)
    return lambda z, image: z > cut


def calibrated(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Fitted:
    """Temperature and bias fitted by cross-entropy, cut at p = 0.5."""
    scale, bias = platt_scaling(logits, labels)
    return lambda m, image: scale * m + bias > 0


def platt_scaling(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[float, float]:
    """Temperature (as a factor of the logits) and bias of least cross-entropy (Platt scaling)."""
    scale = torch.ones((), requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    z = torch.cat([m.flatten() for m in logits]).float()
    y = torch.cat([m.flatten() for m in labels])
    z, y = z[y != 255], (y[y != 255] == 1).float()
    optimizer = torch.optim.LBFGS([scale, bias], max_iter=50)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(z * scale + bias, y)
        value.backward()
        return value

    optimizer.step(loss)
    return float(scale.detach()), float(bias.detach())


def guided_filter(
    logits: Sequence[Tensor], labels: Sequence[Tensor], images: Sequence[Tensor]
) -> Fitted:
    """Guided filter (He, Sun, Tang, PAMI 2013) of p by the grey image; all options tuned."""
    best: tuple[float, int, float, float] | None = None
    for radius in (2, 4, 8):
        for eps in (1e-3, 1e-2):
            maps = [_guided(z, i, radius, eps) for z, i in zip(logits, images, strict=True)]
            cut, score = best_cut(maps, labels)
            if best is None or score > best[0]:
                best = (score, radius, eps, cut)
    assert best is not None
    _, radius, eps, cut = best
    return lambda z, image: _guided(z, image, radius, eps) > cut


def _guided(logits: Tensor, image: Tensor, radius: int, eps: float) -> Tensor:
    def mean(x: Tensor) -> Tensor:
        side = 2 * radius + 1
        return F.avg_pool2d(x, side, 1, radius, count_include_pad=False)

    guide, p = image.mean(0)[None, None], logits.float().sigmoid()[None, None]
    mean_i, mean_p = mean(guide), mean(p)
    a = (mean(guide * p) - mean_i * mean_p) / (mean(guide * guide) - mean_i**2 + eps)
    b = mean_p - a * mean_i
    return (mean(a) * guide + mean(b))[0, 0].clamp(1e-4, 1 - 1e-4).logit()


def dense_crf(
    logits: Sequence[Tensor], labels: Sequence[Tensor], images: Sequence[Tensor]
) -> Fitted:
    """Dense CRF (Kraehenbuehl and Koltun, NeurIPS 2011); bilateral strength tuned, from tuned p."""
    base_cut, _ = best_cut(logits, labels)
    best: tuple[float, float, float] | None = None
    for compat, srgb in ((3.0, 5.0), (5.0, 13.0), (10.0, 5.0)):
        masks = [_crf(z - base_cut, i, compat, srgb) for z, i in zip(logits, images, strict=True)]
        inter = sum(int((m & (y == 1)).sum()) for m, y in zip(masks, labels, strict=True))
        union = sum(
            int(((m & (y != 255)) | (y == 1)).sum()) for m, y in zip(masks, labels, strict=True)
        )
        if best is None or inter / max(1, union) > best[0]:
            best = (inter / max(1, union), compat, srgb)
    assert best is not None
    _, compat, srgb = best
    return lambda z, image: _crf(z - base_cut, image, compat, srgb)


def _crf(logits: Tensor, image: Tensor, compat: float, srgb: float) -> Tensor:
    p = logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)
    settings = tags.CrfSettings(
        colour_width=50, colour_range=srgb, colour_weight=compat, iterations=5
    )
    return tags.dense_crf(torch.stack([1 - p, p]), image, settings=settings)[1] > 0.5


def oracle_masks(logits: Tensor, labels: Tensor, patch_size: int | None) -> Tensor:
    """The test image cut by the best threshold of every patch, chosen with its own truth."""
    size = max(labels.shape) if patch_size is None else patch_size
    best = patch_pseudo_labels(logits.float().sigmoid()[None], labels.long()[None], patch_size=size)
    return best[0] == 1
