"""The background score that is chosen without a mask."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segmend.data.images import write_image
from segmend.data.masks import read_mask
from segmend.data.tags import TagFolder
from segmend.errors import SegmendError, SegmendWarning
from segmend.tags.affinity_jobs import AffinityOptions, label_backgrounds, suggest_labels
from segmend.tags.background_choice import (
    CONSTANTS,
    colour_clusters,
    mutual_information,
    settle_background,
    steadied,
)
from segmend.tags.cam_files import write_cams
from segmend.tags.options import MaskOptions

SIZE = (40, 48)


def by_hand(colours, foreground):
    """Entropies from counted pairs: H(colour) + H(foreground) - H(both)."""

    def entropy(values):
        shares = [values.count(v) / len(values) for v in set(values)]
        return -sum(p * math.log(p) for p in shares)

    pairs = list(zip(colours, foreground, strict=True))
    return entropy(colours) + entropy(foreground) - entropy(pairs)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=60))
def test_information_is_that_of_counted_pairs(pairs):
    colours, foreground = (list(x) for x in zip(*pairs, strict=True))
    found = mutual_information(torch.tensor([colours]), torch.tensor([foreground]))
    assert found == pytest.approx(by_hand(colours, foreground), abs=1e-9)


def test_a_mask_of_one_colour_tells_all_and_one_across_colours_nothing():
    colours = torch.arange(16).view(1, 16) // 8
    assert mutual_information(colours, colours == 1) == pytest.approx(math.log(2))
    across = (torch.arange(16).view(1, 16) % 2).bool()
    assert mutual_information(colours, across) == pytest.approx(0, abs=1e-12)


def test_colours_of_an_image_are_told_apart():
    image = torch.zeros(3, *SIZE)
    image[0, :, :20] = 0.9
    image[1, :10] = 0.8
    clusters = colour_clusters(image)
    assert clusters.shape == SIZE
    assert len(clusters.unique()) == 4
    for colour in clusters.unique():
        assert len(image[:, clusters == colour].unique(dim=1).T) == 1


def test_noise_has_as_many_colours_as_are_asked_for():
    image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))
    assert len(colour_clusters(image, clusters=5).unique()) == 5


@given(hnp.arrays(float, st.tuples(st.integers(1, 6), st.integers(2, 7)),
                  elements=st.just(0.0) | st.floats(1e-6, 3)), st.floats(0.1, 10))  # fmt: skip
def test_votes_weigh_images_alike_and_neighbours_by_half(rows, factor):
    found = steadied(rows)
    heard = [row / row.max() for row in rows if row.max() > 0]
    shares = [sum(row[i] for row in heard) / max(1, len(heard)) for i in range(rows.shape[1])]
    ends = [shares[0], *shares, shares[-1]]
    by_hand = [(ends[i] + 2 * ends[i + 1] + ends[i + 2]) / 4 for i in range(len(shares))]
    np.testing.assert_allclose(found, by_hand, atol=1e-12)
    louder = rows.copy()
    louder[0] *= factor  # an image of which masks tell more has no more to say
    np.testing.assert_allclose(steadied(louder), found, atol=1e-6)


def test_without_images_nothing_is_told():
    assert steadied(np.zeros((0, 3))).tolist() == [0, 0, 0]


def disks(folder, *, fall):
    """Red disks on green, and maps that fall off from their centres: exp(-fall r / radius)."""
    rows, cols = torch.meshgrid(*(torch.arange(n) for n in SIZE), indexing="ij")
    table = ["image,tags"]
    for number in range(3):
        distance = torch.hypot(rows - 16.0 - 3 * number, cols - 20.0 - 4 * number) / 10
        image = torch.full((3, *SIZE), 0.2)
        image[1] = 0.6
        image[0] = torch.where(distance < 1, 0.9, 0.2)
        image += 0.03 * torch.randn(image.shape, generator=torch.Generator().manual_seed(number))
        write_image(folder / f"set/{number}.png", image.clamp(0, 1))
        maps = torch.exp(-fall * distance)[None]
        scores = torch.tensor([2.0])
        write_cams(folder / f"cams/{number}.npz", maps, torch.ones(1), scores, SIZE)
        table.append(f"{number}.png,disk")
    (folder / "set/tags.csv").write_text("\n".join(table) + "\n")
    return TagFolder(folder / "set")


@pytest.mark.parametrize("constant", [0.01, 0.05, 0.2])
def test_the_constant_at_the_objects_outline_is_found(tmp_path, constant):
    items = disks(tmp_path, fall=-math.log(constant))
    options = MaskOptions(refine="none", normalisation="max")
    found = settle_background(options, tmp_path / "cams", items, tmp_path, progress=False)
    assert found == options.model_copy(update={"constant": constant})
    told = json.loads((tmp_path / "background.json").read_text())["information"]
    assert [float(value) for value in told] == list(CONSTANTS)
    assert max(told, key=told.get) == str(constant)


def test_masks_of_one_label_whatever_the_score_are_warned_of(tmp_path):
    items = disks(tmp_path, fall=0.0)
    options = MaskOptions(refine="none", normalisation="max")
    with pytest.warns(SegmendWarning, match="each mask is all of one label"):
        settle_background(options, tmp_path / "cams", items, tmp_path, progress=False)
    assert not any(json.loads((tmp_path / "background.json").read_text())["information"].values())


def test_a_given_score_is_left_and_one_chosen_before_is_taken(tmp_path):
    items = disks(tmp_path, fall=3.0)
    for options in (MaskOptions(constant=0.4), MaskOptions(power=4)):
        given_ = settle_background(options, tmp_path / "cams", items, tmp_path, progress=False)
        assert given_ == options
        assert not (tmp_path / "background.json").exists()
    (tmp_path / "background.json").write_text('{"constant": 0.123}')
    chosen = settle_background(MaskOptions(), tmp_path / "none", items, tmp_path, progress=False)
    assert chosen.constant == 0.123
    settle_background(MaskOptions(constant=0.4), tmp_path / "cams", items, tmp_path)
    assert not (tmp_path / "background.json").exists(), "says what no longer holds"


def test_a_broken_record_of_the_choice_is_named(tmp_path):
    items = disks(tmp_path, fall=3.0)
    (tmp_path / "background.json").write_text('{"constant": 0.1')
    with pytest.raises(SegmendError, match=r"background\.json: not readable"):
        settle_background(MaskOptions(), tmp_path / "cams", items, tmp_path, progress=False)


@pytest.mark.parametrize(("method", "names"), [("affinitynet", ("low_power", "high_power")),
                                               ("irn", ("strict", "lenient"))])  # fmt: skip
def test_backgrounds_of_affinity_labels_are_the_published_ones_at_the_published_level(
    method, names
):
    published = {"low_power": 4, "high_power": 32, "strict": 0.3, "lenient": 0.05}
    found = label_backgrounds(0.123 if method == "affinitynet" else 0.15)
    for name in names:
        assert found[name] == pytest.approx(published[name], rel=0.01)


@given(st.floats(0, 1))
def test_backgrounds_of_affinity_labels_are_in_order_at_any_level(constant):
    found = label_backgrounds(constant)
    assert 0 < found["low_power"] < found["high_power"] < math.inf
    assert 0 <= found["lenient"] <= found["strict"] <= 1


def test_labels_of_steep_maps_still_name_the_object(tmp_path):
    """Published powers would call all but a steep map's peak background or unsure."""
    items = disks(tmp_path, fall=-math.log(0.02))
    shares = {}
    for name, powers in {"open": {}, "published": {"low_power": 4.0, "high_power": 32.0}}.items():
        paths = suggest_labels(
            AffinityOptions(**powers), tmp_path / "cams", items, tmp_path / name, progress=False
        )
        labels = [read_mask(path, num_classes=2, encoding="index") for path in paths]
        shares[name] = float(torch.stack(labels).eq(1).float().mean())
    disk = math.pi * 100 / (SIZE[0] * SIZE[1])
    assert shares["open"] > 0.5 * disk > shares["published"]
