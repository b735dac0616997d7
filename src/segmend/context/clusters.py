"""Context labels by k-means of the background's features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError


class KMeansContext:
    """Context by k-means of the background's features, the largest cluster first.

    Args:
        features: images (N, channels, *size) to (N, F, *size). None: intensities, and their mean
            over 5 pixels a side.
        samples: background pixels that are clustered.
    Reference: k-means++, Arthur and Vassilvitskii, SODA 2007; Lloyd's iterations.
    """

    def __init__(
        self,
        num_context: int,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
        samples: int = 20_000,
        seed: int = 0,
    ) -> None:
        self.num_context, self.samples, self.seed = num_context, samples, seed
        self.features = features or local_intensity
        self.centres: Tensor | None = None
        self.scale: Tensor | None = None

    def fit(self, batches: Iterable[Mapping[str, Tensor]], *, ignore_index: int = 255) -> None:
        """Cluster the background of batches with "image" and "target"."""
        draw = torch.Generator().manual_seed(self.seed)
        found = []
        for batch in batches:
            values = self.features(batch["image"]).movedim(1, -1)[batch["target"] == 0].cpu()
            found.append(values[torch.randperm(len(values), generator=draw)[: self.samples]])
        points = torch.cat(found) if found else torch.empty(0, 1)
        points = points[torch.randperm(len(points), generator=draw)[: self.samples]].float()
        if len(points) < self.num_context:
            raise SegmendError(
                f"k-means: want at least {self.num_context} background pixels, got {len(points)}"
            )
        self.scale = points.std(0).clamp(min=1e-6)
        self.centres = kmeans(points / self.scale, self.num_context, draw)

    def contexts(
        self,
        images: Tensor,
        target: Tensor,
        *,
        distance: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        if self.centres is None or self.scale is None:
            raise SegmendError("k-means: has no clusters yet; call fit(batches) first")
        values = self.features(images).movedim(1, -1).float() / self.scale.to(images)
        flat = values.flatten(0, -2)
        nearest = torch.cat(
            [_nearest(part, self.centres.to(flat)) for part in torch.split(flat, 1 << 16)]
        )
        return one_hot(nearest.view(values.shape[:-1]), self.num_context, images)

    def state_dict(self) -> dict[str, Any]:
        return {"centres": self.centres, "scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.centres, self.scale = state["centres"], state["scale"]


def one_hot(labels: Tensor, num_context: int, like: Tensor) -> Tensor:
    """Labels (N, *size) as (N, K, *size) of like's dtype."""
    classes = torch.arange(num_context, device=labels.device)
    classes = classes.view(1, -1, *[1] * (labels.ndim - 1))
    return (labels.unsqueeze(1) == classes).to(like)


def local_intensity(images: Tensor) -> Tensor:
    """Intensities and their mean over 5 pixels a side: (N, 2 channels, *size)."""
    pool: Callable[..., Tensor] = F.avg_pool2d if images.ndim == 4 else F.avg_pool3d
    return torch.cat((images, pool(images, 5, 1, 2, count_include_pad=False)), dim=1)


def kmeans(points: Tensor, clusters: int, draw: torch.Generator, *, iterations: int = 50) -> Tensor:
    """Centres (K, F) of points (n, F), the largest cluster first."""
    centres = points[torch.randint(len(points), (1,), generator=draw)]
    for _ in range(clusters - 1):
        apart = torch.cdist(points, centres).amin(1).square()
        apart = apart if float(apart.sum()) > 0 else torch.ones_like(apart)
        centres = torch.cat((centres, points[torch.multinomial(apart, 1, generator=draw)]))
    for _ in range(iterations):
        nearest = _nearest(points, centres)
        counts = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        moved = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    counts = torch.bincount(_nearest(points, centres), minlength=clusters)
    return centres[counts.argsort(descending=True, stable=True)]


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(points, centres).argmin(1)
