"""What each fix is called, which kind of error it mends, and what was done, in words."""

from __future__ import annotations

from dataclasses import dataclass

from segmend.diagnose.result import Addon, Family


@dataclass(frozen=True)
class Text:
    title: str
    family: Family
    addon: Addon | None
    explanation: str


def text_of(key: str, classes: tuple[str, ...] = ()) -> Text:
    """The words for the fix `key`, such as "patch-64", "islands" or "confusion-1-2"."""
    if key in _TEXTS:
        return _TEXTS[key]
    kind, *rest = key.split("-")
    if kind == "patch":
        return Text(
            f"Own threshold for every {rest[0]} x {rest[0]} patch",
            "patch",
            "refine",
            f"Every patch of {rest[0]} x {rest[0]} pixels takes the threshold that suits the "
            "pooled score best.",
        )
    if kind == "boundary":
        pixels = "1 pixel" if rest[0] == "1" else f"{rest[0]} pixels"
        return Text(
            f"Outlines right within {pixels}",
            "contour",
            None,
            f"Every wrong pixel at most {pixels} from a true outline is set right.",
        )
    first, second = (classes[int(label)] for label in rest)
    return Text(
        f"“{first}” and “{second}” told apart",
        "confusion",
        None,
        f"Every pixel of “{first}” called “{second}”, and of “{second}” called “{first}”, is set "
        "right.",
    )


_TEXTS = {
    "threshold-global": Text(
        "One better threshold for all images",
        "threshold",
        None,
        "All images take the one threshold with the best pooled IoU.",
    ),
    "threshold-image": Text(
        "Own threshold for every image",
        "threshold",
        None,
        "Every image takes the threshold that suits the pooled score best.",
    ),
    "bias-grid": Text(
        "Offset by position, the same in all images",
        "patch",
        "refine",
        "Each cell of a grid over the frame takes the threshold that was best for it on the other "
        "images; images never judge themselves, so chance wins nothing here.",
    ),
    "offset-class": Text(
        "One offset a class for all images",
        "offset",
        None,
        "Each class's logit takes the offset with the best pooled mIoU, one class after the other, "
        "on a sample of pixels: a lower bound.",
    ),
    "islands": Text(
        "False islands removed",
        "islands",
        "context",
        "Every predicted object that meets no true object is taken away.",
    ),
    "spill": Text(
        "Over-segmentation at objects removed",
        "spill",
        "context",
        "Background called an object, connected with a true one and beyond its outline band, is "
        "set right.",
    ),
    "missed": Text(
        "Missed objects found",
        "missed",
        None,
        "Every true object of which next to nothing was found is filled in.",
    ),
    "holes": Text(
        "Holes filled",
        "holes",
        None,
        "Pixels of true objects in enclosed holes of the prediction are set right.",
    ),
    "candidates": Text(
        "Classes that the image lacks ruled out",
        "candidates",
        "rectify",
        "Every pixel of a class that the image does not hold takes its most probable class among "
        "those that it holds: those of its tags if they are given, else those of its mask.",
    ),
    "confusion": Text(
        "Classes told apart",
        "confusion",
        None,
        "Every object pixel that was called an object of another class is set right.",
    ),
}
