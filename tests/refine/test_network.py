"""The network against the original's outputs (golden) and against loops over patches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_weights import golden_network, hashed
from torch import Tensor
from torch.nn import functional as F

from segmend import SegmendError
from segmend.refine.blocks import cell_means
from segmend.refine.network import GRIDS, PatchRefineNet, fold, unfold

GOLDEN = Path(__file__).parents[1] / "golden"
EVAL = {
    "atol": 2e-5,
    "rtol": 0.0,
}  # measured: P0 2.2e-6, P4 1.03e-5 (4.9e-6 in float64), P64 8.2e-6
TRAIN = {"atol": 3e-3, "rtol": 0.0}


def golden(variant: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"prn_forward_{variant}.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def golden_input() -> Tensor:
    return golden("P0")["input"][None, None]


def sampled(logits: Tensor | None) -> Tensor:
    assert logits is not None
    return logits.sigmoid()[0, 0, ::3, ::3]


def small(variant: str = "P64", **options: object) -> PatchRefineNet:
    """A narrow network whose running statistics are not the initial ones."""
    torch.manual_seed(3)
    network = PatchRefineNet(variant, width=4, **options)
    with torch.no_grad():
        for name, tensor in network.named_buffers():
            if name.endswith("running_mean"):
                tensor.uniform_(-0.1, 0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    return network.eval()


def probs(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5))


def test_weight_recipe_gives_its_test_vector():
    expected = [-0.904928729, -0.856073022, -0.152606362, -0.844950642]
    assert hashed("encoding.RRCNN1.Conv_1x1.weight", 4) == pytest.approx(expected, abs=1e-9)


@torch.inference_mode()
def test_p4_equals_the_original_in_both_modes():
    expected, network, maps = golden("P4"), golden_network("P4"), golden_input()
    refined = network(maps)
    torch.testing.assert_close(sampled(refined.global_), expected["out_global"], **EVAL)
    torch.testing.assert_close(sampled(refined.local), expected["out_local"], **EVAL)
    network.batch_statistics = True
    refined = network(maps)
    for output, name in ((refined.global_, "out_global"), (refined.local, "out_local")):
        trainmode = expected[f"{name}_trainmode"].float()
        torch.testing.assert_close(sampled(output), trainmode, **TRAIN)


@torch.inference_mode()
def test_p64_equals_the_original_and_its_row_bug_is_an_option():
    expected, network = golden("P64"), golden_network("P64")
    features: list[Tensor] = []
    network.encoder.register_forward_hook(lambda *call: features.extend(call[-1]))
    refined = network(golden_input())
    torch.testing.assert_close(sampled(refined.global_), expected["out_global"], **EVAL)
    local, wrong = sampled(refined.local), slice(128, 150)  # rows 384..447, every third
    regular = expected["out_local"].clone()
    assert (regular[wrong] - local[wrong]).abs().max() > 0.1
    regular[wrong] = expected["out_local_row7_regular_tiling"]
    torch.testing.assert_close(local, regular, **EVAL)
    network.reference_row_bug = True
    local = sampled(network.decode_patches(features))
    torch.testing.assert_close(local, expected["out_local"], **EVAL)


@pytest.mark.parametrize("variant", GRIDS)
def test_parameter_counts_are_the_published_ones(variant):
    network = PatchRefineNet(variant)
    assert sum(p.numel() for p in network.parameters()) == int(golden(variant)["n_params"])
    assert len(network.state_dict()) == (204 if variant == "P0" else 338)


@torch.no_grad()
@pytest.mark.parametrize("row_bug", [False, True])
def test_local_output_is_each_patch_decoded_alone(row_bug):
    network, maps = small(reference_row_bug=row_bug), probs(2, 1, 128, 192)
    features, found = network.encoder(maps), network(maps).local
    for row in range(8):
        for column in range(8):
            cut = []
            for level, size in enumerate((1, 2, 4, 8)):
                height, width = 16 // size, 24 // size
                source = 2 if row_bug and (level, row) == (1, 6) else row
                rows = slice(source * height, (source + 1) * height)
                cut.append(features[level][:, :, rows, column * width : (column + 1) * width])
            expected = network.local_decoder(cut)
            patch = found[:, :, row * 16 : row * 16 + 16, column * 24 : column * 24 + 24]
            torch.testing.assert_close(patch, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("norm", "train"), [("batch", False), ("group", False), ("group", True)])
def test_folding_patches_changes_nothing_without_batch_statistics(norm, train):
    network = small("P4", patch_norm=norm).double().train(train)
    maps = probs(2, 1, 64, 64).double()
    folded = network(maps).local
    network.fold_patches = False
    torch.testing.assert_close(network(maps).local, folded)


@torch.no_grad()
def test_folding_patches_in_train_mode_pools_their_statistics():
    network, maps = small("P4").train(), probs(1, 1, 64, 64)
    folded = network(maps).local
    network.fold_patches = False
    assert (network(maps).local - folded).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("variant", ["P0", "P4"])
def test_batch_statistics_is_train_mode_without_its_side_effects(variant):
    network, maps = small(variant, fold_patches=False).double(), probs(2, 1, 128, 128).double()
    network.train()
    one_by_one = [network(maps[i : i + 1]) for i in range(2)]
    network = small(variant, batch_statistics=True).double()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    together = network(maps)
    for i, alone in enumerate(one_by_one):
        torch.testing.assert_close(together.global_[i : i + 1], alone.global_)
        if variant != "P0":
            torch.testing.assert_close(together.local[i : i + 1], alone.local)
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


NETWORKS = {variant: small(variant) for variant in GRIDS}


@settings(max_examples=20)
@given(
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    variant=st.sampled_from(list(GRIDS)),
)
@torch.no_grad()
def test_any_size_is_the_padded_map_cropped(height, width, variant):
    network = NETWORKS[variant]
    maps = probs(1, 1, height, width)
    sides = [(0, 0), (0, 0), (0, -height % 64), (0, -width % 64)]
    padded = network(torch.from_numpy(np.pad(maps.numpy(), sides, mode="edge")))
    for found, whole in zip(network(maps), padded, strict=True):
        if variant == "P0" and whole is None:
            assert found is None
            continue
        assert found.shape == maps.shape
        assert torch.equal(found, whole[..., :height, :width])


@given(grid=st.integers(1, 4), height=st.integers(1, 3), width=st.integers(1, 3))
def test_fold_is_undone_by_unfold(grid, height, width):
    maps = probs(2, 3, grid * height, grid * width)
    patches = fold(maps, grid)
    assert torch.equal(patches[:, -1, 0], maps[:, :, -height:, :width])
    assert torch.equal(unfold(patches), maps)


@pytest.mark.parametrize("cells", [1, 2, 4, 8])
def test_cell_means_is_adaptive_average_pooling(cells):
    maps = probs(2, 3, 16, 24)
    torch.testing.assert_close(cell_means(maps, cells), F.adaptive_avg_pool2d(maps, cells))


def test_training_reaches_every_parameter():
    network = PatchRefineNet("P4", in_channels=2, width=2).train()
    refined = network(probs(1, 2, 64, 64))
    (refined.global_.sum() + refined.local.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "P16"}, r"variant: want one of P0, P4, P64, got 'P16'"),
        ({"in_channels": 0}, "in_channels: want a number >= 1, got 0"),
        ({"width": 3}, "width: want an even number >= 2, got 3"),
        ({"patch_norm": "layer"}, "patch_norm: want 'batch' or 'group', got 'layer'"),
        ({"variant": "P4", "reference_row_bug": True}, "reference_row_bug: only P64"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(SegmendError, match=message):
        PatchRefineNet(**options)


@pytest.mark.parametrize(
    "maps", [torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8), torch.zeros(1, 1, 8, 8).long()]
)
def test_wrong_input_names_what_came(maps):
    with pytest.raises(SegmendError, match=r"probs: want float \(N, 1, H, W\), got torch\.\w+ \("):
        NETWORKS["P0"](maps)


@pytest.mark.parametrize("shape", [(1, 1, 0, 8), (1, 1, 8, 0)])
def test_empty_maps_are_refused(shape):
    with pytest.raises(SegmendError, match="want at least one pixel"):
        NETWORKS["P0"](torch.zeros(shape))
