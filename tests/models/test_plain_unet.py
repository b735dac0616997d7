"""The plain U-Net: sizes, heads, forward-mode derivatives, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, jvp

from segmend.errors import SegmendError
from segmend.models.plain_unet import PlainUNet


@settings(max_examples=12)
@given(st.integers(2, 3), st.data())
def test_any_size_comes_back(dimensions: int, data: st.DataObject) -> None:
    size = (*(data.draw(st.integers(1, 13)) for _ in range(dimensions - 1)), 9)
    network = PlainUNet(2, 3, widths=(2, 3, 4), dimensions=dimensions)
    assert network(torch.randn(2, 2, *size)).shape == (2, 3, *size)


def test_deep_supervision_gives_every_stage_in_training_only() -> None:
    network = PlainUNet(1, 3, widths=(2, 3, 4, 5), deep_supervision=True)
    assert [tuple(z.shape[2:]) for z in network(torch.randn(1, 1, 18, 16))] == [
        (18, 16),
        (9, 8),
        (5, 4),
    ]
    network.eval()
    assert network(torch.randn(1, 1, 18, 16)).shape == (1, 3, 18, 16)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_forward_mode_equals_differences(dimensions: int) -> None:
    torch.manual_seed(0)
    network = PlainUNet(1, 2, widths=(2, 3), dimensions=dimensions).double()
    images = torch.randn(1, 1, *([6] * dimensions), dtype=torch.float64)
    weights = {k: v.detach() for k, v in network.named_parameters()}
    tangents = {k: torch.randn_like(v) for k, v in weights.items()}

    def run(w: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(network, w, (images,))

    step = 1e-6
    above, below = (
        run({k: v + s * step * tangents[k] for k, v in weights.items()}) for s in (1, -1)
    )
    found = jvp(run, (weights,), (tangents,))[1]
    torch.testing.assert_close(found, (above - below) / (2 * step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "says"), [((1, 1, 8), "want"), ((1, 2, 8, 8), "1 channels"), ((1, 1, 4, 4), "larger")]
)
def test_images_that_do_not_fit(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(SegmendError, match=says):
        PlainUNet(1, 2, widths=(2, 3, 4))(torch.zeros(shape))


def test_no_such_network() -> None:
    with pytest.raises(SegmendError, match="dimensions"):
        PlainUNet(1, 2, dimensions=1)  # type: ignore[arg-type]
    with pytest.raises(SegmendError, match="two widths"):
        PlainUNet(1, 2, widths=(8,))
