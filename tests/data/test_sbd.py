"""SBD's MATLAB files become the masks and the list of VOC's augmented split."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from segmend.cli import main
from segmend.data.check import check_dataset
from segmend.data.masks import read_mask, write_mask
from segmend.data.sbd import read_sbd, write_sbd
from segmend.data.tags import TagFolder
from segmend.data.voc import VOCFolder
from segmend.errors import SegmendError
from tests_support import run_command

SIZE = (6, 9)


def labels_of(seed):
    return torch.randint(0, 21, SIZE, generator=torch.Generator().manual_seed(seed))


def write_mat(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"Segmentation": labels.numpy().astype(np.uint8), "CategoriesPresent": [1]}
    savemat(path, {"GTcls": content}, do_compression=True)


@pytest.fixture
def voc(tmp_path):
    """Two images with VOC's own masks in train, one in val; SBD has those and two more."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for seed, name in enumerate(("a", "b", "v", "s1", "s2", "untouched")):
        pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
        if name in "abv":
            own = labels_of(seed)
            own[0, 0] = 255
            write_mask(root / "SegmentationClass" / f"{name}.png", own, encoding="palette")
        if name != "untouched":
            write_mat(
                tmp_path / "benchmark_RELEASE/dataset/cls" / f"{name}.mat", labels_of(seed + 9)
            )
    (root / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("v\n")
    return root


@pytest.mark.parametrize("inner", ["", "dataset", "dataset/cls"])
def test_the_augmented_split_is_vocs_own_masks_and_sbds_of_the_rest(voc, inner):
    names = write_sbd(voc, voc.parent / "benchmark_RELEASE" / inner)
    assert names == ["a", "b", "s1", "s2"]
    data = VOCFolder(voc, "train_aug")
    assert data.labels == "SegmentationClassAug"
    assert data.names == names
    own = VOCFolder(voc, "train")
    assert torch.equal(data[0]["target"], own[0]["target"])  # VOC's own, void included
    assert torch.equal(data[2]["target"], labels_of(3 + 9))
    assert torch.equal(
        read_mask(voc / "SegmentationClassAug/v.png", num_classes=21, encoding="index")[1:],
        labels_of(2)[1:],
    )


def test_the_written_set_passes_the_check_and_gives_tags(voc):
    write_sbd(voc, voc.parent / "benchmark_RELEASE")
    report = check_dataset(voc, labels="SegmentationClassAug")
    assert report.num_errors == 0, report.problems
    items = TagFolder(voc, split="train_aug", tags="masks")
    shown = set(labels_of(12).unique().tolist()) - {0}
    assert set((items.tags(2).nonzero().flatten() + 1).tolist()) == shown


def test_a_second_run_reads_no_mat_again(voc):
    calls = []
    write_sbd(voc, voc.parent / "benchmark_RELEASE", on_image=lambda *done: calls.append(done))
    assert calls[-1] == (5, 5)
    source = voc.parent / "benchmark_RELEASE/dataset/cls/s1.mat"
    source.write_bytes(b"broken meanwhile")
    assert write_sbd(voc, voc.parent / "benchmark_RELEASE") == ["a", "b", "s1", "s2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no matlab file at all", "cannot be read as a MATLAB file"),
        (b"", "cannot be read as a MATLAB file"),
        ({"GTinst": {"Segmentation": np.zeros((2, 2))}}, "want SBD's GTcls.Segmentation"),
        ({"GTcls": {"Other": np.zeros((2, 2))}}, "want SBD's GTcls.Segmentation"),
        ({"GTcls": {"Segmentation": np.full((2, 2), 21)}}, r"labels \[21\]; want"),
        ({"GTcls": {"Segmentation": np.full((2, 2), 0.5)}}, r"labels \[0\.5\]; want"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, words):
    path = tmp_path / "x.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    with pytest.raises(SegmendError, match=words) as error:
        read_sbd(path)
    assert "x.mat" in str(error.value)


def test_a_mask_of_another_size_than_its_image_is_named_and_no_list_is_written(voc):
    path = voc.parent / "benchmark_RELEASE/dataset/cls/s2.mat"
    write_mat(path, labels_of(0)[:3])
    with pytest.raises(
        SegmendError, match=r"s2\.mat: labels of \(3, 9\), but .*s2\.jpg is \(6, 9\)"
    ):
        write_sbd(voc, voc.parent / "benchmark_RELEASE")
    assert not (voc / "ImageSets/Segmentation/train_aug.txt").exists()


def test_a_mask_without_its_image_is_named(voc):
    write_mat(voc.parent / "benchmark_RELEASE/dataset/cls/lost.mat", labels_of(0))
    with pytest.raises(SegmendError, match=r"lost\.mat: VOC's JPEGImages has no image"):
        write_sbd(voc, voc.parent / "benchmark_RELEASE")


def test_a_folder_without_annotations_is_refused(voc, tmp_path):
    with pytest.raises(SegmendError, match="want SBD's benchmark_RELEASE"):
        write_sbd(voc, tmp_path)


def test_the_command_says_how_many_there_are(voc, monkeypatch):
    monkeypatch.setitem(main.COMMANDS, "data sbd", ("segmend.cli.data_sbd:sbd", "SBD."))
    done = run_command("data", "sbd", voc, "--from", voc.parent / "benchmark_RELEASE")
    assert done.exit_code == 0, done.output
    assert "4 images in the list train_aug" in done.output
    assert len(TagFolder(voc, split="train_aug", tags="masks")) == 4
