"""The plain network beside the one that draws has its say in which class shows where."""

import pytest
import torch
from PIL import Image

from segmend import SegmendError
from segmend.data.scenes import write_scenes
from segmend.data.tags import TagFolder
from segmend.tags.activation import share_classes
from segmend.tags.cam_files import read_cams
from segmend.tags.classifier_files import TAGGER, load_classifier
from segmend.tags.inference import image_maps
from segmend.tags.jobs import draw_cams, train_tags
from segmend.tags.options import CamOptions, TagOptions

ONE_SCALE = CamOptions(scales=(1.0,))


def train(folder, items):
    shaped = TagOptions(epochs=1, crop=64, threads=1, fsl_weight=1, tagger=True)
    train_tags(shaped, items, folder / "net", progress=False)
    return items, folder / "net"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("share")
    write_scenes(folder / "data", 12, size=(64, 64), num_classes=4, seed=0)
    return train(folder, TagFolder(folder / "data", with_masks=False))


@pytest.fixture(scope="module")
def without_background(trained, tmp_path_factory):
    """The same images and tags, where every class can be tagged."""
    folder, items = tmp_path_factory.mktemp("stuff"), trained[0]
    names = items.classes[1:]
    rows = ["image,tags"]
    for index, name in enumerate(items.names):
        Image.fromarray((items[index]["image"].permute(1, 2, 0) * 255).byte().numpy()).save(
            folder / f"{name}.png"
        )
        tags = items.tags(index).nonzero().flatten().tolist()
        rows.append(f"{name}.png,{';'.join(names[t] for t in tags)}")
    (folder / "tags.csv").write_text("\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("\n".join(names) + "\n")
    return train(folder, TagFolder(folder))


def drawn(trained, out, share):
    items, net = trained
    options = ONE_SCALE.model_copy(update={"plain_share": share})
    return [read_cams(p) for p in draw_cams(options, net, items, out, progress=False)]


def test_it_has_its_say_where_an_image_has_several_tags(trained, tmp_path):
    items, net = trained
    alone, shared = (drawn(trained, tmp_path / str(share), share) for share in (0.0, 0.5))
    networks = [load_classifier(folder).model for folder in (net, net / TAGGER)]
    several = [int(items.tags(i).sum()) > 1 for i in range(len(items))]
    assert 0 < sum(several) < len(several)
    for index, more in enumerate(several):
        want = alone[index].dense()
        if more:
            tags = items.tags(index)
            maps = [
                image_maps(network, items[index]["image"], scales=(1.0,), tags=tags).cams[None]
                for network in networks
            ]
            want = share_classes(*maps, tags[None], share=0.5)[0]
        torch.testing.assert_close(shared[index].dense(), want, rtol=2e-3, atol=2e-3)  # float16
        torch.testing.assert_close(shared[index].scores, alone[index].scores)
    assert any(not torch.equal(a.cams, b.cams) for a, b in zip(alone, shared, strict=True))


def test_auto_is_half_a_say_without_a_background_class_and_none_with_one(
    trained, without_background, tmp_path
):
    for data, share, background in ((trained, 0.0, 0), (without_background, 0.5, None)):
        assert data[0].background == background
        out = tmp_path / str(share)
        plainly, auto = (drawn(data, out / str(s), s) for s in (share, "auto"))
        assert all(torch.equal(a.cams, b.cams) for a, b in zip(plainly, auto, strict=True))
    alone = drawn(without_background, tmp_path / "alone", 0.0)
    assert any(not torch.equal(a.cams, b.cams) for a, b in zip(alone, auto, strict=True))


def test_a_run_of_one_network_has_none_to_ask(trained, tmp_path):
    items, net = trained
    one = net / TAGGER
    with pytest.raises(SegmendError, match=r"tagger: plain_share is 0\.5, but the run holds one"):
        drawn((items, one), tmp_path / "one", 0.5)
    assert not (tmp_path / "one").exists()
    assert len(drawn((items, one), tmp_path / "auto", "auto")) == len(items)
