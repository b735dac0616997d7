"""Whole images and windows: a network without context must not care how it is cut."""

from __future__ import annotations

import sys

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from segmend.context.inference import image_logits, labels_of, predict_volumes
from segmend.data.volumes import Case, Intensities, VolumeSet
from segmend.errors import SegmendError

SHAPE = (18, 10, 12)
WINDOW = (8, 8, 8)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def network():
    torch.manual_seed(0)
    return nn.Conv3d(1, 2, 1)


def volumes(tmp_path, count=2, **options):
    rng, cases = np.random.default_rng(0), []
    for i in range(count):
        path = tmp_path / "in" / f"c{i}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        values = rng.normal(size=SHAPE).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
        cases.append(Case(f"c{i}", (path,)))
    return VolumeSet(cases, intensities=Intensities(method="none"), **options)


@pytest.mark.parametrize("size", [SHAPE, (8, 8, 8), (5, 20, 6)])
def test_windows_give_what_the_whole_gives(size):
    model, image = network(), torch.randn(1, *size)
    with torch.no_grad():
        expected = model(image[None])[0]
    torch.testing.assert_close(image_logits(model, image, window=WINDOW), expected)
    assert torch.equal(image_logits(model, image), expected)


def test_label_volumes_have_the_grid_of_their_image_and_stay_when_resumed(tmp_path):
    items, model = volumes(tmp_path), network()
    paths = predict_volumes(model, items, tmp_path / "out", window=WINDOW, probabilities=True,
                            progress=False)  # fmt: skip
    assert model.training  # left as it came
    for i, path in enumerate(paths):
        written = nibabel.load(path)
        np.testing.assert_array_equal(written.affine, AFFINE)
        with torch.no_grad():
            probs = model(items[i]["image"][None])[0].softmax(0)
        np.testing.assert_array_equal(written.get_fdata(), probs.argmax(0))
        beside = nibabel.load(tmp_path / "out" / f"c{i}_prob1.nii.gz").get_fdata()
        np.testing.assert_allclose(beside, probs[1], atol=1e-5)
    before = paths[0].read_bytes()
    paths[1].unlink()
    other = nn.Conv3d(1, 2, 1)
    predict_volumes(other, items, tmp_path / "out", window=WINDOW, progress=False)
    assert paths[0].read_bytes() == before
    assert paths[1].is_file()


def test_resampled_volumes_come_back_on_the_grid_of_the_file(tmp_path):
    items = volumes(tmp_path, count=1, spacing=(2.0, 2.0, 2.0))
    (path,) = predict_volumes(network(), items, tmp_path / "out", window=WINDOW, progress=False)
    written = nibabel.load(path)
    assert written.shape == SHAPE
    np.testing.assert_array_equal(written.affine, AFFINE)


def test_thresholds():
    probs = torch.tensor([[0.7, 0.4], [0.3, 0.6]])
    assert labels_of(probs).tolist() == [0, 1]
    assert labels_of(probs, 0.2).tolist() == [1, 1]
    with pytest.raises(SegmendError, match="only for two classes"):
        labels_of(torch.ones(3, 2) / 3, 0.5)


def test_bad_options_and_a_bad_case(tmp_path):
    items, model = volumes(tmp_path, count=2), network()
    with pytest.raises(SegmendError, match="suffix"):
        predict_volumes(model, items, tmp_path, window=WINDOW, suffix=".png")
    with pytest.raises(SegmendError, match="threshold"):
        predict_volumes(model, items, tmp_path, window=WINDOW, threshold=1.5)
    broken = items.cases[1].images[0]
    broken.write_bytes(broken.read_bytes()[:-30])
    with pytest.raises(SegmendError, match=r"c1\.nii\.gz"):
        predict_volumes(model, items, tmp_path / "out", window=WINDOW, progress=False)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["c0.nii.gz"]  # nothing half-written


def test_without_monai_small_volumes_work_and_large_ones_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.inferers", None)
    monkeypatch.setitem(sys.modules, "monai", None)
    assert image_logits(network(), torch.zeros(1, 8, 8, 8), window=WINDOW).shape == (2, 8, 8, 8)
    with pytest.raises(SegmendError, match=r"pip install 'segmend\[medical\]'"):
        image_logits(network(), torch.zeros(1, 9, 8, 8), window=WINDOW)
