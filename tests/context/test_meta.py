"""The meta-gradient against double backward, the published values, and what it must leave alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from context_golden import NAMES, Golden, flatten, relative
from torch import Tensor, nn
from torch.func import functional_call

from segmend.context.labels import context_targets
from segmend.context.loss import context_loss, meta_objective
from segmend.context.meta import Method, meta_gradient
from segmend.errors import SegmendError
from segmend.models.plain_unet import PlainUNet

CONTEXTS, CHANNELS, RATE = 3, 4, 0.05


def small_net(norm: Callable[[int], nn.Module], out: int = CHANNELS) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        norm(4),
        nn.LeakyReLU(0.01, inplace=True),
        nn.Conv2d(4, out, 1),
    )


class Attention(nn.Module):
    """Attention over all pixels, fused where torch can."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.head = nn.Conv2d(1, 12, 1), nn.Conv2d(4, CHANNELS, 1)

    def forward(self, images: Tensor) -> Tensor:
        q, k, v = self.make(images).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1)
        return self.head(mixed.transpose(1, 2).unflatten(2, images.shape[2:]))


def with_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.Dropout2d(0.5), nn.ReLU(), nn.Conv2d(6, CHANNELS, 1)
    )


NETS: dict[str, Callable[[], nn.Module]] = {
    "instance norm": lambda: small_net(lambda c: nn.InstanceNorm2d(c, affine=True)),
    "batch norm, training": lambda: small_net(nn.BatchNorm2d),
    "batch norm, evaluation": lambda: small_net(nn.BatchNorm2d).eval(),
    "group norm": lambda: small_net(lambda c: nn.GroupNorm(2, c)),
    "attention": Attention,
    "2D U-Net": lambda: PlainUNet(1, CHANNELS, widths=(3, 4)),
    "3D U-Net": lambda: PlainUNet(1, CHANNELS, widths=(2, 3), dimensions=3),
    "deep supervision": lambda: PlainUNet(1, CHANNELS, widths=(2, 3, 4), deep_supervision=True),
}


def example(axes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    size = (10, 9, 6)[:axes]
    images = torch.randn(2, 1, *size, generator=draw, dtype=torch.float64).to(dtype)
    target = (torch.rand(2, *size, generator=draw) > 0.7).long()
    target[0, 0] = 255
    return images, target, torch.rand(2, *size, generator=draw).to(dtype)


def by_double_backward(
    model: nn.Module, generator: nn.Module, images: Tensor, target: Tensor, mask: Tensor
) -> Tensor:
    """The whole of it as autograd has it: through the virtual step, with second derivatives."""

    def run(weights: dict[str, Tensor]) -> list[Tensor]:
        buffers = {k: b.clone() for k, b in model.named_buffers()}
        found = functional_call(model, {**weights, **buffers}, (images,))
        return found if isinstance(found, list) else [found]

    weights = dict(model.named_parameters())
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        levels = run(weights)
        labels, valid = context_targets(
            target,
            generator(images).softmax(1),
            [z.shape[2:] for z in levels],
            num_classes=2,
            mask=mask,
        )
        loss = context_loss(levels, labels, valid, num_classes=2)
        slope = torch.autograd.grad(
            loss, list(weights.values()), create_graph=True, allow_unused=True
        )
        after = {
            k: w if g is None else w - RATE * g
            for (k, w), g in zip(weights.items(), slope, strict=True)
        }
        objective = meta_objective(run(after)[0], target)
        return flatten(torch.autograd.grad(objective, list(generator.parameters())))


def build(name: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, int]:
    torch.manual_seed(0)
    model = NETS[name]().to(dtype)
    axes = 3 if "3D" in name else 2
    generator = PlainUNet(1, CONTEXTS, widths=(2, 3), dimensions=3 if axes == 3 else 2).to(dtype)
    return model, generator, axes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NETS)
def test_equals_double_backward(name: str, dtype: torch.dtype) -> None:
    model, generator, axes = build(name, dtype)
    images, target, mask = example(axes, dtype)
    expected = by_double_backward(model, generator, images, target, mask)
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = meta_gradient(model, generator, images, target, inner_lr=RATE, mask=mask)
    assert found.method == "forward"
    assert relative(flatten(found.gradients), expected) < (1e-10 if dtype.itemsize == 8 else 1e-5)
    double = meta_gradient(
        model, generator, images, target, inner_lr=RATE, mask=mask, method="double"
    )
    assert relative(flatten(double.gradients), expected) < (1e-10 if dtype.itemsize == 8 else 1e-5)
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None for net in (model, generator) for p in net.parameters())


@pytest.mark.parametrize("end", ["", ".f64"])
@pytest.mark.parametrize("name", NAMES)
def test_published_values(name: str, end: str) -> None:
    golden = Golden(name)
    dtype = torch.float64 if end else torch.float32

    def found(method: Method) -> tuple[Tensor, Tensor]:
        result = meta_gradient(
            golden.network("seg", dtype),
            golden.network("gen", dtype),
            golden["x"].to(dtype),
            golden.target,
            inner_lr=float(golden["alpha"]),
            mask=golden["loss_mask"][:, 0].to(dtype),
            method=method,
        )
        return flatten(result.gradients), result.objective

    exact, objective = found("auto")
    torch.testing.assert_close(objective, golden[f"loss_val{end}"], rtol=1e-6, atol=1e-7)
    assert relative(exact, golden.flat("metagrad_exact.gen", end)) < 1e-6
    published = golden.flat("metagrad_fd.gen", end)
    assert relative(found("published")[0], published) < (1e-6 if end else 1e-4)
    assert relative(found("differences")[0], golden.flat("metagrad_exact.gen", end)) < 1e-3


def test_differences_approach_the_exact_value_on_a_smooth_network() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.Softplus(), nn.Conv2d(5, CHANNELS, 1))
    model, generator = model.double(), nn.Conv2d(1, CONTEXTS, 3, padding=1).double()
    images, target, mask = example(2, torch.float64)

    def found(method: Method) -> Tensor:
        return flatten(
            meta_gradient(
                model, generator, images, target, inner_lr=RATE, mask=mask, method=method
            ).gradients
        )

    exact = found("forward")
    coarse, fine = relative(found("published"), exact), relative(found("differences"), exact)
    assert fine < 1e-8 < coarse < 1e-2


def test_dropout_drops_the_same_in_step_and_product() -> None:
    torch.manual_seed(0)
    model, generator = with_dropout().double(), nn.Conv2d(1, CONTEXTS, 1).double()
    images, target, mask = example(2, torch.float64)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = meta_gradient(model, generator, images, target, inner_lr=RATE, mask=mask)
    assert torch.equal(torch.get_rng_state(), state)

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = model

        def forward(self, images: Tensor) -> Tensor:
            torch.set_rng_state(state)
            logits: Tensor = self.inside(images)
            return logits

    expected = by_double_backward(Frozen(), generator, images, target, mask)
    assert relative(flatten(found.gradients), expected) < 1e-10


class NoForwardMode(torch.autograd.Function):
    """Doubling, without a forward-mode formula."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        return slope * 2


class OnceOnly(torch.autograd.Function):
    """Doubling that can be gone back from once, and no more."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, slope: Tensor) -> Tensor:
        return slope * 2


class Twice:
    """Doubling as torch has it."""

    @staticmethod
    def apply(x: Tensor) -> Tensor:
        return x * 2


class Doubled(nn.Module):
    def __init__(self, function: type[torch.autograd.Function] | type[Twice]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, CHANNELS, 1)
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(nn.functional.softplus(self.function.apply(self.first(images))))
        return logits


@pytest.mark.parametrize(
    ("function", "method", "tolerance"),
    [(NoForwardMode, "double", 1e-10), (OnceOnly, "differences", 1e-6)],
)
def test_operators_without_a_mode_climb_down_and_say_so(
    function: type[torch.autograd.Function], method: str, tolerance: float
) -> None:
    torch.manual_seed(0)
    model, generator = Doubled(function).double(), nn.Conv2d(1, CONTEXTS, 1).double()
    images, target, mask = example(2, torch.float64)

    def found() -> tuple[str, Tensor]:
        result = meta_gradient(model, generator, images, target, inner_lr=RATE, mask=mask)
        return result.method, flatten(result.gradients)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        used, gradient = found()
    assert "does not allow 'forward'" in str(said[0].message)
    assert f"going on with '{method}'" in str(said[-1].message)
    assert used == method
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert found()[0] == method
    plain = copy.deepcopy(model)
    plain.function = Twice
    expected = by_double_backward(plain, generator, images, target, mask)
    assert relative(gradient, expected) < tolerance


@pytest.mark.parametrize("case", ["foreground everywhere", "mask of zero"])
def test_nothing_to_learn(case: str) -> None:
    model, generator, _ = build("instance norm", torch.float32)
    images, target, mask = example(2, torch.float32)
    if case == "mask of zero":
        mask = torch.zeros_like(mask)
    else:
        target = torch.ones_like(target)
    found = meta_gradient(model, generator, images, target, inner_lr=RATE, mask=mask)
    assert not flatten(found.gradients).any()


def test_a_head_of_weight_zero_says_nothing() -> None:
    model, generator, _ = build("deep supervision", torch.float64)
    images, target, mask = example(2, torch.float64)

    def found() -> Tensor:
        result = meta_gradient(
            model, generator, images, target, inner_lr=RATE, mask=mask, weights=(1.0, 0.0)
        )
        return flatten(result.gradients)

    before = found()
    with torch.no_grad():
        model.heads[1].weight.mul_(7)  # type: ignore[index, union-attr]
    assert torch.equal(before, found())


def test_judged_on_other_images() -> None:
    model, generator, _ = build("group norm", torch.float64)
    images, target, mask = example(2, torch.float64)
    other = torch.randn_like(images)
    found = meta_gradient(
        model,
        generator,
        images,
        target,
        inner_lr=RATE,
        mask=mask,
        outer_images=other,
        outer_target=target,
    )
    same = meta_gradient(model, generator, images, target, inner_lr=RATE, mask=mask)
    assert found.loss == same.loss
    assert relative(flatten(found.gradients), flatten(same.gradients)) > 0.01


def test_frozen_weights_do_not_step() -> None:
    model, generator, _ = build("group norm", torch.float64)
    images, target, mask = example(2, torch.float64)
    model[0].requires_grad_(False)  # type: ignore[index]
    found = meta_gradient(model, generator, images, target, inner_lr=RATE, mask=mask)
    head = nn.Sequential(*list(model)[1:])  # type: ignore[call-overload]
    features = model[0](images)  # type: ignore[index]

    class Rest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(features.clone())
            return logits

    expected = by_double_backward(Rest(), generator, images, target, mask)
    assert relative(flatten(found.gradients), expected) < 1e-10


def test_input_that_cannot_be() -> None:
    model, generator, _ = build("instance norm", torch.float32)
    images, target, _ = example(2, torch.float32)
    with pytest.raises(SegmendError, match="method"):
        meta_gradient(model, generator, images, target, inner_lr=1.0, method="magic")  # type: ignore[arg-type]
    with pytest.raises(SegmendError, match="both or neither"):
        meta_gradient(model, generator, images, target, inner_lr=1.0, outer_images=images)
    with pytest.raises(SegmendError, match="no trainable"):
        meta_gradient(
            copy.deepcopy(model).requires_grad_(False), generator, images, target, inner_lr=1
        )
    with pytest.raises(SegmendError, match="generator"):
        meta_gradient(model, generator.requires_grad_(False), images, target, inner_lr=1)
