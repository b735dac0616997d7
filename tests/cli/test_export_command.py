"""`segmend export` end to end: the file computes what PyTorch does, at other sizes too."""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

from segmend import Refiner
from segmend.refine import RefineOptions


def segmend(*words):
    command = [sys.executable, "-m", "segmend.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def refiner(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(4, 1, 32, 32, generator=generator)
    options = RefineOptions(width=8, epochs=2, crop=32, folds=2, gate_confidence=0)
    fitted = Refiner.fit(probs, (probs[:, 0] > 0.4).long(), options=options)
    return fitted, fitted.save(tmp_path_factory.mktemp("refiner"))


def test_refiner_in_onnxruntime_equals_torch(refiner, tmp_path):
    fitted, folder = refiner
    path = tmp_path / "refiner.onnx"
    done = segmend("export", "--refiner", folder, "--out", path)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(path)
    for size in ((1, 1, 32, 32), (3, 1, 50, 71), (1, 1, 17, 130)):
        probs = torch.rand(size, generator=torch.Generator().manual_seed(1))
        found = session.run(None, {"probs": probs.numpy()})[0]
        np.testing.assert_allclose(found, fitted(probs).numpy(), atol=1e-4)


def test_two_sources_or_none_are_refused(tmp_path):
    done = segmend("export", "--out", tmp_path / "x.onnx")
    assert done.returncode == 2
    assert "give either --refiner DIR or --checkpoint DIR" in done.stderr
    assert not (tmp_path / "x.onnx").exists()
