"""The bundled sample: 60 nuclei images, small enough to ship, for demos and end-to-end tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segmend.errors import SegmendError

_ROOT = Path(__file__).parent / "sample" / "nuclei"


@dataclass(frozen=True)
class NucleiSample:
    """Folders of the sample: `ID.jpg` images and `ID.png` masks (0 / 255) in two disjoint parts.

    Attributes:
        fit_images, fit_masks: 40 images to fit a refiner on.
        test_images, test_masks: 20 images to report on.
        index: JSON, ID -> part, kind (fluorescence, histology, brightfield), number of nuclei.
        licence: where the images come from, whom to credit, how they were chosen.
    """

    fit_images: Path
    fit_masks: Path
    test_images: Path
    test_masks: Path
    index: Path
    licence: Path


def nuclei_sample() -> NucleiSample:
    """The folders of the bundled nuclei sample, inside the installed package; read only.

    Raises:
        SegmendError: the package was installed without its data.
    Source:
        BBBC038v1, Broad Bioimage Benchmark Collection, CC0; Caicedo et al., Nature Methods 2019.
    """
    if not _ROOT.is_dir():
        raise SegmendError(f"{_ROOT}: the bundled sample is missing; reinstall segmend")
    return NucleiSample(
        fit_images=_ROOT / "fit" / "images",
        fit_masks=_ROOT / "fit" / "masks",
        test_images=_ROOT / "test" / "images",
        test_masks=_ROOT / "test" / "masks",
        index=_ROOT / "images.json",
        licence=_ROOT.parent / "LICENSE.md",
    )
