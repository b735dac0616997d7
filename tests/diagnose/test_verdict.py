"""The verdict never says more than the evidence: properties on diagnoses made by hand."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmend.diagnose.attribution import attribute
from segmend.diagnose.dry_run import DryRun
from segmend.diagnose.reading import FolderCases
from segmend.diagnose.recovered import PAIRS, Pair, Recovered, share_of_oracle, share_of_trial
from segmend.diagnose.report.words import chances
from segmend.diagnose.result import (
    BackgroundCluster,
    Diagnosis,
    Fix,
    ImageRow,
    Score,
    Setting,
    SizeBin,
    SpatialBias,
    Verdict,
)
from segmend.diagnose.texts import text_of
from segmend.diagnose.verdict import command_for, expected_gain, judge, reachable_gain

KEYS = ("threshold-global", "bias-grid", "candidates", "missed", "islands", "spill", "holes",
        "boundary-1", "boundary-2", "boundary-4", "threshold-image", "patch-64", "patch-32",
        "confusion-1-2")  # fmt: skip
CLASSES = ("background", "cell", "wall")
CHOSEN_FREELY = ("threshold", "patch", "contour")


def fix(key: str, gain: float, *, chance: float | None = None, half_width: float = 0.01) -> Fix:
    text = text_of(key, CLASSES)
    if chance is None and text.family in CHOSEN_FREELY and key != "bias-grid":
        chance = 0.0
    low = gain - half_width if gain else 0.0
    return Fix(
        key, text.title, text.family, text.addon, gain, low, gain + half_width, gain, chance, ""
    )


def diagnosis(score: float, *fixes: Fix, bias: SpatialBias | None = None) -> Diagnosis:
    gains = {f.key: f.gain for f in fixes}
    return Diagnosis(
        setting=Setting(20, CLASSES[:2], 2, True, 0.5, "IoU"),
        score=Score(score, score - 0.05, min(1.0, score + 0.05), score),
        fixes=fixes,
        images=tuple(ImageRow(i, str(i), score, gains) for i in range(20)),
        verdict=Verdict("", None),
        bias=bias,
        confusion=((900, 5), (45, 50)),
    )


def dominant(score: float, *fixes: Fix) -> str | None:
    return judge(diagnosis(score, *fixes)).dominant


def test_perfect_predictions_leave_nothing_to_say() -> None:
    verdict = judge(diagnosis(1.0, *(fix(key, 0.0) for key in KEYS)))
    assert verdict.dominant is None
    assert verdict.headline.startswith("Nothing stands out to mend: IoU 100.0 on 20 images")
    assert verdict.recommendations == ()


@pytest.mark.parametrize("key", KEYS)
def test_a_fix_that_mends_it_all_is_named(key: str) -> None:
    assert dominant(0.7, fix(key, 0.3)) == key


@pytest.mark.parametrize("key", [k for k in KEYS if text_of(k, CLASSES).family in CHOSEN_FREELY])
def test_what_chance_would_win_is_not_named(key: str) -> None:
    assert dominant(0.7, fix(key, 0.1, chance=0.095)) is None


def test_an_interval_that_reaches_zero_is_not_named() -> None:
    assert dominant(0.7, fix("threshold-global", 0.05, half_width=0.06)) is None
    assert dominant(0.7, fix("threshold-global", 0.05, half_width=0.02)) == "threshold-global"


@pytest.mark.parametrize(
    ("simple", "free"),
    [
        ("threshold-global", "patch-32"),
        ("threshold-global", "bias-grid"),
        ("threshold-global", "boundary-4"),
        ("bias-grid", "patch-32"),
        ("bias-grid", "boundary-4"),
        ("missed", "boundary-4"),
        ("spill", "patch-32"),
        ("candidates", "confusion-1-2"),
        ("boundary-2", "threshold-image"),
    ],
)
def test_the_simpler_of_two_fixes_for_one_loss_is_named(simple: str, free: str) -> None:
    for order in ((simple, free), (free, simple)):
        assert dominant(0.7, *(fix(key, 0.28 if key == simple else 0.3) for key in order)) == simple


def test_a_freer_fix_is_named_for_what_the_simpler_one_leaves() -> None:
    found = judge(diagnosis(0.6, fix("threshold-global", 0.05), fix("missed", 0.3)))
    assert found.dominant == "missed"
    # Nested: patches contain the one threshold, so that only the difference is their own.
    causes = attribute(diagnosis(0.6, fix("threshold-global", 0.05), fix("patch-32", 0.15)))
    assert [round(cause.own, 6) for cause in causes] == [0.1, 0.05]


def test_the_narrowest_band_that_does_it_is_named() -> None:
    bands = (fix("boundary-1", 0.1), fix("boundary-2", 0.19), fix("boundary-4", 0.2))
    assert dominant(0.7, *bands) == "boundary-2"
    headline = judge(diagnosis(0.7, *bands)).headline
    assert "too tight" in headline
    assert "within 2 pixels" in headline


def test_an_outline_that_errs_to_both_sides_is_noise() -> None:
    assert dominant(0.7, fix("boundary-4", 0.25, chance=0.2)) is None
    assert dominant(0.7, fix("boundary-4", 0.25, chance=0.1)) == "boundary-4"


def test_a_bias_by_place_needs_the_permutation_test() -> None:
    for p_value, wanted in ((0.001, "bias-grid"), (0.4, None)):
        bias = SpatialBias(((0.0,),), ((0.0,),), p_value, 0.1, 0.01)
        assert judge(diagnosis(0.7, fix("bias-grid", 0.2), bias=bias)).dominant == wanted


def test_missed_objects_in_one_image_are_no_pattern() -> None:
    found = diagnosis(0.7, fix("missed", 0.2, half_width=0.2))
    assert judge(found).dominant == "missed"
    rows = tuple(replace(row, gains={"missed": float(row.index == 0)}) for row in found.images)
    assert judge(replace(found, images=rows)).dominant is None


gains = st.floats(0.0, 0.5)


def any_diagnosis(score: float, values: list[float], chances: list[float]) -> Diagnosis:
    fixes = []
    for key, gain, chance in zip(KEYS, values, chances, strict=True):
        free = text_of(key, CLASSES).family in CHOSEN_FREELY
        fixes.append(fix(key, min(gain, 1 - score), chance=chance if free else None))
    return diagnosis(score, *fixes)


made = st.builds(
    any_diagnosis,
    st.floats(0.0, 1.0),
    st.lists(gains, min_size=len(KEYS), max_size=len(KEYS)),
    st.lists(st.floats(-0.1, 0.3), min_size=len(KEYS), max_size=len(KEYS)),
)


@given(made)
def test_shares_fit_in_the_loss_and_intervals_are_ordered(found: Diagnosis) -> None:
    causes = attribute(found)
    assert sum(cause.own for cause in causes) <= 1 - found.score.pooled + 1e-9
    assert all(0 < cause.own <= cause.high and cause.low <= cause.own for cause in causes)
    verdict = judge(found)
    assert verdict.dominant is None or verdict.dominant in {f.key for f in found.fixes}
    for advice in verdict.recommendations:
        assert 0 <= advice.low <= advice.expected <= advice.high
        assert advice.expected <= advice.reachable
    expected = [advice.expected for advice in verdict.recommendations]
    assert expected == sorted(expected, reverse=True)


@given(made, st.floats(0.0, 1.0))
def test_more_chance_never_makes_a_verdict_surer(found: Diagnosis, more: float) -> None:
    worse = tuple(
        replace(f, chance=f.chance + more) if f.chance is not None else f for f in found.fixes
    )
    before = reachable_gain(found.fixes, "refine")
    assert reachable_gain(worse, "refine")[1] <= before[1] + 1e-12


@given(
    st.lists(
        st.builds(
            Pair,
            st.just("pair"),
            st.floats(0.01, 0.5),
            st.floats(-0.1, 0.2),
            st.none() | st.floats(-0.1, 0.2),
            st.none() | st.floats(0.0, 0.2),
        ),
        max_size=8,
    ),
    st.tuples(*[st.floats(0.0, 0.5)] * 3).map(sorted),
    st.none()
    | st.tuples(*[st.floats(-0.2, 0.3)] * 3).map(sorted).map(lambda v: DryRun(v[1], v[0], v[2], 9)),
    st.none() | st.floats(0.0, 0.2),
)
def test_expected_gains_are_ordered_whatever_was_measured(
    pairs: list[Pair], limits: list[float], trial: DryRun | None, affected: float | None
) -> None:
    of_oracle = share_of_oracle("refine", pairs, affected=affected)
    for share in (of_oracle, share_of_trial("refine", pairs)):
        assert 0 <= share.low <= share.expected <= share.high <= 1
    low, expected, high = expected_gain(
        "refine", tuple(limits), trial, pairs=pairs, affected=affected
    )
    assert 0 <= low <= expected <= high
    assert expected <= limits[1]


def test_shares_by_hand() -> None:
    pairs = [Pair("a", 0.1, 0.05, 0.02), Pair("b", 0.2, 0.0, 0.02), Pair("c", 0.1, 0.01, -0.01)]
    assert share_of_oracle("refine", pairs).expected == pytest.approx((0.5 + 0 + 0.1) / 3)
    # 0.06 gained of 0.04 promised; without the first pair 0.01 of 0.02, each plus 0.01 of trust.
    assert share_of_trial("refine", pairs) == Recovered(
        pytest.approx(2 / 3), 1.0, 1.0, share_of_trial("refine", pairs).source
    )
    assert share_of_oracle("refine", pairs[:2]).source == "fewer than three benchmarks"


def test_pairs_count_that_are_alike_in_pixels() -> None:
    pairs = [Pair(str(n), 0.1, 0.01 * n, affected=0.01 * n) for n in range(1, 7)]
    assert share_of_oracle("rectify", pairs).expected == pytest.approx(0.35)
    assert share_of_oracle("rectify", pairs, affected=0.2).expected == pytest.approx(0.45)
    few = share_of_oracle("rectify", pairs, affected=0.029)
    assert few.source == "fewer than three benchmarks"  # 0.01 and 0.02, but 0.03 is no longer few
    both = [*pairs, Pair("unknown", 0.1, 0.0)]
    assert share_of_oracle("rectify", both, affected=0.01).expected == pytest.approx(0.1)


def test_where_few_pixels_are_impossible_rectification_is_promised_nothing() -> None:
    few, many = (
        judge(diagnosis(0.6, replace(fix("candidates", 0.05), affected=share))).recommendations[0]
        for share in (0.012, 0.08)
    )
    assert few.expected == 0.0
    assert many.expected > 0.01
    assert few.reachable == many.reachable
    assert "about 1.2% of the pixels" in few.why
    assert "with less than 3%" in few.why
    assert "with more than 3%" in many.why


def test_a_trial_that_gains_nothing_promises_nothing() -> None:
    assert expected_gain("refine", (0.05, 0.1, 0.15), DryRun(-0.01, -0.02, 0.0, 9))[1] == 0.0


def test_each_add_on_is_recommended_for_its_own_error() -> None:
    fixes = (fix("patch-32", 0.1, chance=0.02), fix("islands", 0.05), fix("spill", 0.03),
             fix("candidates", 0.04))  # fmt: skip
    advice = {r.addon: r for r in judge(diagnosis(0.6, *fixes)).recommendations}
    assert set(advice) == {"refine", "context", "rectify"}
    assert advice["refine"].reachable == pytest.approx(0.08)
    assert advice["context"].reachable == pytest.approx(0.08)
    assert advice["rectify"].reachable == pytest.approx(0.04)
    assert all("fewer than three benchmarks" not in a.why for a in advice.values())
    assert advice["context"].command.split()[:2] == ["segmend", "train"]
    assert "--context 2" in advice["context"].command
    assert "--rectify" in advice["rectify"].command


def test_no_add_on_is_recommended_for_nothing() -> None:
    assert judge(diagnosis(0.6, fix("missed", 0.3), fix("islands", 0.004))).recommendations == ()


@pytest.mark.parametrize("name", ["plain", "two words", "a;rm -rf $HOME", 'it\'s "`x`"', "-x"])
def test_commands_quote_hostile_paths(name: str) -> None:
    made_by_hand = diagnosis(0.7, fix("patch-32", 0.2))
    found = replace(made_by_hand, setting=replace(made_by_hand.setting, source=name))
    words = shlex.split(command_for("refine", found))
    assert words == ["segmend", "refine", "fit", "--probs", name, "--masks", "MASKS",
                     "--out", "refiner"]  # fmt: skip


def test_commands_name_the_folders_that_were_read(tmp_path: Path) -> None:
    import torch

    from segmend.data.masks import write_mask
    from segmend.data.probability_maps import write_probabilities

    root = tmp_path / "my maps"
    for name in ("a/1", "a/2"):
        write_probabilities(root / "p" / f"{name}.png", torch.rand(1, 16, 16))
        write_mask(root / "m" / f"{name}.png", torch.zeros(16, 16, dtype=torch.int64))
    cases = FolderCases(root / "m", probs=root / "p")
    found = replace(diagnosis(0.7, fix("patch-32", 0.2)), cases=cases)
    words = shlex.split(command_for("refine", found))
    assert words[words.index("--probs") + 1] == str(root / "p")
    assert words[words.index("--masks") + 1] == str(root / "m")


def test_advice_names_the_threshold_and_the_offsets() -> None:
    tuned = replace(fix("threshold-global", 0.2), value=(0.314,))
    verdict = judge(diagnosis(0.6, tuned))
    assert verdict.dominant == "threshold-global"
    assert verdict.advice.startswith("Use 0.31 as the threshold instead of 0.5")
    offset = replace(fix("threshold-global", 0.2), key="offset-class", family="offset",
                     value=(0.0, 1.25))  # fmt: skip
    assert "foreground" not in judge(diagnosis(0.6, offset)).advice
    assert "cell +1.25. " in judge(diagnosis(0.6, offset)).advice


def test_advice_points_at_the_leaking_background_and_the_missed_size() -> None:
    leaking = BackgroundCluster("green, smooth", None, 0.1, 0.4, 0.8)
    rest = BackgroundCluster("grey, smooth", None, 0.9, 0.01, 0.2)
    found = replace(diagnosis(0.6, fix("islands", 0.3)), clusters=(rest, leaking))
    assert (
        "80% of the false pixels lie on background that is “green, smooth”" in judge(found).advice
    )
    even = (replace(rest, share_of_false=0.9), replace(leaking, share_of_false=0.1))
    assert "false pixels" not in judge(replace(found, clusters=even)).advice
    sizes = (SizeBin(12, 99, 10, 0.2, 0.2), SizeBin(100, 900, 10, 0.9, 0.9))
    found = replace(diagnosis(0.6, fix("missed", 0.3)), sizes=sizes)
    assert "Objects of 12 to 99 pixels are found least: 20%" in judge(found).advice
    assert judge(replace(found, sizes=sizes[1:])).advice.startswith("No threshold finds them")


@pytest.mark.parametrize("key", KEYS)
def test_every_dominant_error_comes_with_advice(key: str) -> None:
    value = (0.4,) if key == "threshold-global" else ()
    found = judge(diagnosis(0.5, replace(fix(key, 0.4), value=value)))
    assert found.dominant == key
    assert len(found.advice) > 40


def test_an_interval_never_promises_more_than_is_reachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PAIRS, "rectify", PAIRS["rectify"][:2])  # too few to know a share from
    wide = fix("candidates", 0.05, half_width=0.04)
    advice = judge(diagnosis(0.6, wide)).recommendations[0]
    assert advice.low == 0
    assert advice.high == advice.reachable == pytest.approx(0.05)
    assert not advice.measured
    assert chances(advice, "IoU")[0] == "Not measured yet:"
    measured = replace(advice, measured=True)
    assert chances(measured, "IoU") == (
        "Likely 0.0 to +5.0 points of IoU:", "+1.2 expected, of 5.0 at most."
    )  # fmt: skip
    nothing = replace(measured, expected=0.0001, high=0.003)
    assert chances(nothing, "IoU")[0] == "Not likely to gain much:"
