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
bounds. The offset by position is no oracle: it is chosen on other images, and may lose.

**Memory.** Of each image a few thousand integers are kept, never a pixel, and of many classes some
hundred pixels' probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

from segmend.diagnose.bias import PlaceFit, fit_places, spatial_bias
from segmend.diagnose.case import Case, CaseSet
from segmend.diagnose.fixes import Measured, Mended, measured, mended_by_tally
from segmend.diagnose.gathering import Gathered
from segmend.diagnose.options import DiagnoseOptions
from segmend.diagnose.result import Diagnosis, ImageRow, Setting, Verdict
from segmend.diagnose.scoring import base_score, pooled_score, score_of
from segmend.diagnose.sizes import size_bins
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
    gathered: Gathered | None = None
    for case in track(cases, description="diagnosing", total=len(cases), enabled=progress):
        if gathered is None:
            names = _class_names(cases, case, classes)
            threshold = _threshold(cases, options)
            gathered = Gathered(len(cases), names, case, threshold=threshold, options=options)
        gathered.add(case)
    assert gathered is not None
    return _diagnosis(cases, gathered, options, source)


def _diagnosis(
    cases: CaseSet, gathered: Gathered, options: DiagnoseOptions, source: str
) -> Diagnosis:
    tally, names, seed = gathered.tally, gathered.classes, options.seed
    places = None if gathered.places is None else fit_places(gathered.places, tally.base)
    fixes = [
        measured(mended, options, names, num_images=len(cases))
        for mended in _all_mended(gathered, places, options)
    ]
    bias = None
    if options.background:
        bias = spatial_bias(
            gathered.errors,
            gathered.pixels,
            offset=None if places is None else places.offset,
            permutations=options.permutations,
            seed=seed,
        )
    return Diagnosis(
        setting=_setting(gathered, source),
        score=base_score(tally.base, num_resamples=options.num_resamples, seed=seed),
        fixes=tuple(item.fix for item in fixes),
        images=_image_rows(gathered, fixes),
        verdict=Verdict("", None),
        bias=bias,
        calibration=() if gathered.reliability is None else gathered.reliability.curves(names),
        sizes=size_bins(*gathered.objects()),
        clusters=() if gathered.clusters is None else gathered.clusters.clusters(options.clusters),
        confusion=tuple(tuple(row) for row in tally.confusion.tolist()),
        cases=cases,
    )


def _all_mended(
    gathered: Gathered, places: PlaceFit | None, options: DiagnoseOptions
) -> list[Mended]:
    found = list(mended_by_tally(gathered.tally, options))
    if places is not None:
        found.insert(0, Mended("bias-grid", places.base, places.mended))
    if gathered.offsets is not None:
        base, best, held_out, value = gathered.offsets.counts()
        chance = pooled_score(best) - pooled_score(held_out)
        found.insert(0, Mended("offset-class", base, best, chance, value))
    return found


def _setting(gathered: Gathered, source: str) -> Setting:
    binary = len(gathered.classes) == 2
    return Setting(
        num_images=gathered.tally.num_images,
        classes=gathered.classes,
        dimensions=gathered.dimensions,
        has_probabilities=gathered.has_probabilities,
        threshold=gathered.threshold if binary and gathered.has_probabilities else None,
        measure="IoU" if binary else "mIoU",
        source=source,
    )


def _image_rows(gathered: Gathered, fixes: list[Measured]) -> tuple[ImageRow, ...]:
    scores = score_of(gathered.tally.base).tolist()
    gains = {item.fix.key: item.images.tolist() for item in fixes if item.images is not None}
    return tuple(
        ImageRow(index, name, scores[index], {key: row[index] for key, row in gains.items()})
        for index, name in enumerate(gathered.names)
    )


def _threshold(cases: CaseSet, options: DiagnoseOptions) -> float:
    if options.threshold is not None:
        return options.threshold
    known = getattr(cases, "threshold", None)
    return 0.5 if known is None else float(known)


def _class_names(cases: CaseSet, first: Case, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names, as many as the cases have classes.

    Raises:
        SegmendError: the number differs, or is not known.
    """
    count = getattr(cases, "num_classes", None)
    if count is None and first.probs is not None:
        count = max(2, len(first.probs))
    if classes is not None:
        if count is not None and len(classes) != count:
            raise SegmendError(f"classes: {len(classes)} names for {count} classes; name each once")
        return tuple(classes)
    if count is None:
        raise SegmendError("classes: hard masks do not say how many classes there are; name them")
    if count == 2:
        return ("background", "foreground")
    return ("background", *(str(label) for label in range(1, count)))
