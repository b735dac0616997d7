"""Whether the network that draws maps still tells an image's classes from the others."""

from __future__ import annotations

import warnings

from torch import Tensor

from segmend.errors import SegmendWarning
from segmend.metrics import tag_average_precision

CONFUSED = 0.78
"""Part of the plain network's precision below which maps lost. Of 100, on training images, without
`fsl_trust`: 43 by the plain one's 100 on scenes of 16 classes, where maps lost 21 points of mIoU,
and 74 by 98 on MSRC's 21 classes with seed 3, where they lost 5; 80 by 98 there with seed 0 and 98
by 98 on scenes of 4 classes, where they gained 6 and 19. With it the former two are 95 and 90."""
SEVERAL_TAGS = 1.5
"""Tags an image, on average, below which it does not matter: on MSRC's objects (1.0) a network with
48 by 99 gained 12 points. One object's map need only be its shape."""
ENOUGH_IMAGES = 50
"""Images below which the precision is not to be trusted."""


def warn_of_confused_classes(by_maps: Tensor, by_plain: Tensor, tags: Tensor) -> bool:
    """Warn where the add-on losses kept the network of maps from learning what it should draw.

    Needs no masks: compares how well it and the plain network beside it rank images by their tags.

    Args:
        by_maps, by_plain: class scores of the two networks, (N, C). tags: {0, 1}, (N, C).
    Returns:
        Whether it warned.
    """
    several = float(tags.sum()) / max(1, len(tags))
    if len(tags) < ENOUGH_IMAGES or several < SEVERAL_TAGS:
        return False
    own = float(tag_average_precision(by_maps.float(), tags).mean)
    plain = float(tag_average_precision(by_plain.float(), tags).mean)
    if not own < CONFUSED * plain:
        return False
    warnings.warn(
        f"the network that draws the maps tells these images' tags with a mean average precision "
        f"of {100 * own:.0f}, the plain one beside it of {100 * plain:.0f}, and an image has "
        f"{several:.1f} tags: its maps may not keep classes apart; training with fsl_trust=true "
        "suits such data better",
        SegmendWarning,
        stacklevel=3,
    )
    return True
