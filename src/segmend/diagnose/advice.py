"""What can be done about the dominant error, add-ons aside: a sentence or two for a person."""

from __future__ import annotations

from segmend.diagnose.result import BackgroundCluster, Diagnosis, Fix, SizeBin

_SCORES = (
    "No single threshold mends this: the scores themselves have to change, in training or, as far "
    "as said below, by a refiner."
)
_BACKGROUND = (
    "More training images that show the background mistaken here, without objects, work against it."
)
_ADVICE = {
    "threshold-image": _SCORES,
    "patch": _SCORES,
    "bias-grid": "Look at the map “Place in the frame” of the report: lighting, lens or crops that "
    "are the same in all images are the usual causes. A refiner learns such a bias.",
    "contour": "Compare a few true masks with the images first: outlines that are drawn too wide "
    "or too tight are learnt. Larger inputs or a decoder with a finer stride sharpen outlines.",
    "islands": _BACKGROUND,
    "spill": _BACKGROUND,
    "missed": "No threshold finds them: the model has to see more objects like these in training.",
    "holes": "In binary masks enclosed holes are filled after prediction by "
    "scipy.ndimage.binary_fill_holes, if true objects have none.",
    "candidates": "Where it is known what each image shows, rule the other classes out after "
    "prediction.",
    "confusion": "Look at the worst images of this kind: the true masks may be confused, too. "
    "Else more training images with these classes are what helps.",
}


def advice_on(diagnosis: Diagnosis, fix: Fix) -> str:
    """What to do about the error that `fix` mends; names values and kinds where they are known."""
    if fix.key == "threshold-global" and fix.value:
        return (
            f"Use {fix.value[0]:.2g} as the threshold{_instead(diagnosis)}: it was chosen on these "
            "images, so confirm it on others."
        )
    if fix.key == "offset-class" and fix.value:
        classes = diagnosis.setting.classes
        terms = ", ".join(
            f"{name} {value:+.2f}" for name, value in zip(classes, fix.value, strict=True) if value
        )
        return (
            f"Add to the logits before the largest is taken: {terms}. This was chosen on these "
            "images, so confirm it on others."
        )
    text = _ADVICE.get(fix.key) or _ADVICE.get(fix.family, "")
    if fix.family in ("islands", "spill"):
        return f"{_leaking(diagnosis.clusters)}{text}"
    if fix.family == "missed":
        return f"{_smallest(diagnosis.sizes)}{text}"
    return text


def _instead(diagnosis: Diagnosis) -> str:
    base = diagnosis.setting.threshold
    return "" if base is None else f" instead of {base:g}"


def _leaking(clusters: tuple[BackgroundCluster, ...]) -> str:
    """The kind of background that holds far more than its share of the false pixels."""
    worst = max(clusters, key=lambda c: c.share_of_false, default=None)
    if worst is None or worst.share_of_false < max(0.3, 1.5 * worst.share):
        return ""
    return (
        f"{worst.share_of_false:.0%} of the false pixels lie on background that is “{worst.name}”, "
        f"{worst.share:.0%} of all background. "
    )


def _smallest(sizes: tuple[SizeBin, ...]) -> str:
    """The size of objects that is missed far more than the others."""
    if len(sizes) < 2:
        return ""
    worst, best = min(sizes, key=lambda s: s.detected), max(sizes, key=lambda s: s.detected)
    if worst.detected > best.detected - 0.2:
        return ""
    return (
        f"Objects of {worst.smallest:,} to {worst.largest:,} pixels are found least: "
        f"{worst.detected:.0%} of them by half or more. "
    )
