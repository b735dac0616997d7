"""Pairing files by name: layouts met in the wild, and what must not be paired."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmend.data.matching import STEM_SUFFIXES, match_folders, natural_key
from segmend.errors import SegmendError


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def pairs(tmp_path: Path, images: list[str], masks: list[str], **options) -> dict[str, list[str]]:
    folders = {
        "images": fill(tmp_path / "i", *images),
        "masks": fill(tmp_path / "m", *masks),
    }
    return {
        match.name: [
            match.paths[role].relative_to(folders[role]).as_posix() for role in ("images", "masks")
        ]
        for match in match_folders(folders, **options)
    }


@pytest.mark.parametrize("ending", STEM_SUFFIXES)
@pytest.mark.parametrize("mark", ["_", "-"])
def test_every_ending_is_taken_off(tmp_path: Path, ending: str, mark: str) -> None:
    want = {"a": ["a.jpg", f"a{mark}{ending.upper()}.png"]}
    assert pairs(tmp_path, ["a.jpg"], [f"a{mark}{ending.upper()}.png"]) == want


@pytest.mark.parametrize(
    ("images", "masks", "want"),
    [
        (["a.jpg"], ["a.png"], {"a": ["a.jpg", "a.png"]}),
        (["1_sat.jpg"], ["1_mask.png"], {"1": ["1_sat.jpg", "1_mask.png"]}),
        (["x_0000.png"], ["x.png"], {"x": ["x_0000.png", "x.png"]}),
        (["v/a.png", "w/a.png"], ["w/a_gt.bmp", "v/a_gt.bmp"],
         {"v/a": ["v/a.png", "v/a_gt.bmp"], "w/a": ["w/a.png", "w/a_gt.bmp"]}),
        # Both an equal and a stripped stem would do: the equal one wins, the order plays no role.
        (["a_mask.png", "a.png"], ["a_mask.png", "a_mask_mask.png"],
         {"a_mask": ["a_mask.png", "a_mask.png"]}),
        # The image is really called so; its mask has the ending once more.
        (["a_mask.png"], ["a_mask_mask.png"], {"a_mask": ["a_mask.png", "a_mask_mask.png"]}),
        (["A.PNG"], ["A.Tif"], {"A": ["A.PNG", "A.Tif"]}),
        (["a.b.c.png"], ["a.b.c_seg.npy"], {"a.b.c": ["a.b.c.png", "a.b.c_seg.npy"]}),
        (["_mask.png"], ["_mask.png"], {"_mask": ["_mask.png", "_mask.png"]}),
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, images, masks, want) -> None:
    assert pairs(tmp_path, images, masks, partial=True) == want


def test_only_one_ending_is_taken_off_where_two_files_would_collide(tmp_path: Path) -> None:
    with pytest.raises(SegmendError, match=r"a_gt\.png and a_mask\.png both fit 'a'"):
        pairs(tmp_path, ["a.png"], ["a_mask.png", "a_gt.png"])


def test_three_roles_with_endings_of_their_own(tmp_path: Path) -> None:
    folders = {
        "images": fill(tmp_path / "i", "s/7.jpg"),
        "masks": fill(tmp_path / "m", "s/7_mask.png"),
        "probs": fill(tmp_path / "p", "s/7_prob.npz"),
    }
    (match,) = match_folders(folders)
    assert match.name == "s/7"
    assert {role: path.name for role, path in match.paths.items()} == {
        "images": "7.jpg", "masks": "7_mask.png", "probs": "7_prob.npz",
    }  # fmt: skip


def test_one_folder_keeps_its_names(tmp_path: Path) -> None:
    matches = match_folders({"images": str(fill(tmp_path, "b_0000.png", "a_mask.png"))})
    assert [match.name for match in matches] == ["a_mask", "b_0000"]


def test_natural_order(tmp_path: Path) -> None:
    matches = match_folders(
        {"images": fill(tmp_path, "i10.png", "i9.png", "i1.png", "i.png", "b/2.png")}
    )
    assert [match.name for match in matches] == ["b/2", "i", "i1", "i9", "i10"]


@given(st.lists(st.text("aé1²٣/0_", max_size=4), unique=True))
def test_natural_order_is_total(names: list[str]) -> None:
    want = sorted(names, key=natural_key)
    names.reverse()
    assert sorted(names, key=natural_key) == want


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_natural_order_counts(first: int, second: int) -> None:
    assert (natural_key(f"a{first}b") < natural_key(f"a{second}b")) == (first < second)


stems = st.text("ab1_-é日 .", min_size=1, max_size=6).filter(
    lambda s: s.strip(". ") == s and not s.startswith(".")
)


@given(st.sets(stems, min_size=1, max_size=6), st.sampled_from(["", "_mask", "_gt"]))
def test_any_names_find_their_own_partner(tmp_path_factory, names: set[str], ending: str) -> None:
    names = {unicodedata.normalize("NFC", name) for name in names}
    got = pairs(
        tmp_path_factory.mktemp("match"),
        [f"{name}.png" for name in names],
        [f"{name}{ending}.tif" for name in names],
    )
    assert got == {name: [f"{name}.png", f"{name}{ending}.tif"] for name in names}


def test_composed_and_decomposed_unicode_are_one_name(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Käse_日本") for form in ("NFC", "NFD"))
    assert composed != decomposed
    got = pairs(tmp_path, [f"{composed}.png"], [f"{decomposed}_mask.png"])
    assert got == {composed: [f"{composed}.png", f"{decomposed}_mask.png"]}


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    names = ["a.png", ".b.png", "._a.png", ".git/c.png", "notes.txt", "Thumbs.db"]
    assert pairs(tmp_path, names, ["a.png", "dataset.json"]) == {"a": ["a.png", "a.png"]}


@pytest.mark.parametrize(("role", "want"), [("probs", "a.npz"), ("pred", "a.png")])
def test_nnunet_writes_map_and_segmentation_side_by_side(tmp_path, role: str, want: str) -> None:
    folder = fill(tmp_path / "p", "a.png", "a.npz", "a.pkl")
    (match,) = match_folders({role: folder})
    assert match.paths[role].name == want


def test_missing_partners_are_counted_and_named(tmp_path: Path) -> None:
    images = [f"{i}.jpg" for i in range(12)]
    with pytest.raises(SegmendError) as caught:
        pairs(tmp_path, images, ["0.png", "lost.png"])
    text = str(caught.value)
    assert "1 items are complete" in text
    assert f"images ({tmp_path / 'i'}): 11: 1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg, ..." in text
    assert f"masks ({tmp_path / 'm'}): 1: lost.png\n" in text
    assert "6.jpg" not in text
    assert pairs(tmp_path, images, [], partial=True) == {"0": ["0.jpg", "0.png"]}


def test_no_partner_at_all_is_an_error_even_when_partial(tmp_path: Path) -> None:
    with pytest.raises(SegmendError, match="no file has a partner of the same stem in every"):
        pairs(tmp_path, ["a.png"], ["b.png"], partial=True)


@pytest.mark.parametrize(
    "names",
    [
        ["a.png", "a.tif"],
        [f"{unicodedata.normalize(form, 'é')}.png" for form in ("NFC", "NFD")],
    ],
)
def test_duplicate_stems_name_both_files(tmp_path: Path, names: list[str]) -> None:
    folder = fill(tmp_path, *names)
    with pytest.raises(SegmendError, match=r"images: two files have the stem '.': .* and ") as info:
        match_folders({"images": folder})
    assert all(str(folder / name) in str(info.value) for name in names)


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "other", "a.docx", "b.npz")
    fill(tmp_path, "file")
    for name, text in [
        ("none", "no such folder"),
        ("file", "is a file; want a folder"),
        ("empty", r"no file to read \(it is empty\); want \.png, \.jpg"),
        ("other", r"no file to read \(only \.docx, \.npz\)"),
    ]:
        with pytest.raises(SegmendError, match=rf"images: .*{name}: {text}"):
            match_folders({"images": tmp_path / name})
    with pytest.raises(SegmendError, match="want one or more, got none"):
        match_folders({})


def test_images_are_not_their_own_masks(tmp_path: Path) -> None:
    folder = fill(tmp_path / "i", "a_sat.png", "a_mask.png")
    with pytest.raises(SegmendError, match="folder of both images and masks"):
        match_folders({"images": folder, "masks": tmp_path / "i" / ".." / "i"})
    assert len(match_folders({"pred": folder, "masks": folder})) == 2
