"""nnU-Net v2's raw layout: a small set as its documentation describes it."""

from __future__ import annotations

import json

import pytest

from segmend.data.nnunet import ignored_label, is_nnunet, read_nnunet, read_splits
from segmend.errors import SegmendError

CONTENT = {
    "channel_names": {"0": "T2", "1": "ADC"},
    "labels": {"background": 0, "PZ": 1, "TZ": 2, "ignore": 3},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
FILES = [
    *(f"imagesTr/p_{case}_000{channel}" for case in (2, 10) for channel in (0, 1)),
    *(f"labelsTr/p_{case}" for case in (2, 10)),
    *(f"imagesTs/q_000{channel}" for channel in (0, 1)),
]


@pytest.fixture
def root(tmp_path):
    home = tmp_path / "Dataset005_Prostate"
    for file in FILES:
        path = home / f"{file}.nii.gz"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    (home / "dataset.json").write_text(json.dumps(CONTENT))
    return home


def test_layout_is_read_with_all_channels(root):
    found = read_nnunet(root)
    assert is_nnunet(root)
    assert found.name == "Dataset005_Prostate"
    assert found.labels == ("background", "PZ", "TZ")
    assert ignored_label(root) == 3
    assert found.modalities == ("T2", "ADC")
    assert [case.name for case in found.training] == ["p_2", "p_10"]
    assert [p.name for p in found.training[1].images] == ["p_10_0000.nii.gz", "p_10_0001.nii.gz"]
    assert found.training[1].label == root / "labelsTr/p_10.nii.gz"
    assert [(case.name, len(case.images)) for case in found.test] == [("q", 2)]


def test_a_missing_modality_is_named(root):
    (root / "imagesTr/p_10_0001.nii.gz").unlink()
    with pytest.raises(SegmendError, match=r"'p_10' lacks modality 1 \(ADC\)"):
        read_nnunet(root)


@pytest.mark.parametrize(
    ("file", "words"),
    [("imagesTr/p_2_0002", "3 modalities, dataset.json names 2"), ("imagesTr/p", "CASE_0000")],
)
def test_a_file_that_does_not_fit_is_refused(root, file, words):
    (root / f"{file}.nii.gz").touch()
    with pytest.raises(SegmendError, match=words):
        read_nnunet(root)


def test_a_case_without_a_label_is_named(root):
    (root / "labelsTr/p_2.nii.gz").unlink()
    with pytest.raises(SegmendError, match="case 'p_2' has no label"):
        read_nnunet(root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file_ending": ".png"}, r"file_ending '\.png'"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions"),
        ({"labels": {"background": 0, "b": 2}}, "without a gap"),
        ({"channel_names": 3}, "channel_names: want"),
    ],
)
def test_a_description_that_is_not_supported_is_refused(root, change, words):
    (root / "dataset.json").write_text(json.dumps({**CONTENT, **change}))
    with pytest.raises(SegmendError, match=words):
        read_nnunet(root)


def test_splits_choose_cases(root):
    cases = read_nnunet(root).training
    path = root / "splits_final.json"
    path.write_text(json.dumps([{"train": ["p_10"], "val": ["p_2"]}]))
    train, val = read_splits(path, 0, cases)
    assert ([c.name for c in train], [c.name for c in val]) == (["p_10"], ["p_2"])
    with pytest.raises(SegmendError, match="fold 1 among its 1"):
        read_splits(path, 1, cases)
    path.write_text(json.dumps([{"train": ["p_11"], "val": []}]))
    with pytest.raises(SegmendError, match="names 'p_11'"):
        read_splits(path, 0, cases)
    path.write_text("[")
    with pytest.raises(SegmendError, match="not readable as JSON"):
        read_splits(path, 0, cases)
