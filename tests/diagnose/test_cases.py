"""Cases from tensors and from folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segmend.data.images import write_image
from segmend.data.masks import write_mask
from segmend.data.nifti import write_volume
from segmend.data.probability_maps import write_probabilities
from segmend.diagnose import FolderCases, TensorCases, VolumeCases, diagnose, measure
from segmend.errors import SegmendError

OPTIONS = {"encoding": "index", "pred_encoding": "index"}


@pytest.fixture(scope="module")
def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """8-bit probabilities, so that files hold them exactly, truth with ignored pixels, images."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.randint(0, 256, (3, 1, 40, 48), generator=generator).float() / 255
    target = ((probs[:, 0] + 0.3 * torch.randn(3, 40, 48, generator=generator)) > 0.6).long()
    target[:, :2] = 255
    images = torch.randint(0, 256, (3, 3, 40, 48), generator=generator).float() / 255
    return probs, target, images


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tensors: tuple) -> Path:
    folder = tmp_path_factory.mktemp("set")
    for i, (probs, target, image) in enumerate(zip(*tensors, strict=True)):
        raw = (probs * 255).round().to(torch.uint8)
        write_probabilities(folder / "probs" / f"{i}.png", raw)
        write_mask(folder / "masks" / f"{i}_mask.png", target, encoding="index")
        write_mask(folder / "pred" / f"{i}.png", (probs[0] > 0.5).long(), encoding="index")
        write_image(folder / "images" / f"{i}.png", image)
    return folder


def test_folders_and_tensors_say_the_same(root: Path, tensors: tuple) -> None:
    probs, target, images = tensors
    folders = FolderCases(root / "masks", probs=root / "probs", images=root / "images", **OPTIONS)
    held = TensorCases(probs, target, images=images)
    one, other = measure(folders), measure(held)
    assert one.to_dict() == other.to_dict()
    assert len(one.clusters) > 1
    assert one.setting.has_probabilities


def test_hard_masks_have_less_to_say(root: Path, tensors: tuple) -> None:
    probs, target, _ = tensors
    found = measure(FolderCases(root / "masks", pred=root / "pred", **OPTIONS))
    assert found.to_dict() == measure(TensorCases((probs[:, 0] > 0.5).long(), target)).to_dict()
    keys = {fix.key for fix in found.fixes}
    assert "islands" in keys
    assert not any(key.startswith(("threshold", "patch", "bias")) for key in keys)
    full = measure(TensorCases(probs, target))
    same = {fix.key: fix for fix in full.fixes if fix.key in keys}
    assert same == {fix.key: fix for fix in found.fixes}


def test_a_threshold_makes_the_labels(tensors: tuple) -> None:
    probs, target, _ = tensors
    case = TensorCases(probs, target, threshold=0.7)[1]
    assert torch.equal(case.prediction, (probs[1, 0] > 0.7).long())
    assert torch.equal(case.valid, target[1] != 255)


def test_two_channels_and_no_channel_are_binary(tensors: tuple) -> None:
    probs, target, _ = tensors
    both = torch.cat((1 - probs, probs), 1)
    for spelling in (probs[:, 0], both):
        cases = TensorCases(spelling, target)
        assert cases.num_classes == 2
        assert torch.equal(cases[0].probs, probs[0])


def test_labels_beside_maps_are_the_prediction(tensors: tuple) -> None:
    probs, target, _ = tensors
    pred = torch.zeros_like(target)
    assert not TensorCases(probs, target, pred=pred)[0].prediction.any()


def test_tags_become_candidates(root: Path) -> None:
    tags = {"0": ["cat"], "1": [], "2": ["cat"], "elsewhere": ["cat"]}
    cases = FolderCases(
        root / "masks", probs=root / "probs", tags=tags, classes=("nothing", "cat"), **OPTIONS
    )
    names = [case.name for case in cases]
    assert names == ["0", "1", "2"]
    assert [case.candidates.tolist() for case in cases] == [
        [True, True],
        [True, False],
        [True, True],
    ]


def test_nan_where_the_truth_is_ignored(tensors: tuple) -> None:
    probs, target, _ = tensors
    holes = probs.masked_fill((target == 255)[:, None], torch.nan)
    clean = measure(TensorCases(probs.masked_fill((target == 255)[:, None], 0.0), target))
    assert measure(TensorCases(holes, target)).fixes == clean.fixes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probs": None}, "want a target, and probs"),
        ({"target": None}, "want a target"),
        ({"probs": torch.full((3, 1, 40, 48), 2.0)}, "b: probs from 2 to 2; want"),
        ({"probs": torch.zeros(3, 3, 40, 48), "num_classes": 5}, "b: probs .* for 5 classes"),
        ({"probs": torch.zeros(2, 1, 40, 48)}, "probs: 2 images, the target has 3"),
        ({"names": ["x"]}, "names: 1 images"),
        ({"images": torch.zeros(3, 3, 8, 8)}, "b: image .* want equal"),
        ({"candidates": torch.ones(3, 4)}, "b: candidates .* want \\(2,\\)"),
        ({"threshold": 1.5}, "threshold"),
    ],
)
def test_bad_tensors_are_named(tensors: tuple, change: dict, message: str) -> None:
    given = {"probs": tensors[0], "target": tensors[1], "names": ["a", "b", "c"]} | change
    with pytest.raises(SegmendError, match=message):
        TensorCases(**given)[1]


def test_bad_files_are_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "probs").mkdir()
    for i in range(3):
        write_probabilities(tmp_path / "probs" / f"{i}.png", torch.zeros(1, 8, 8))
    with pytest.raises(SegmendError, match=r"0\.png is 8x8"):
        measure(FolderCases(root / "masks", probs=tmp_path / "probs", **OPTIONS))
    (tmp_path / "probs" / "1.png").write_bytes(b"no picture")
    with pytest.raises(SegmendError, match=r"1\.png"):
        FolderCases(root / "masks", probs=tmp_path / "probs", **OPTIONS)[1]
    with pytest.raises(SegmendError, match="want a folder"):
        FolderCases(root / "masks")
    with pytest.raises(SegmendError, match="names of all 2 classes"):
        FolderCases(root / "masks", probs=root / "probs", tags={})
    with pytest.raises(SegmendError, match="did you mean 'cat'"):
        FolderCases(
            root / "masks", probs=root / "probs", classes=["nothing", "cat"],
            tags={"0": ["cta"], "1": [], "2": []},
        )  # fmt: skip


def test_the_door_takes_either(root: Path, tensors: tuple) -> None:
    probs, target, _ = tensors
    of_files = diagnose(root / "probs", root / "masks", encoding="index")
    of_tensors = diagnose(probs, target)
    assert of_files.score == of_tensors.score
    assert of_files.verdict.headline
    assert of_files.setting.source.endswith("probs")
    with pytest.raises(SegmendError, match="give all as"):
        diagnose(probs, root / "masks")
    with pytest.raises(SegmendError, match="give all as"):
        diagnose(root / "probs", target)


def test_the_room_itself_is_the_door(tensors: tuple) -> None:
    import segmend.diagnose as room

    probs, target, _ = tensors
    tagged = room(probs, target, tags=torch.ones(3, 1))
    assert tagged.score == diagnose(probs, target).score
    assert tagged.cases[0].candidates.tolist() == [True, True]


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    affine = torch.eye(4, dtype=torch.float64)
    for name in ("a", "b10", "b9"):
        probs = torch.rand(9, 8, 5, generator=generator)
        for role, voxels in (
            ("probs", probs),
            ("pred", (probs > 0.5).long()),
            ("masks", (probs + torch.rand(9, 8, 5, generator=generator) > 1).long()),
            ("images", 100 * probs - 1000),
        ):
            (tmp_path / role).mkdir(exist_ok=True)
            ending = "_0000" if role == "images" else ""
            write_volume(tmp_path / role / f"{name}{ending}.nii.gz", voxels, affine)
    return tmp_path


def test_folders_of_volumes(volumes: Path) -> None:
    found = diagnose(volumes / "probs", volumes / "masks", images=volumes / "images")
    assert found.setting.dimensions == 3
    assert [row.name for row in found.images] == ["a", "b9", "b10"]
    hard = diagnose(None, volumes / "masks", pred=volumes / "pred")
    assert hard.score == found.score
    assert found.cases is not None
    image = found.cases[0].image
    assert image is not None
    assert (image.shape, float(image.min()), float(image.max())) == ((3, 9, 8, 5), 0.0, 1.0)


def test_bad_volumes_are_named(volumes: Path) -> None:
    shifted = torch.eye(4, dtype=torch.float64)
    shifted[0, 3] = 5
    write_volume(volumes / "probs" / "b9.nii.gz", torch.zeros(9, 8, 5), shifted)
    with pytest.raises(SegmendError, match=r"probs/b9\.nii\.gz .*lie in different places"):
        diagnose(volumes / "probs", volumes / "masks")
    (volumes / "probs" / "b9.nii.gz").unlink()
    with pytest.raises(SegmendError, match="masks: 1 file"):
        VolumeCases(volumes / "masks", probs=volumes / "probs")
    assert len(VolumeCases(volumes / "masks", probs=volumes / "probs", partial=True)) == 2
    with pytest.raises(SegmendError, match="no such folder"):
        VolumeCases(volumes / "masks", pred=volumes / "none")
