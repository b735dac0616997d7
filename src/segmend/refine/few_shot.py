"""Few-shot segmentation: episodes, a prototype base, and a refiner learned across episodes.

PatchRefineNet sees probability maps alone and so knows no class. A refiner taught on the maps of
some classes can be applied to classes that it never saw: fit it to episodes of the one, use it
on episodes of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.refine.cross_validation import fit_refiner
from segmend.refine.examples import IGNORE, Example, limited_logits
from segmend.refine.options import RefineOptions
from segmend.refine.refiner import Refiner

SIMILARITY_SCALE = 20.0
"""Cosine similarities are multiplied by this before the softmax (Wang et al., PANet, 2019)."""


class LabelledImages(Protocol):
    """A data set whose items hold "image" (3, H, W) in [0, 1] and "target" (H, W) labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, object]: ...


@dataclass(frozen=True)
class Episode:
    """N classes, K labelled images of each, and one query.

    Attributes:
        classes: the N labels, in the order of the query's channels.
        support: for each class its K pairs of image (3, H, W) and mask bool (H, W).
        query: image (3, H, W) in [0, 1].
        target: int64 (H, W): 0 elsewhere, 1 to N for the episode's classes, 255 ignored.
    """

    classes: tuple[int, ...]
    support: tuple[tuple[tuple[Tensor, Tensor], ...], ...]
    query: Tensor
    target: Tensor


class Episodes:
    """Draw episodes from a labelled set; the same seed gives the same episodes.

    Args:
        dataset: labelled images.
        classes: labels to draw from; test classes must not be among those fitted to.
        ways, shots: N and K.
        count: episodes.
        min_pixels: a class counts as present from this many pixels on.
        ignore_index: label of ignored pixels.
    Raises:
        SegmendError: fewer classes than ways, or a class in fewer images than shots + 1.
    """

    def __init__(
        self,
        dataset: LabelledImages,
        classes: Sequence[int],
        *,
        count: int,
        ways: int = 1,
        shots: int = 1,
        min_pixels: int = 100,
        ignore_index: int = 255,
        seed: int = 0,
    ) -> None:
        if not 1 <= ways <= len(classes):
            raise SegmendError(f"ways: want 1 to {len(classes)} (the classes given), got {ways}")
        self.dataset, self.classes, self.count = dataset, tuple(classes), count
        self.ways, self.shots, self.ignore_index, self.seed = ways, shots, ignore_index, seed
        self.homes = self._index(min_pixels)
        for label, images in self.homes.items():
            if len(images) < shots + 1:
                raise SegmendError(
                    f"class {label}: is in {len(images)} images; {shots} shots and a query need "
                    f"{shots + 1} or more"
                )

    def _index(self, min_pixels: int) -> dict[int, list[int]]:
        homes: dict[int, list[int]] = {label: [] for label in self.classes}
        for index in range(len(self.dataset)):
            target = self.dataset[index]["target"]
            assert isinstance(target, Tensor)
            counts = torch.bincount(target.flatten(), minlength=max(self.classes) + 1)
            for label in self.classes:
                if counts[label] >= min_pixels:
                    homes[label].append(index)
        return homes

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Episode]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.count):
            yield self._draw(generator)

    def _draw(self, generator: torch.Generator) -> Episode:
        order = torch.randperm(len(self.classes), generator=generator)[: self.ways]
        chosen = tuple(self.classes[i] for i in order.tolist())
        # The query shows the first class; the others may or may not be in it.
        home = self.homes[chosen[0]]
        query = home[int(torch.randint(len(home), (1,), generator=generator))]
        support = []
        for label in chosen:
            images = [i for i in self.homes[label] if i != query]
            picks = torch.randperm(len(images), generator=generator)[: self.shots].tolist()
            support.append(tuple(self._shot(images[p], label) for p in picks))
        image, target = self._item(query)
        mapped = torch.zeros_like(target)
        for number, label in enumerate(chosen, start=1):
            mapped[target == label] = number
        mapped[target == self.ignore_index] = IGNORE
        return Episode(chosen, tuple(support), image, mapped)

    def _shot(self, index: int, label: int) -> tuple[Tensor, Tensor]:
        image, target = self._item(index)
        return image, target == label

    def _item(self, index: int) -> tuple[Tensor, Tensor]:
        item = self.dataset[index]
        image, target = item["image"], item["target"]
        assert isinstance(image, Tensor)
        assert isinstance(target, Tensor)
        return image, target


class PrototypeSegmenter(nn.Module):
    """Label each query pixel by the prototype that its features are closest to.

    A class's prototype is the mean feature under its support masks, the background's that of
    everything else in the support images. No training.

    Args:
        features: images (N, 3, H, W) in [0, 1] to a feature map (N, F, h, w).

    Reference: Wang et al., PANet, ICCV 2019 (masked average pooling, scaled cosine).
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.eval()

    @torch.inference_mode()
    def forward(self, episode: Episode) -> Tensor:
        """Probabilities (1 + N, H, W) of background and the episode's classes, at query size."""
        inside, outside = [], []
        for shots in episode.support:
            found = [self._pool(image, mask) for image, mask in shots]
            inside.append(torch.stack([f[0] for f in found]).mean(0))
            outside += [f[1] for f in found]
        prototypes = torch.stack([torch.stack(outside).mean(0), *inside])
        query = self.features(episode.query.unsqueeze(0))[0]
        similarity = torch.einsum(
            "kf,fhw->khw", F.normalize(prototypes, dim=1), F.normalize(query, dim=0)
        )
        logits = F.interpolate(
            SIMILARITY_SCALE * similarity[None], size=episode.query.shape[1:], mode="bilinear"
        )
        return logits[0].softmax(0)

    def _pool(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean feature inside and outside a mask."""
        maps = self.features(image.unsqueeze(0))[0]
        share = F.adaptive_avg_pool2d(mask[None, None].float(), maps.shape[-2:])[0, 0]
        pooled = [
            (maps * weight).sum((1, 2)) / weight.sum().clamp_min(1e-6)
            for weight in (share, 1 - share)
        ]
        return pooled[0], pooled[1]


def episode_examples(base: nn.Module, episodes: Sequence[Episode] | Episodes) -> list[Example]:
    """The base's binary maps of every episode's classes, as a refiner is fitted to them.

    A class's logit is its log-odds against all others, so one network serves any class and any
    number of ways.
    """
    examples = []
    for number, episode in enumerate(episodes):
        probs = base(episode)
        for channel, label in enumerate(episode.classes, start=1):
            labels = torch.where(
                episode.target == IGNORE, IGNORE, (episode.target == channel).long()
            )
            name = f"episode {number}, class {label}"
            logits = limited_logits(probs[channel][None, None])[0].half()
            image = (episode.query * 255).round().to(torch.uint8)
            examples.append(Example(name, logits, labels.to(torch.uint8), image))
    return examples


def fit_few_shot(
    base: nn.Module, episodes: Sequence[Episode] | Episodes, *, options: RefineOptions | None = None
) -> Refiner:
    """A class-agnostic refiner learned across episodes of the base classes.

    Episodes of one class are held out together: the gate asks what the refiner does to a class
    that it never saw, which is what it will be used for. The query's image may guide it.

    Args:
        base: episode to probabilities (1 + N, H, W), such as `PrototypeSegmenter`.
        episodes: of classes that are not tested on.
        options: of the refiner; by default the bias field.
    """
    episodes = list(episodes)
    classes = [label for episode in episodes for label in episode.classes]
    examples = episode_examples(base, episodes)
    return fit_refiner(examples, options or RefineOptions(), groups=classes)


@torch.inference_mode()
def segment_episode(base: nn.Module, refiner: Refiner | None, episode: Episode) -> Tensor:
    """Labels (H, W) of an episode's query: 0 elsewhere, 1 to N its classes.

    Every class's map is refined on its own, with the query's image where the refiner wants one; a
    pixel goes to the class with the highest refined probability if that exceeds 0.5, otherwise
    to 0.
    """
    probs = base(episode)[1:].unsqueeze(1)
    refined = probs
    if refiner is not None:
        images = episode.query.expand(len(probs), -1, -1, -1) if refiner.needs_images else None
        refined = refiner(probs, images)
    best, channel = refined[:, 0].max(0)
    return torch.where(best > 0.5, channel + 1, 0)
