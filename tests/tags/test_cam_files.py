"""Maps on disk come back as they were, or say what is wrong with the file."""

import numpy as np
import pytest
import torch

from segmend import SegmendError
from segmend.tags.cam_files import read_cams, write_cams


def test_maps_of_tagged_classes_come_back(tmp_path):
    cams = torch.rand(5, 7, 9)
    tags = torch.tensor([0.0, 1, 0, 1, 0])
    write_cams(tmp_path / "a.npz", cams, tags, torch.arange(5.0), (28, 36))
    found = read_cams(tmp_path / "a.npz")
    assert found.size == (28, 36)
    assert torch.equal(found.tags(), tags)
    assert torch.equal(found.scores, torch.arange(5.0))
    torch.testing.assert_close(found.dense(), cams * tags[:, None, None], atol=1e-3, rtol=1e-3)


def test_an_image_without_tags_has_no_maps(tmp_path):
    write_cams(tmp_path / "a.npz", torch.rand(3, 4, 4), torch.zeros(3), torch.zeros(3), (4, 4))
    found = read_cams(tmp_path / "a.npz")
    assert found.cams.shape == (0, 4, 4)
    assert torch.equal(found.dense(), torch.zeros(3, 4, 4))


def test_maps_above_half_precision_keep_their_proportions(tmp_path):
    cams = torch.tensor([[[1e6, 5e5]], [[2.5e5, 0.0]]])
    write_cams(tmp_path / "a.npz", cams, torch.ones(2), torch.zeros(2), (1, 2))
    found = read_cams(tmp_path / "a.npz").cams
    torch.testing.assert_close(found / found.max(), cams / 1e6, atol=1e-3, rtol=1e-3)


def test_maps_of_nan_are_refused_and_nothing_is_written(tmp_path):
    cams = torch.full((1, 2, 2), float("nan"))
    with pytest.raises(SegmendError, match=r"a\.npz: the network gave NaN"):
        write_cams(tmp_path / "a.npz", cams, torch.ones(1), torch.zeros(1), (2, 2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["empty", "text", "foreign", "cut", "nan"])
def test_other_files_are_named(tmp_path, kind):
    path = tmp_path / "a.npz"
    write_cams(path, torch.rand(2, 30, 30), torch.ones(2), torch.zeros(2), (4, 4))
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("maps")
    elif kind == "foreign":
        np.savez(path, probabilities=np.zeros((1, 2, 2)))
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        bad = np.full((1, 2, 2), np.nan, np.float16)
        np.savez(path, cams=bad, classes=np.array([0]), scores=np.zeros(1), size=np.array([2, 2]))
    with pytest.raises(SegmendError, match=r"a\.npz"):
        read_cams(path)
