"""Volumes: against nibabel used on its own, and every kind of damage by its error."""

from __future__ import annotations

import gzip
import struct
import sys

import nibabel
import numpy as np
import pytest
import torch

from segmend.data.nifti import read_labels, read_volume, write_volume
from segmend.data.volumes import Case, Intensities, VolumeSet, volume_folder
from segmend.errors import SegmendError

AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3.0, 7], [0, 0, 0, 1]])
SHAPE = (6, 5, 4)


def save(path, values, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(np.asarray(values), affine), path)
    return path


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    image = save(tmp_path / "a.nii.gz", rng.normal(50, 9, SHAPE).astype(np.float32))
    label = save(tmp_path / "a_label.nii.gz", rng.integers(0, 3, SHAPE, dtype=np.uint8))
    return image, label


def test_item_has_the_voxels_geometry_and_labels_of_the_files(pair):
    image, label = pair
    item = VolumeSet([Case("a", (image,), label)], intensities=Intensities(method="none"))[0]
    assert item["name"] == "a"
    assert item["image"].dtype == torch.float32
    assert item["target"].dtype == torch.int64
    np.testing.assert_array_equal(item["image"][0], nibabel.load(image).get_fdata())
    np.testing.assert_array_equal(item["target"], np.asarray(nibabel.load(label).dataobj))
    np.testing.assert_array_equal(item["affine"], AFFINE)
    assert item["spacing"].tolist() == [1.5, 2.0, 3.0]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_written_volumes_are_read_back_by_nibabel(tmp_path, suffix):
    labels = torch.randint(0, 5, SHAPE)
    write_volume(tmp_path / f"x{suffix}", labels, torch.from_numpy(AFFINE))
    found = nibabel.load(tmp_path / f"x{suffix}")
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(found.get_fdata(), labels)
    np.testing.assert_allclose(found.affine, AFFINE)
    assert [p.name for p in tmp_path.iterdir()] == [f"x{suffix}"]  # and no temporary file


def test_channels_of_one_4d_file_and_of_several_files_are_the_same(tmp_path):
    values = np.random.default_rng(0).random((*SHAPE, 2)).astype(np.float32)
    one = save(tmp_path / "both.nii.gz", values)
    two = tuple(save(tmp_path / f"c{i}.nii.gz", values[..., i]) for i in range(2))
    items = VolumeSet([Case("one", (one,)), Case("two", two)], channels=2)
    assert torch.equal(items[0]["image"], items[1]["image"])
    assert items[0]["image"].shape == (2, *SHAPE)


def test_intensities_are_brought_to_one_scale():
    voxels = torch.rand(2, 3, 4, 5) * 7 + 2
    scaled = Intensities().apply(voxels)
    np.testing.assert_allclose(scaled.mean((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std((1, 2, 3), correction=0), 1, atol=1e-5)
    assert Intensities().apply(torch.full((1, 2, 2, 2), 3.0)).eq(0).all()
    ct = Intensities(method="ct", clip=(-100, 100), mean=20, deviation=40)
    assert ct.apply(torch.tensor([-1000.0, 60.0, 1000.0])).tolist() == [-3.0, 1.0, 2.0]


def test_chosen_labels_become_the_foreground_and_ignored_ones_stay(tmp_path, pair):
    labels = np.zeros(SHAPE, np.uint8)
    labels[0], labels[1], labels[2] = 1, 2, 255
    label = save(tmp_path / "l.nii.gz", labels)
    target = VolumeSet([Case("a", pair[:1], label)], num_classes=3, target=[2])[0]["target"]
    assert [int(target[i].unique()) for i in range(4)] == [0, 1, 255, 0]
    labels[2] = 3
    label = save(tmp_path / "l.nii.gz", labels)
    target = VolumeSet([Case("a", pair[:1], label)], num_classes=3, ignored=3)[0]["target"]
    assert [int(target[i].unique()) for i in range(4)] == [1, 2, 255, 0]


def test_resampling_keeps_the_extent(pair):
    item = VolumeSet([Case("a", pair[:1], pair[1])], spacing=(3.0, 1.0, 3.0))[0]
    assert tuple(item["image"].shape) == (1, 3, 10, 4)
    assert tuple(item["target"].shape) == (3, 10, 4)
    assert item["original"].tolist() == list(SHAPE)
    assert item["spacing"].tolist() == [3.0, 1.0, 3.0]


def damaged(tmp_path, kind):
    path = tmp_path / f"{kind}.nii.gz"
    values = np.ones(SHAPE, np.float32)
    if kind == "nan":
        values[1, 2, 3] = np.nan
    if kind == "infinite":
        values[1, 2, 3] = np.inf
    if kind == "4d":
        values = np.stack([values] * 3, -1)
    if kind == "2d":
        values = values[..., 0]
    save(path, values)
    raw = gzip.decompress(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    if kind == "short":
        path.write_bytes(gzip.compress(raw[:-40]))
    if kind == "header only":
        path.write_bytes(gzip.compress(raw[:100]))
    if kind == "text":
        path.write_bytes(b"no volume")
    if kind == "spacing":
        path.write_bytes(gzip.compress(raw[:84] + struct.pack("<f", 0.0) + raw[88:]))
    if kind == "affine":
        path.write_bytes(gzip.compress(raw[:280] + bytes(48) + raw[328:]))
    if kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", r"1 voxel\(s\) are NaN .* \(1, 2, 3\)"),
        ("infinite", r"1 voxel\(s\) are NaN or infinite"),
        ("4d", r"want \(H, W, D\), found \(6, 5, 4, 3\)"),
        ("2d", r"want \(H, W, D\), found \(6, 5\)"),
        ("truncated", "truncated"),
        ("short", "truncated"),
        ("header only", "truncated"),
        ("text", "cannot be read as NIfTI"),
        ("spacing", r"spacing \(1.5, 0.0, 3.0\)"),
        ("affine", r"spacing \(0.0, 0.0, 0.0\)"),
        ("missing", "not found"),
    ],
)
def test_a_bad_file_is_named_and_so_is_what_is_wrong(tmp_path, kind, words):
    path = damaged(tmp_path, kind)
    with pytest.raises(SegmendError, match=words) as error:
        read_volume(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full(SHAPE, 7, np.uint8), r"to 2, or 255, found 7 at voxel \(0, 0, 0\)"),
        (np.full(SHAPE, -1, np.int16), "found -1"),
        (np.full(SHAPE, 0.5, np.float32), "found 0.5"),
        (np.zeros((*SHAPE, 2), np.uint8), "one channel a class"),
    ],
)
def test_labels_are_whole_and_below_the_number_of_classes(tmp_path, values, words):
    path = save(tmp_path / "l.nii.gz", values)
    with pytest.raises(SegmendError, match=words):
        read_labels(path, num_classes=3)


def test_a_label_of_another_shape_or_place_is_refused(tmp_path, pair):
    image, _ = pair
    small = save(tmp_path / "small.nii.gz", np.zeros((6, 5, 3), np.uint8))
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    elsewhere = save(tmp_path / "moved.nii.gz", np.zeros(SHAPE, np.uint8), moved)
    with pytest.raises(SegmendError, match=r"a\.nii\.gz is \(6, 5, 4\).*small\.nii\.gz is"):
        VolumeSet([Case("a", (image,), small)])[0]
    with pytest.raises(SegmendError, match=r"moved\.nii\.gz lie in different places.*0.5 mm"):
        VolumeSet([Case("a", (image,), elsewhere)])[0]
    moved[0, 3] -= 0.4999  # rounding of an affine is none of our business
    near = save(tmp_path / "near.nii.gz", np.zeros(SHAPE, np.uint8), moved)
    assert VolumeSet([Case("a", (image,), near)])[0]["target"].sum() == 0


def test_a_case_that_lacks_a_modality_is_refused(tmp_path, pair):
    with pytest.raises(SegmendError, match=r"want \(H, W, D, 2\), found \(6, 5, 4\).*modality"):
        VolumeSet([Case("a", pair[:1])], channels=2)[0]
    with pytest.raises(SegmendError, match="want 3 modalities, found 2"):
        VolumeSet([Case("a", pair)], channels=3)[0]


def test_folders_pair_files_of_one_name(tmp_path, pair):
    for folder, names in {"images": ("c10", "c2"), "labels": ("c2", "c10")}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            save(tmp_path / folder / f"{name}.nii.gz", np.zeros(SHAPE, np.uint8))
    cases = volume_folder(tmp_path / "images", tmp_path / "labels")
    assert [case.name for case in cases] == ["c2", "c10"]
    (tmp_path / "labels" / "c2.nii.gz").unlink()
    with pytest.raises(SegmendError, match="no partner of the same name: c2"):
        volume_folder(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegmendError, match="holds no NIfTI file"):
        volume_folder(tmp_path / "empty")


def test_without_nibabel_the_extra_is_named(monkeypatch, pair):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(SegmendError, match=r"pip install 'segmend\[medical\]'"):
        read_volume(pair[0])
