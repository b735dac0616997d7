"""Everything that is gathered while the images of a set go by, each seen once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.case import Case
from segmend.diagnose.clusters import Background
from segmend.diagnose.look import look_at
from segmend.diagnose.options import DiagnoseOptions
from segmend.diagnose.oracles.levels import levels_for
from segmend.diagnose.oracles.offsets import OffsetSample
from segmend.diagnose.positions import PlaceTable, signed_errors
from segmend.diagnose.reliability import Reliability
from segmend.diagnose.tally import Tally
from segmend.errors import SegmendError


class Gathered:
    """Sums over images; parts that the cases do not allow are None.

    Attributes:
        tally: counts of every fix. errors, pixels: (N, cells * cells), see `signed_errors`.
        places: for offsets by position. offsets: pixels for class offsets (many classes).
        reliability, clusters: see there.
    """

    def __init__(
        self,
        num_images: int,
        classes: tuple[str, ...],
        first: Case,
        *,
        threshold: float,
        options: DiagnoseOptions,
    ) -> None:
        self.classes, self.threshold, self.options = classes, threshold, options
        self.dimensions = first.target.ndim
        self.has_probabilities = first.probs is not None
        num_classes, cells = len(classes), options.frame_cells
        self.levels = levels_for(threshold)
        self.tally = Tally(num_images, num_classes, self.levels)
        self.names: list[str] = []
        self.errors = np.zeros((num_images, cells * cells))
        self.pixels = np.zeros_like(self.errors)
        maps = self.has_probabilities
        self.places = (
            PlaceTable(num_images, num_classes, cells, self.levels)
            if maps and options.background
            else None
        )
        self.offsets = OffsetSample(num_images, num_classes) if maps and num_classes > 2 else None
        self.reliability = Reliability(num_classes) if maps else None
        self.clusters = (
            Background(num_images, seed=options.seed)
            if first.image is not None and options.background and self.dimensions == 2
            else None
        )

    def add(self, case: Case) -> None:
        """Measure the next image.

        Raises:
            SegmendError: it has no map or image where the first one had one, or the reverse;
                labels out of range.
        """
        index = len(self.names)
        self._check(case)
        look = look_at(
            case, options=self.options, num_classes=len(self.classes), levels=self.levels
        )
        frame = look.frame
        self.names.append(case.name)
        self.tally.add(index, look)
        self.errors[index], self.pixels[index] = signed_errors(frame, self.options.frame_cells)
        if self.places is not None:
            assert look.level is not None
            assert look.leader is not None
            self.places.add(index, frame, look.level, look.leader)
        if self.offsets is not None:
            self.offsets.add(index, case, frame)
        if self.reliability is not None:
            self.reliability.add(index, case, frame, look.steps)
        if self.clusters is not None:
            assert case.image is not None
            self.clusters.add(index, case.image, frame)

    def objects(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Areas and recalls of all objects of the truth."""
        return np.concatenate(self.tally.areas), np.concatenate(self.tally.recalls)

    def _check(self, case: Case) -> None:
        if case.target.ndim != self.dimensions:
            raise SegmendError(
                f"{case.name}: {case.target.ndim} dimensions, the first has {self.dimensions}; "
                "diagnose images and volumes apart"
            )
        if (case.probs is None) == self.has_probabilities:
            raise SegmendError(f"{case.name}: want a probability map for all images or for none")
        if case.probs is not None:
            wanted = 1 if len(self.classes) == 2 else len(self.classes)
            if tuple(case.probs.shape) != (wanted, *case.target.shape):
                raise SegmendError(
                    f"{case.name}: probs {tuple(case.probs.shape)}; want "
                    f"{(wanted, *case.target.shape)}"
                )
        if self.clusters is not None and case.image is None:
            raise SegmendError(f"{case.name}: want an image for all cases or for none")
