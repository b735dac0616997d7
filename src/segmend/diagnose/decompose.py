"""What would be gained if just one kind of error were mended, for every kind: one pass over a set.

**Order and interaction.** Each fix is applied alone, to the prediction as it is (at the base's own
threshold), and everything else is left; the score is the pooled IoU of the foreground, or the mean
of the pooled IoUs of the present classes. Gains therefore do not add up: a false island near an
outline is mended by two fixes. No order is assumed, because none is applied after another.

**Exactness.** A fix that sets a chosen set of wrong pixels right (outline bands, islands, spill,
missed objects, holes, pairs of classes) has one best outcome: each such pixel takes its true
label. Setting a pixel right moves it from fp of one class and fn of another to tp, so no class's
IoU falls, and no labelling that differs from the prediction on that set alone does better: its
counts come from this one's by moving pixels back from tp. Threshold fixes are exact over all cuts
of 8-bit maps (see `oracles.levels` for finer ones) and over a ladder of exchange rates for many
patches (see `oracles.thresholds`). Class offsets and, with many classes, thresholds are lower
bounds, and say so.

**Memory.** Of each image a few thousand integers are kept, never a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

from segmend.diagnose.case import CaseSet
from segmend.diagnose.fixes import Measured, measured_fixes
from segmend.diagnose.look import look_at
from segmend.diagnose.options import DiagnoseOptions
from segmend.diagnose.oracles.levels import levels_for
from segmend.diagnose.result import Diagnosis, ImageRow, Setting, Verdict
from segmend.diagnose.scoring import base_score, score_of
from segmend.diagnose.tally import Tally
from segmend.engine.progress import track
from segmend.errors import SegmendError

__all__ = ["DiagnoseOptions", "measure"]


def measure(
    cases: CaseSet,
    *,
    options: DiagnoseOptions | None = None,
    classes: Sequence[str] | None = None,
    progress: bool = False,
    source: str = "",
) -> Diagnosis:
    """Measure every fix on `cases`, each read once; the verdict is left empty.

    Args:
        cases: images or volumes of one kind: all with a probability map or all without, and with
            images or without.
        classes: names in label order; None: "background" and "foreground", or the labels.
        progress: show a bar on stderr.
        source: where the cases come from, for the report.
    Raises:
        SegmendError: no case, cases of different kinds, a label out of range; with the name.
    """
    options = options or DiagnoseOptions()
    if not len(cases):
        raise SegmendError("cases: want at least one image, got none")
    first = cases[0]
    names = _class_names(cases, classes)
    threshold = _threshold(cases, options)
    levels = levels_for(threshold)
    tally = Tally(len(cases), len(names), levels)
    rows = []
    for index, case in enumerate(
        track(cases, description="diagnosing", total=len(cases), enabled=progress)
    ):
        if (case.probs is None) != (first.probs is None):
            raise SegmendError(f"{case.name}: want a probability map for all images or for none")
        rows.append(case.name)
        tally.add(index, look_at(case, options=options, num_classes=len(names), levels=levels))
    fixes = measured_fixes(tally, options, names)
    binary = len(names) == 2
    setting = Setting(
        num_images=len(cases),
        classes=names,
        dimensions=first.target.ndim,
        has_probabilities=first.probs is not None,
        threshold=threshold if binary and first.probs is not None else None,
        measure="IoU" if binary else "mIoU",
        source=source,
    )
    return Diagnosis(
        setting=setting,
        score=base_score(tally.base, num_resamples=options.num_resamples, seed=options.seed),
        fixes=tuple(item.fix for item in fixes),
        images=_image_rows(rows, tally, fixes),
        verdict=Verdict("", None),
        confusion=tuple(tuple(row) for row in tally.confusion.tolist()),
        cases=cases,
    )


def _image_rows(names: list[str], tally: Tally, fixes: list[Measured]) -> tuple[ImageRow, ...]:
    scores = score_of(tally.base)
    return tuple(
        ImageRow(
            index=index,
            name=name,
            score=float(scores[index]),
            gains={item.fix.key: float(item.images[index]) for item in fixes},
        )
        for index, name in enumerate(names)
    )


def _threshold(cases: CaseSet, options: DiagnoseOptions) -> float:
    if options.threshold is not None:
        return options.threshold
    known = getattr(cases, "threshold", None)
    return 0.5 if known is None else float(known)


def _class_names(cases: CaseSet, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names, as many as the cases have classes.

    Raises:
        SegmendError: the number differs, or is not known.
    """
    probs = cases[0].probs
    count = getattr(cases, "num_classes", None)
    if count is None and probs is not None:
        count = max(2, len(probs))
    if classes is not None:
        if count is not None and len(classes) != count:
            raise SegmendError(f"classes: {len(classes)} names for {count} classes; name each once")
        return tuple(classes)
    if count is None:
        raise SegmendError("classes: hard masks do not say how many classes there are; name them")
    if count == 2:
        return ("background", "foreground")
    return ("background", *(str(label) for label in range(1, count)))
