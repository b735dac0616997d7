"""Exported graphs against torch in onnxruntime, at sizes they were not traced at."""

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from segmend import SegmendError
from segmend.refine.bias_field import BiasField
from segmend.refine.export import export_onnx
from segmend.refine.network import PatchRefineNet


def unlike_its_start(module: nn.Module) -> nn.Module:
    """Random weights that let an output depend on its input."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            positive = name.endswith("running_var")
            tensor.copy_(0.5 + noise.abs() if positive else tensor + 0.1 * noise)
    return module.eval()


class Thrice(nn.Module):
    """A plain module of somebody else."""

    def forward(self, maps: Tensor) -> Tensor:
        return 3 * maps


@pytest.mark.parametrize(
    ("build", "inputs", "outputs"),
    [
        (lambda: PatchRefineNet("P64", width=4), {"probs": 1}, ["global", "local"]),
        (
            lambda: BiasField(2, image_channels=3, width=2),
            {"logits": 2, "images": 3},
            ["output"],
        ),
    ],
    ids=["PatchRefineNet", "BiasField"],
)
def test_graph_equals_torch_at_any_size(tmp_path, build, inputs, outputs):
    torch.manual_seed(0)
    module = unlike_its_start(build()).train()
    path = export_onnx(module, tmp_path / "new" / "refiner.onnx", inputs=inputs, check=False)
    assert module.training  # left as it was
    assert [p.name for p in path.parent.iterdir()] == ["refiner.onnx"]
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path)
    assert [i.name for i in session.get_inputs()] == list(inputs)
    assert [o.name for o in session.get_outputs()] == outputs
    module.eval()
    for count, height, width in ((1, 64, 64), (3, 65, 40), (2, 130, 97), (1, 1, 70)):
        maps = [torch.randn(count, c, height, width).sigmoid() for c in inputs.values()]
        with torch.no_grad():
            wanted = module(*maps)
        wanted = (wanted,) if isinstance(wanted, Tensor) else wanted
        found = session.run(None, dict(zip(inputs, (m.numpy() for m in maps), strict=True)))
        for want, got in zip(wanted, found, strict=True):
            assert want.std() > 1e-2  # not a constant that any graph would meet
            torch.testing.assert_close(torch.from_numpy(got), want, atol=1e-4, rtol=1e-4)


def test_any_module_of_one_tensor_can_be_exported_over_an_older_file(tmp_path):
    path = tmp_path / "thrice.onnx"
    path.write_bytes(b"older")
    assert export_onnx(Thrice(), str(path)) == path
    maps = torch.rand(1, 1, 3, 5)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"maps": maps.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), 3 * maps)


class Reads(nn.Module):
    """Decides by values, which no graph can follow."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps if maps.sum() > 0 else -maps


class Drifts(nn.Module):
    """Gives something else at each call, as a module does that is not a function of its input."""

    calls = 0

    def forward(self, maps: Tensor) -> Tensor:
        self.calls += 1
        return maps + self.calls


@pytest.mark.parametrize(
    ("module", "message"),
    [(Reads(), "Reads cannot be exported"), (Drifts(), "differs from torch by .* not written")],
)
def test_a_failed_export_leaves_the_older_file_and_nothing_else(tmp_path, module, message):
    path = tmp_path / "refiner.onnx"
    path.write_bytes(b"older")
    with pytest.raises(SegmendError, match=message):
        export_onnx(module, path)
    assert path.read_bytes() == b"older"
    assert len(list(tmp_path.iterdir())) == 1
