"""The learner in loops of all kinds, its resumption, and a task where contexts help."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmend.context.baselines import RandomContext, build_baseline
from segmend.context.generator import ContextGenerator, GeneratorTrainer
from segmend.context.heads import widen_head
from segmend.context.labels import context_targets
from segmend.context.learner import ContextLabelLearner
from segmend.context.loss import context_loss
from segmend.errors import SegmendError
from segmend.models.plain_unet import PlainUNet


def batches(count: int, *, axes: int = 2, size: int = 12) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(3)
    found = []
    for _ in range(count):
        images = torch.randn(3, 1, *[size] * axes, generator=draw)
        target = (images[:, 0] > 1).long()
        target[0, 0] = 255
        found.append({"image": images, "target": target})
    return found


def make(
    optimizer: str = "sgd",
    *,
    axes: int = 2,
    generator: Any = None,
    deep: bool = True,
    **options: Any,
) -> ContextLabelLearner:
    torch.manual_seed(0)
    dimensions = 3 if axes == 3 else 2
    model = PlainUNet(1, 2, widths=(3, 4, 5), dimensions=dimensions, deep_supervision=deep)
    widen_head(model, 3)
    generator = generator or ContextGenerator(1, 3, widths=(2, 3), dimensions=dimensions)
    made: torch.optim.Optimizer
    if optimizer == "sgd":
        made = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.99, nesterov=True)
    else:
        made = torch.optim.AdamW(model.parameters(), lr=1e-3)
    settings = {"num_context": 3, "update_every": 2, "tau": 2.0, "sigma": 2.0, **options}
    return ContextLabelLearner(model, generator, optimizer=made, **settings)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("sgd", {}),
        ("adamw", {"axes": 3}),
        ("sgd", {"meta_batch": "next", "averaging": 0.9, "warm_up": 2, "clip_norm": 12.0}),
        ("adamw", {"deep": False, "dice": "foreground", "meta_samples": 1, "tau": None}),
        ("sgd", {"amp": torch.bfloat16}),
        ("sgd", {"amp": torch.float16, "scaler": torch.amp.GradScaler("cpu"), "clip_norm": 1.0}),
    ],
)
def test_steps(optimizer: str, options: dict[str, Any]) -> None:
    learner = make(optimizer, **options)
    assert learner.trainer is not None
    network, generator = weights(learner.model), weights(learner.trainer.generator)
    infos = [learner.step(batch) for batch in batches(5, axes=options.get("axes", 2))]
    due = (2, 4) if options.get("meta_batch") == "next" else (1, 3)
    assert [i for i, info in enumerate(infos) if info.method] == list(due)
    assert all(info.method in (None, "forward") for info in infos)
    assert all(info.loss.isfinite() for info in infos)
    assert not torch.equal(weights(learner.model), network)
    assert not torch.equal(weights(learner.trainer.generator), generator)
    assert learner.trainer.updates == 2
    torch.testing.assert_close(infos[-1].usage.sum(), torch.tensor(1.0), rtol=1e-2, atol=0)
    images = batches(1, axes=options.get("axes", 2))[0]["image"]
    assert learner.export_model()(images).shape[:2] == (3, 2)


@pytest.mark.parametrize("options", [{}, {"meta_batch": "next", "averaging": 0.8, "warm_up": 4}])
def test_resumed_training_is_the_same(options: dict[str, Any]) -> None:
    data = batches(7)
    whole = make(**options)
    for batch in data:
        whole.step(batch)
    first = make(**options)
    for batch in data[:4]:
        first.step(batch)
    assert first.optimizer is not None
    file = io.BytesIO()
    states = (first.model.state_dict(), first.optimizer.state_dict(), first.state_dict())
    torch.save(states, file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    torch.manual_seed(99)
    second = make(**options)
    second.model.load_state_dict(states[0])
    assert second.optimizer is not None
    second.optimizer.load_state_dict(states[1])
    second.load_state_dict(states[2])
    for batch in data[4:]:
        second.step(batch)
    assert torch.equal(weights(second.model), weights(whole.model))
    assert second.trainer is not None
    assert whole.trainer is not None
    assert torch.equal(weights(second.trainer.generator), weights(whole.trainer.generator))


def test_loss_in_another_loop_is_the_same_step() -> None:
    one, two = make(), make()
    assert two.optimizer is not None
    for batch in batches(3):
        one.step(batch)
        two.optimizer.zero_grad()
        two.loss(batch["image"], batch["target"]).backward()  # type: ignore[no-untyped-call]
        two.optimizer.step()
    assert torch.equal(weights(one.model), weights(two.model))


def test_one_context_is_ordinary_training() -> None:
    torch.manual_seed(0)
    model = PlainUNet(1, 2, widths=(3, 4))
    learner = ContextLabelLearner(model, build_baseline("plain", num_context=1), num_context=1)
    batch = batches(1)[0]
    target = batch["target"]
    labels, valid = context_targets(target, torch.ones(3, 1, 12, 12), [(12, 12)], num_classes=2)
    logits = model(batch["image"])
    expected = context_loss([logits], labels, valid, num_classes=2)
    assert torch.equal(learner.loss(batch["image"], target), expected)
    alone = ContextLabelLearner(model, ContextGenerator(1, 1, widths=(2, 3)), num_context=1)
    torch.testing.assert_close(alone.loss(batch["image"], target), expected)


def test_the_segmenter_sees_only_what_the_distance_leaves() -> None:
    learner = make(update_every=0, generator=RandomContext(3))
    batch = batches(1)[0]
    far = torch.full_like(batch["target"], 10_000)
    loss = learner.loss(batch["image"], batch["target"], distance=far.float())
    plain = context_targets(
        batch["target"],
        torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(3, 3, 12, 12),
        [(12, 12), (6, 6)],
        num_classes=2,
    )
    expected = context_loss(learner.model(batch["image"]), *plain, num_classes=2)
    torch.testing.assert_close(loss, expected)


def test_warm_up_fades_contexts_in() -> None:
    batch = batches(1)[0]
    cold, warm = make(warm_up=1000, tau=None), make(tau=None)
    first = cold.loss(batch["image"], batch["target"])
    assert (first - warm.loss(batch["image"], batch["target"])).abs() > 1e-3
    cold.steps = 1000
    torch.testing.assert_close(
        cold.loss(batch["image"], batch["target"]),
        warm.loss(batch["image"], batch["target"]),
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_average_gives_the_labels() -> None:
    trainer = GeneratorTrainer(nn.Conv2d(1, 2, 1), averaging=0.75)
    start = copy.deepcopy(trainer.generator.state_dict())
    assert trainer.apply([torch.ones_like(p) for p in trainer.parameters])
    assert trainer.average is not None
    for name, mean in trainer.average.state_dict().items():
        expected = 0.75 * start[name] + 0.25 * trainer.generator.state_dict()[name]
        torch.testing.assert_close(mean, expected)
    images = torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(trainer.contexts(images), trainer.average(images).softmax(1))


def test_nothing_to_learn_does_not_move_the_generator() -> None:
    trainer = GeneratorTrainer(nn.Conv2d(1, 2, 1))
    assert trainer.apply([torch.ones_like(p) for p in trainer.parameters])
    before = weights(trainer.generator)
    assert not trainer.apply([torch.zeros_like(p) for p in trainer.parameters])
    assert not trainer.apply([torch.full_like(p, torch.nan) for p in trainer.parameters])
    assert torch.equal(weights(trainer.generator), before)
    assert trainer.updates == 1


def test_the_schedule_is_followed() -> None:
    learner = make()
    assert learner.optimizer is not None
    assert learner.trainer is not None
    scheduler = torch.optim.lr_scheduler.LambdaLR(learner.optimizer, lambda step: 0.5**step)
    for batch in batches(2):
        learner.step(batch)
        scheduler.step()
    assert learner.trainer.optimizer.param_groups[0]["lr"] == pytest.approx(3e-4 * 0.5)


class Wrapper(nn.Module):
    """As DistributedDataParallel wraps."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Any:
        return self.module(images)


def test_a_wrapped_model_is_unwrapped() -> None:
    wrapper = type("DistributedDataParallel", (Wrapper,), {})
    plain, wrapped = make(), make()
    wrapped.model = wrapper(wrapped.model)
    for batch in batches(2):
        expected, found = plain.step(batch), wrapped.step(batch)
    assert expected.objective is not None
    assert torch.equal(expected.objective, found.objective)  # type: ignore[arg-type]
    assert "network.module.heads.0.weight" not in wrapped.export_model().state_dict()


def test_generator_of_any_stride_and_size() -> None:
    for stride in (1, 2, 3):
        generator = ContextGenerator(2, 4, widths=(2, 3), stride=stride)
        assert generator(torch.randn(1, 2, 13, 8)).shape == (1, 4, 13, 8)
    solid = ContextGenerator(1, 2, widths=(2, 3), dimensions=3)
    assert solid(torch.randn(1, 1, 9, 6, 5)).shape == (1, 2, 9, 6, 5)


def test_options_that_cannot_be() -> None:
    batch = batches(1)[0]
    model, generator = PlainUNet(1, 2, widths=(3, 4)), ContextGenerator(1, 3, widths=(2, 3))
    with pytest.raises(SegmendError, match=r"widen_head\(model, 3\)"):
        ContextLabelLearner(model, generator, num_context=3).loss(batch["image"], batch["target"])
    with pytest.raises(SegmendError, match="generator: want"):
        make(generator=ContextGenerator(1, 2, widths=(2, 3))).step(batch)
    with pytest.raises(SegmendError, match="have 2 classes"):
        make(generator=RandomContext(2))
    with pytest.raises(SegmendError, match="optimizer"):
        ContextLabelLearner(widen_head(model, 3), generator, num_context=3).step(batch)
    with pytest.raises(SegmendError, match="another kind"):
        make().load_state_dict(make(generator=RandomContext(3)).state_dict())
    wrong: list[dict[str, Any]] = [
        {"meta_batch": "last"},
        {"update_every": -1},
        {"meta_samples": 0},
        {"warm_up": -1},
        {"averaging": 1.0},
        {"generator_lr": 0.0},
    ]
    for options in wrong:
        with pytest.raises(SegmendError, match="want"):
            make(**options)
