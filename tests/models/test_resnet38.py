"""The wide ResNet-38: its published structure, and weights that load by name."""

import pytest
import torch

from segmend import SegmendError
from segmend.models.backbone_weights import load_backbone
from segmend.models.backbones import build_backbone
from segmend.models.resnet38 import ResNet38
from segmend.tags.network import build_classifier

# Wu et al., table 1, model A1: (units, convolutions of a unit as (in, out, side)); the first
# convolution of a stage's later units takes what the stage gives.
STAGES = [(3, 64, 128, 128), (3, 128, 256, 256), (6, 256, 512, 512), (3, 512, 512, 1024)]
BOTTLENECKS = [(1024, 512, 1024, 2048), (2048, 1024, 2048, 4096)]


def counted():
    total = 3 * 64 * 9
    for units, channels, middle, out in STAGES:
        total += channels * out  # beside
        for unit in range(units):
            first = out if unit else channels
            total += 9 * (first * middle + middle * out) + 2 * (first + middle)
    for channels, middle, inner, out in BOTTLENECKS:
        total += channels * middle + 9 * middle * inner + inner * out + channels * out
        total += 2 * (channels + middle + inner)
    return total + 2 * 4096


def test_parameters_are_those_of_the_table():
    with torch.device("meta"):
        network = ResNet38()
    found = sum(p.numel() for p in network.parameters())
    assert found == counted() == 105_070_912  # the latter from the network that this field shares
    assert "b5_2.conv_branch2b1.weight" in network.state_dict()
    assert "b7.bn_branch2b2.running_mean" in network.state_dict()


def test_levels_have_the_strides_and_channels_that_methods_take():
    with torch.device("meta"):
        network = ResNet38()
        levels = network(torch.zeros(1, 3, 64, 48))
    assert [tuple(x.shape[1:]) for x in levels] == [
        (128, 32, 24), (256, 16, 12), (512, 8, 6), (1024, 8, 6), (4096, 8, 6),
    ]  # fmt: skip
    assert [levels[i].shape[1] for i in network.correlated] == [512, 1024]


def test_dilation_keeps_what_strides_would_have_seen():
    """A pixel reaches as far as published: 3x3 kernels of dilations 1, 2 and 4 at stride 8."""
    network = ResNet38(width=1 / 32).eval()
    image = torch.rand(1, 3, 8, 648, requires_grad=True)
    network(image)[3][0, :, 0, 40].sum().backward()  # conv5: stages 2 to 5
    reach = image.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    # per unit two kernels; pixels to each side: stage by stage, spacing times dilation
    wide = (
        1
        + (1 + 2 + 2 * 2 * 2)
        + (2 + 4 + 2 * 2 * 4)
        + (4 + 8 + 5 * 2 * 8)
        + 8 * (1 + 2 + 2 * 2 * 2)
    )
    assert int(reach.max()) - 40 * 8 <= wide
    assert int(reach.max()) - 40 * 8 > wide // 2


def test_statistics_of_batch_norm_stay_in_training():
    network = ResNet38(width=1 / 32).train()
    before = network.bn7.running_mean.clone()
    network(torch.rand(2, 3, 16, 16))
    assert torch.equal(network.bn7.running_mean, before)
    assert network.b7.dropout_2b1.training


@pytest.fixture
def small():
    torch.manual_seed(0)
    return ResNet38(width=1 / 32)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_of_weights_loads_by_name_and_its_head_stays_out(small, tmp_path, wrapped):
    state = {**small.state_dict(), "fc8.weight": torch.zeros(1, 1)}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}  # MXNet
    path = tmp_path / "weights.pth"
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}} if wrapped else state, path
    )
    other = load_backbone(ResNet38(width=1 / 32), path)
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(other.eval()(images)[-1], small.eval()(images)[-1])


def test_a_file_that_does_not_fit_is_named(small, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"conv1a.weight": torch.zeros(1)}, path)
    with pytest.raises(SegmendError, match=r"weights\.pth: lacks \d+ of"):
        load_backbone(small, path)
    torch.save({**small.state_dict(), "conv1a.weight": torch.zeros(1)}, path)
    with pytest.raises(SegmendError, match=r"conv1a\.weight has shape \(1,\)"):
        load_backbone(small, path)
    path.write_bytes(b"\x80\x02not a pickle")
    with pytest.raises(SegmendError, match="not readable as a file of weights"):
        load_backbone(small, path)
    with pytest.raises(SegmendError, match="an existing file"):
        build_backbone("resnet38", weights=str(tmp_path / "nothing.pth"))


def test_a_file_for_a_model_of_timm(tmp_path):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=7)
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    backbone = build_backbone("resnet10t", output_stride=16, weights=str(path))
    found = dict(backbone.model.named_parameters())
    assert torch.equal(found["conv1.0.weight"], model.conv1[0].weight)
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    vit = tmp_path / "vit.pth"
    torch.save({"blocks.0.norm1.weight": torch.zeros(1)}, vit)
    with pytest.raises(SegmendError, match=r"vit\.pth: the weights do not fit test_vit"):
        build_classifier("test_vit", num_classes=2, weights=str(vit))


@pytest.mark.parametrize("options", [{"weights": "hub"}, {"weights": "none", "output_stride": 16}])
def test_what_it_cannot_be(options):
    with pytest.raises(SegmendError, match="resnet38: has stride 8"):
        build_backbone("resnet38", **options)
