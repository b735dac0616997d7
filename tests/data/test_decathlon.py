"""The Decathlon's layout: a small set as its documentation describes it."""

from __future__ import annotations

import json

import pytest

from segmend.data.decathlon import read_decathlon
from segmend.errors import SegmendError

CONTENT = {
    "name": "Tiny",
    "modality": {"0": "FLAIR", "1": "T1"},
    "labels": {"0": "background", "1": "a", "2": "b"},
    "training": [
        {"image": "./imagesTr/t_2.nii.gz", "label": "./labelsTr/t_2.nii.gz"},
        {"image": "./imagesTr/t_1.nii.gz", "label": "./labelsTr/t_1.nii.gz"},
    ],
    "test": ["./imagesTs/t_9.nii.gz"],
}


@pytest.fixture
def root(tmp_path):
    for file in ("imagesTr/t_1", "imagesTr/t_2", "labelsTr/t_1", "labelsTr/t_2", "imagesTs/t_9"):
        path = tmp_path / f"{file}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "dataset.json").write_text(json.dumps(CONTENT))
    return tmp_path


def test_layout_is_read_in_order_of_names(root):
    found = read_decathlon(root)
    assert found == read_decathlon(root / "dataset.json")
    assert found.labels == ("background", "a", "b")
    assert found.modalities == ("FLAIR", "T1")
    assert [case.name for case in found.training] == ["t_1", "t_2"]
    assert found.training[0].images == (root / "imagesTr/t_1.nii.gz",)
    assert found.training[0].label == root / "labelsTr/t_1.nii.gz"
    assert [(case.name, case.label) for case in found.test] == [("t_9", None)]


def test_a_listed_file_that_is_not_there_is_named(root):
    (root / "labelsTr/t_2.nii.gz").unlink()
    with pytest.raises(SegmendError, match=r"lists .*labelsTr/t_2\.nii\.gz, which is not there"):
        read_decathlon(root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": None}, "want modality, labels and training"),
        ({"labels": {"0": "background", "2": "b"}}, r"labels: want numbers from 0 .*\[0, 2\]"),
        ({"modality": ["MRI"]}, "modality: want {number: name}"),
        ({"training": [{"image": "./imagesTr/t_1.nii.gz"}]}, "label' is missing"),
    ],
)
def test_a_damaged_description_is_refused(root, change, words):
    (root / "dataset.json").write_text(json.dumps({**CONTENT, **change}))
    with pytest.raises(SegmendError, match=words):
        read_decathlon(root)


def test_no_description_and_no_json(root):
    (root / "dataset.json").write_text("{")
    with pytest.raises(SegmendError, match="not readable as JSON"):
        read_decathlon(root)
    (root / "dataset.json").unlink()
    with pytest.raises(SegmendError, match=r"dataset\.json: not found"):
        read_decathlon(root)
