"""Importing checkpoints: synthetic ones with the original's names, and what is not one."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_weights import reference_state

from segmend import SegmendError
from segmend.refine.network import PatchRefineNet
from segmend.refine.reference import import_reference, reference_name

GOLDEN = Path(__file__).parents[1] / "golden" / "prn_forward_P0.npz"
P0 = reference_state("P0")
NORM = "encoding.RRCNN1.RCNN.0.conv.1"


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@torch.inference_mode()
def test_an_imported_network_gives_the_original_outputs_in_both_modes(tmp_path):
    file = np.load(GOLDEN)
    network = import_reference(saved(tmp_path / "weights.th", P0))
    assert network.variant == "P0"
    assert not network.training
    for batch_statistics, name, atol in (
        (False, "out_global", 2e-5),
        (True, "out_global_trainmode", 3e-3),
    ):
        network.batch_statistics = batch_statistics
        found = network(torch.from_numpy(file["input"])[None, None]).global_.sigmoid()
        expected = torch.from_numpy(file[name]).float()
        torch.testing.assert_close(found[0, 0, ::3, ::3], expected, atol=atol, rtol=0)


@pytest.mark.parametrize("variant", ["P4", "P64"])
def test_every_tensor_arrives_under_our_name(tmp_path, variant):
    state = reference_state(variant)
    assert len(state) == 338
    network = import_reference(saved(tmp_path / "weights.th", state))
    assert network.variant == variant
    assert network.batch_statistics
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[reference_name(name, variant)])


def test_names_are_the_original_ones():
    # Written out by hand, one of each kind, from the description of the file format.
    expected = {
        "encoder.stages.2.project.weight": "encoding.RRCNN3.Conv_1x1.weight",
        "encoder.stages.0.second.unit.norm.bias": "encoding.RRCNN1.RCNN.1.conv.1.bias",
        "encoder.pyramid.priors.3.weight": "encoding.psp.stages.3.1.weight",
        "encoder.pyramid.mix.bias": "encoding.psp.bottleneck.bias",
        "global_decoder.stages.0.up.conv.weight": "decode3_global.Up.up.1.weight",
        "local_decoder.stages.1.up.norm.bias": "decode2_local.Up.up.2.bias",
        "local_decoder.stages.2.block.project.bias": "decode1_local.Up_Conv.Conv_1x1.bias",
        "global_decoder.stages.1.gate.from_decoder.conv.weight": "decode2_global.Attn.W_g.0.weight",
        "global_decoder.stages.1.gate.from_skip.norm.weight": "decode2_global.Attn.W_x.1.weight",
        "global_decoder.stages.1.gate.score.conv.weight": "decode2_global.Attn.psi.0.weight",
        "local_decoder.head.weight": "out_local.0.weight",
    }
    assert {name: reference_name(name, "P64") for name in expected} == expected
    assert reference_name("local_decoder.head.bias", "P4") == "conv_last_local.0.bias"
    assert set(expected) < set(PatchRefineNet("P64").state_dict())


@pytest.mark.parametrize("key", ["state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappings_come_off(tmp_path, key, prefix):
    state = {prefix + name: tensor for name, tensor in P0.items()}
    content = {key: state, "epoch": 3} if key else state
    network = import_reference(saved(tmp_path / "weights.pth", content))
    assert torch.equal(network.encoder.stages[0].first.unit.norm.weight, P0[f"{NORM}.weight"])


def without(name: str) -> dict[str, torch.Tensor]:
    return {n: t for n, t in P0.items() if n != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            without(f"{NORM}.bias"),
            rf"want the 204 tensors of variant P0, got 203: 1 missing \({NORM}\.bias",
        ),
        ({**P0, "extra.weight": P0[f"{NORM}.bias"]}, r"got 205: 1 unknown \(extra\.weight\)"),
        (
            {**P0, f"{NORM}.bias": torch.zeros(31)},
            rf"{NORM}\.bias: want torch\.float32 \(32,\), got torch\.float32 \(31,\)",
        ),
        ({**P0, f"{NORM}.bias": torch.zeros(32).double()}, rf"{NORM}\.bias: .* got torch\.float64"),
        (
            {**P0, f"{NORM}.bias": torch.full((32,), torch.nan)},
            rf"{NORM}\.bias: want finite values, got 32",
        ),
        (
            {**P0, f"{NORM}.num_batches_tracked": torch.tensor(0.0)},
            r"num_batches_tracked: want torch\.int64",
        ),
        ({**P0, f"{NORM}.bias": [0.0] * 32}, rf"{NORM}\.bias: want a tensor, got list"),
        ({**P0, f"module.{NORM}.bias": torch.zeros(32)}, rf"{NORM}\.bias: there twice"),
        ({"firstconv.weight": torch.zeros(3)}, r"not a PatchRefineNet .* firstconv\.weight"),
        ({}, "want a dict of tensors .* got an empty dict"),
        ([torch.zeros(3)], "want a dict of tensors .* got list"),
    ],
)
def test_a_wrong_state_dict_is_named_with_its_tensor(tmp_path, content, message):
    path = saved(tmp_path / "wéights.th", content)
    with pytest.raises(SegmendError, match=re.escape(f"{path}: ") + ".*" + message):
        import_reference(path)


class Payload:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("whole_module", [False, True])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, whole_module):
    trap = tmp_path / "trap"
    content = PatchRefineNet("P0", width=2) if whole_module else {**P0, "epoch": Payload(trap)}
    path = saved(tmp_path / "weights.th", content)
    with pytest.raises(SegmendError, match=re.escape(str(path)) + ".*refused"):
        import_reference(path)
    assert not trap.exists()


def truncated(path: Path) -> None:
    saved(path, P0)
    path.write_bytes(path.read_bytes()[:100_000])


@pytest.mark.parametrize(
    "write",
    [
        truncated,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<html>not found</html>"),
        lambda path: path.mkdir(),
        lambda path: None,
    ],
    ids=["truncated", "empty", "html", "folder", "missing"],
)
def test_what_is_no_file_of_torch_names_the_file(tmp_path, write):
    path = tmp_path / "weights.th"
    write(path)
    with pytest.raises(SegmendError, match=re.escape(str(path))):
        import_reference(path)
