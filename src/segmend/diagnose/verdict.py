"""The verdict: which error stands out, and which add-on is worth running next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from segmend.diagnose.advice import advice_on
from segmend.diagnose.attribution import Cause, attribute
from segmend.diagnose.dry_run import DryRun, guided_dry_run
from segmend.diagnose.recovered import (
    FEW,
    UNKNOWN,
    Pair,
    Recovered,
    share_of_oracle,
    share_of_trial,
)
from segmend.diagnose.report.words import points
from segmend.diagnose.result import Addon, Diagnosis, Fix, Recommendation, Verdict

ADDONS: tuple[Addon, ...] = ("refine", "context", "rectify")
WORTH = 0.005
"""Reachable gain, in score, below which an add-on is not worth a word: half a point."""

_LEAK = "The background leaks: removing false objects, and where true ones spill over,"
_SENTENCES = {
    "threshold-global": "The threshold is off: one better threshold for all images",
    "threshold-image": "The model is too sure in some images and not sure enough in others: the "
    "best threshold for each image",
    "offset-class": "Some classes are called too readily, others not enough: one offset a class",
    "bias-grid": "The model errs by place, the same way in all images: one offset for each place",
    "patch": "The model is too sure in some parts of an image and not sure enough in others: the "
    "best threshold for each",
    "islands": _LEAK,
    "spill": _LEAK,
    "missed": "Whole objects are missed: finding them",
    "holes": "Objects have holes: filling them",
    "candidates": "Pixels are called classes that their image does not hold: ruling these out",
}


def judge(diagnosis: Diagnosis) -> Verdict:
    """The dominant error in a sentence, and what each add-on is likely to bring.

    The rule that decides what is dominant is `attribution.attribute`'s; nothing is dominant unless
    it is more than chance, with 95% confidence. An add-on is recommended where its oracles gain
    half a point beyond chance; the expected gain is discounted by what our benchmarks recovered
    (`recovered`), or, for `refine` where images are at hand, by trying its image-guided half on the
    cases themselves (`dry_run`).
    """
    certain = [cause for cause in attribute(diagnosis) if cause.certain]
    found = [_recommend(diagnosis, addon) for addon in ADDONS]
    ranked = sorted((r for r in found if r is not None), key=lambda r: -r.expected)
    if not certain:
        return Verdict(_nothing(diagnosis), None, tuple(ranked))
    first = certain[0].fix
    return Verdict(
        _headline(diagnosis, certain), first.key, tuple(ranked), advice_on(diagnosis, first)
    )


def reachable_gain(fixes: Sequence[Fix], addon: Addon) -> tuple[float, float, float]:
    """Gain that an add-on could reach at most, beyond chance, with its 95% interval, in score.

    Of fixes that contain each other (thresholds by patch) the best counts; false objects and
    over-segmentation share no pixel and are added.
    """
    aimed = [fix for fix in fixes if fix.addon == addon]
    if not aimed:
        return 0.0, 0.0, 0.0
    if addon == "context":
        parts = aimed
    else:
        parts = [max(aimed, key=lambda fix: fix.gain - max(0.0, fix.chance or 0.0))]
    chance = sum(max(0.0, fix.chance or 0.0) for fix in parts)
    limits = (sum(f.low for f in parts), sum(f.gain for f in parts), sum(f.high for f in parts))
    low, gain, high = (max(0.0, value - chance) for value in limits)
    return min(low, gain), gain, max(high, gain)


def _nothing(diagnosis: Diagnosis) -> str:
    setting, score = diagnosis.setting, diagnosis.score
    level = f"{setting.measure} {100 * score.pooled:.1f} on {_count(setting.num_images, 'image')}"
    if score.pooled >= 0.9995:
        return f"Nothing stands out to mend: {level}, the predictions are as the truth."
    return (
        f"Nothing stands out to mend: {level}, and no kind of error explains much more of what is "
        "missing than chance would."
    )


def _headline(diagnosis: Diagnosis, certain: Sequence[Cause]) -> str:
    first = certain[0]
    gains = f"would gain {_points(first.own)} of {diagnosis.setting.measure}"
    limits = f"[{100 * max(0.0, first.low):.1f}, {100 * first.high:.1f}]"
    beyond = " beyond chance" if (first.fix.chance or 0.0) >= 0.0005 else ""
    text = f"{_sentence(diagnosis, first.fix)} {gains} {limits}{beyond}."
    others = [cause for cause in certain[1:] if cause.own >= 0.5 * first.own]
    if others:
        titles = ", ".join(f"{_titles(c)} ({_points(c.own)})" for c in others)
        text += f" Of what is left then: {titles}."
    return text


def _titles(cause: Cause) -> str:
    return " and ".join(f"“{fix.title}”" for fix in cause.parts)


def _sentence(diagnosis: Diagnosis, fix: Fix) -> str:
    if fix.family == "contour":
        return f"Outlines are {_side(diagnosis)}: setting them right within {_width(fix)}"
    if fix.family == "confusion":
        return f"Classes are taken for each other: {fix.title[:1].lower()}{fix.title[1:]}"
    if fix.key.startswith("patch-"):
        side = fix.key.rsplit("-", 1)[-1]
        return f"{_SENTENCES['patch']} {side} x {side} patch"
    return _SENTENCES.get(fix.key, f"{fix.title}: this")


def _side(diagnosis: Diagnosis) -> str:
    """To which side the foreground errs, all of it together."""
    rows = diagnosis.confusion
    lost, won = sum(row[0] for row in rows[1:]), sum(rows[0][1:]) if rows else 0
    if lost > 1.5 * won:
        return "too tight"
    return "too wide" if won > 1.5 * lost else "off"


def _width(fix: Fix) -> str:
    return _count(int(fix.key.rsplit("-", 1)[-1]), "pixel")


def _recommend(diagnosis: Diagnosis, addon: Addon) -> Recommendation | None:
    low, reachable, high = reachable_gain(diagnosis.fixes, addon)
    if reachable < WORTH or low <= 0:
        return None
    trial = _tried(diagnosis) if addon == "refine" else None
    affected = next((f.affected for f in diagnosis.fixes if f.addon == addon), None)
    limits = expected_gain(addon, (low, reachable, high), trial, affected=affected)
    share = share_of_oracle(addon, affected=affected)
    return Recommendation(
        addon=addon,
        title=_TITLES[addon],
        reachable=reachable,
        low=limits[0],
        expected=limits[1],
        high=limits[2],
        command=command_for(addon, diagnosis),
        why=_why(addon, reachable, share, affected, trial),
        measured=trial is not None or share.source != UNKNOWN.source,
    )


def expected_gain(
    addon: Addon,
    reachable: tuple[float, float, float],
    trial: DryRun | None,
    *,
    pairs: Sequence[Pair] | None = None,
    affected: float | None = None,
) -> tuple[float, float, float]:
    """Low, expected and high gain in score, in this order, not below 0 nor above `reachable[1]`.

    With a trial: its gain, discounted by what such trials came to in our benchmarks. Without:
    the reachable gain, discounted by what was recovered of it.

    Args:
        reachable: low, middle and high, as of `reachable_gain`.
        pairs: instead of all that was measured, for leaving one out.
        affected: share of the pixels that the oracle changes, as for `share_of_oracle`.
    """
    of_oracle = share_of_oracle(addon, pairs, affected=affected)
    if trial is None:
        low, expected = of_oracle.low * reachable[0], of_oracle.expected * reachable[1]
        high = min(of_oracle.high * reachable[2], reachable[1])
        return min(low, expected), expected, max(high, expected)
    of_trial = share_of_trial(addon, pairs)
    # A refiner is more than its image-guided half: where there is no figure, the trial's stands.
    share = Recovered(0.0, 1.0, 1.0, "") if of_trial.source == UNKNOWN.source else of_trial
    expected = min(max(0.0, share.expected * trial.gain), reachable[1])
    low = min(max(0.0, share.low * trial.low), expected)
    high = max(trial.high, of_oracle.expected * reachable[1], expected)
    return low, expected, max(min(high, reachable[1]), expected)


_TITLES: dict[Addon, str] = {
    "refine": "Refine the maps after training",
    "context": "Train with context labels",
    "rectify": "Train with out-of-candidate rectification",
}
_AIMS: dict[Addon, str] = {
    "refine": "scores that are biased in patches",
    "context": "false objects and over-segmentation in the background",
    "rectify": "classes that the image does not hold",
}


def _tried(diagnosis: Diagnosis) -> DryRun | None:
    if diagnosis.cases is None or not diagnosis.setting.has_probabilities:
        return None
    return guided_dry_run(diagnosis.cases, threshold=diagnosis.setting.threshold)


def _why(
    addon: Addon,
    reachable: float,
    share: Recovered,
    affected: float | None,
    trial: DryRun | None,
) -> str:
    text = f"It aims at {_AIMS[addon]}: at most {_points(reachable)} to gain, beyond chance."
    source = share.source
    if affected is not None:
        text += f" It is about {affected:.1%} of the pixels."
        source += f" with {'less' if affected < FEW else 'more'} than {FEW:.0%}"
    if share.source == UNKNOWN.source:
        text += f" How much of it comes back is not known: {source}."
    else:
        text += f" Our benchmarks recovered {share.expected:.0%} of it ({source})."
    if trial is None:
        return text
    return (
        f"{text} Its image-guided half, tried on {_count(trial.num_images, 'image')} of yours and "
        f"scored where it was not tuned, gained {points(trial.gain)} points."
    )


def command_for(addon: Addon, diagnosis: Diagnosis) -> str:
    """The command to run next, quoted for a POSIX shell; capitals stand for what is not known."""
    folders = _folders(diagnosis)
    if addon == "refine":
        words = ["segmend", "refine", "fit"]
        words += ["--probs", folders.get("probs", diagnosis.setting.source or "PROBS")]
        words += ["--masks", folders.get("masks", "MASKS")]
        words += ["--images", folders["images"]] if "images" in folders else []
        words += ["--out", "refiner"]
    else:
        words = ["segmend", "train", "--images", "TRAIN_IMAGES", "--masks", "TRAIN_MASKS"]
        count = len(diagnosis.setting.classes)
        words += ["--num-classes", str(count)] if count > 2 else []
        extra = {"context": ["--context", "2"], "rectify": ["--rectify"]}
        words += [*extra[addon], "--out", f"model-{addon}"]
    return shlex.join(words)


def _folders(diagnosis: Diagnosis) -> dict[str, str]:
    """Role to folder, where the cases were read from folders."""
    matches = getattr(diagnosis.cases, "matches", None)
    if not matches:
        return {}
    depth = len(PurePosixPath(matches[0].name).parts)
    return {role: str(Path(path).parents[depth - 1]) for role, path in matches[0].paths.items()}


def _points(gain: float) -> str:
    return f"{100 * gain:.1f} points"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
