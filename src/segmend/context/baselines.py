"""Context labels that nobody learns: what learned ones have to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.context.clusters import KMeansContext as KMeansContext
from segmend.context.clusters import one_hot
from segmend.context.distance import distance_map
from segmend.errors import SegmendError

Baseline = Literal["plain", "dilate", "bands", "kmeans", "maps", "random"]


@runtime_checkable
class ContextSource(Protocol):
    """Anything that gives context probabilities without being trained."""

    num_context: int

    def contexts(
        self,
        images: Tensor,
        target: Tensor,
        *,
        distance: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        """(N, K, *size) from images (N, channels, *size), target, and what the batch holds besides.

        distance: of `distance_map`; maps: int64 context labels made by hand; both (N, *size).
        """


class PlainContext:
    """One background, as ever: K = 1."""

    num_context = 1

    def contexts(
        self,
        images: Tensor,
        target: Tensor,
        *,
        distance: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        return images.new_ones((len(target), 1, *target.shape[1:]))


class DistanceBands:
    """Context by distance from the foreground: the dilated foreground is one, or several, rings.

    Args:
        edges: rising outer edges of the rings, context 1 to K - 1; context 0 is what lies beyond.
        spacing: as in `distance_map`, for batches without distances; edges are in its unit.
    """

    def __init__(self, edges: Sequence[float], *, spacing: Sequence[float] | None = None) -> None:
        self.edges = [float(edge) for edge in edges]
        if not self.edges or self.edges != sorted(set(self.edges)) or self.edges[0] <= 0:
            raise SegmendError(f"edges: want rising distances > 0, got {list(edges)}")
        self.spacing = spacing
        self.num_context = len(self.edges) + 1

    def contexts(
        self,
        images: Tensor,
        target: Tensor,
        *,
        distance: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        if distance is None:
            # Nothing is near where there is no foreground.
            empty = ~((target > 0) & (target != 255)).flatten(1).any(1)
            distance = distance_map(target, spacing=self.spacing)
            distance[empty] = torch.inf
        edges = torch.tensor(self.edges, device=distance.device)
        band = torch.bucketize(distance, edges)  # 0 up to the first edge, K - 1 beyond the last
        return one_hot((band + 1) % self.num_context, self.num_context, images)


class MapContext:
    """Context labels made by hand, anatomical ones for example: the batch brings them."""

    def __init__(self, num_context: int) -> None:
        self.num_context = num_context

    def contexts(
        self,
        images: Tensor,
        target: Tensor,
        *,
        distance: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        if maps is None or maps.shape != target.shape:
            raise SegmendError(
                f"context maps: want labels {tuple(target.shape)} with every batch, got "
                f"{None if maps is None else tuple(maps.shape)}"
            )
        on = maps[target == 0]
        if on.numel() and not 0 <= int(on.min()) <= int(on.max()) < self.num_context:
            raise SegmendError(
                f"context maps: want 0 to {self.num_context - 1} on the background, got "
                f"{int(on.min())} to {int(on.max())}"
            )
        return one_hot(maps.long().clamp(0, self.num_context - 1), self.num_context, images)


class RandomContext:
    """Context drawn at random, anew each time, in cells of some pixels: no meaning at all."""

    def __init__(self, num_context: int, *, cell: int = 8, seed: int = 0) -> None:
        self.num_context, self.cell = num_context, cell
        self._draw = torch.Generator().manual_seed(seed)

    def contexts(
        self,
        images: Tensor,
        target: Tensor,
        *,
        distance: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        size = [-(-n // self.cell) for n in target.shape[1:]]
        cells = torch.randint(self.num_context, (len(target), 1, *size), generator=self._draw)
        full = F.interpolate(cells.float(), size=target.shape[1:], mode="nearest").squeeze(1)
        return one_hot(full.long().to(images.device), self.num_context, images)

    def state_dict(self) -> dict[str, Any]:
        return {"draw": self._draw.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._draw.set_state(state["draw"])


def build_baseline(
    name: str, *, num_context: int, width: float = 10.0, seed: int = 0
) -> ContextSource:
    """The baseline of that name; K-means is still to be fitted.

    Args:
        name: "plain" (K = 1), "dilate" (K = 2: a ring of `width` around the foreground, and the
            rest), "bands" (K - 1 rings, each `width` wide), "kmeans", "maps" or "random".
        width: in the unit of distances.
    Raises:
        SegmendError: an unknown name, or a K that it cannot have.
    """
    if name not in get_args(Baseline):
        raise SegmendError(f"context baseline: want one of {get_args(Baseline)}, got {name!r}")
    fixed = {"plain": 1, "dilate": 2}.get(name)
    if num_context != (fixed or max(num_context, 2)):
        wanted = f"{fixed}" if fixed else "at least 2"
        raise SegmendError(f"context baseline {name!r}: want K = {wanted}, got {num_context}")
    if name == "plain":
        return PlainContext()
    if name in ("dilate", "bands"):
        return DistanceBands([width * ring for ring in range(1, num_context)])
    if name == "kmeans":
        return KMeansContext(num_context, seed=seed)
    return MapContext(num_context) if name == "maps" else RandomContext(num_context, seed=seed)
