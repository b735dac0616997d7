"""Episodes are fair and repeatable; a refiner taught on some classes helps on another."""

import pytest
import torch
from torch import nn

from segmend import SegmendError
from segmend.refine import RefineOptions
from segmend.refine.few_shot import (
    Episodes,
    PrototypeSegmenter,
    episode_examples,
    fit_few_shot,
    segment_episode,
)


class Squares:
    """Images of one or two coloured squares on grey; the colour is the class, 1 to 6."""

    COLOURS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = 0.5 + 0.1 * torch.randn(3, 32, 32, generator=generator)
        target = torch.zeros(32, 32, dtype=torch.int64)
        for label in {index % 6, int(torch.randint(6, (1,), generator=generator))}:
            top, left = torch.randint(0, 20, (2,), generator=generator).tolist()
            image[:, top : top + 12, left : left + 12] = self.COLOURS[label].view(3, 1, 1)
            target[top : top + 12, left : left + 12] = label + 1
        target[0] = 255
        return {"name": str(index), "image": image.clamp(0, 1), "target": target}


DATA = Squares(36)


@pytest.mark.parametrize(("ways", "shots"), [(1, 1), (2, 3)])
def test_support_shows_its_class_and_never_the_query(ways, shots):
    for episode in Episodes(DATA, [1, 2, 3, 4], count=20, ways=ways, shots=shots):
        assert len(set(episode.classes)) == ways
        assert (episode.target == 1).any()
        assert set(episode.target.unique().tolist()) <= {0, *range(1, ways + 1), 255}
        for label, pairs in zip(episode.classes, episode.support, strict=True):
            assert len(pairs) == shots
            for image, mask in pairs:
                assert mask.any()
                assert not torch.equal(image, episode.query)
                assert shown(image, mask, label)


def shown(image, mask, label):
    """Whether this is an image of the data with the mask of this class."""
    items = (DATA[i] for i in range(len(DATA)))
    return any(
        torch.equal(image, item["image"]) and torch.equal(mask, item["target"] == label)
        for item in items
    )


def test_same_seed_same_episodes_other_seed_others():
    def draw(seed):
        return [e.query for e in Episodes(DATA, [1, 2], count=5, seed=seed)]

    assert all(torch.equal(a, b) for a, b in zip(draw(0), draw(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(draw(0), draw(1), strict=True))


def test_prototypes_tell_colours_apart():
    base = PrototypeSegmenter(nn.Identity())
    for episode in Episodes(DATA, [1, 2, 3], count=10, ways=2, seed=3):
        probs = base(episode)
        torch.testing.assert_close(probs.sum(0), torch.ones(32, 32))
        found = segment_episode(base, None, episode)
        inside = episode.target == 1
        assert (found[inside] == 1).double().mean() > 0.9


def test_refiner_of_some_classes_is_applied_to_a_class_it_never_saw():
    class Leaky(nn.Module):
        """A base that is too sure of foreground in the upper half, whatever the class."""

        def __init__(self):
            super().__init__()
            self.base = PrototypeSegmenter(nn.AvgPool2d(2))

        def forward(self, episode):
            foreground = self.base(episode)[1:].clamp(1e-3, 1 - 1e-3).logit() / 3
            foreground[:, :16] += 2.0
            foreground = foreground.sigmoid()
            return torch.cat([1 - foreground.max(0, keepdim=True)[0], foreground])

    base = Leaky()
    seen = Episodes(DATA, [1, 2, 3, 5, 6], count=24, seed=0)
    refiner = fit_few_shot(
        base, seen, options=RefineOptions(width=8, epochs=12, crop=32, folds=3, learning_rate=1e-2)
    )
    score = {"base": 0.0, "refined": 0.0}
    for episode in Episodes(DATA, [4], count=10, seed=1):
        for name, used in (("base", None), ("refined", refiner)):
            found = segment_episode(base, used, episode)
            valid, true = episode.target != 255, episode.target == 1
            inter = (found == 1) & true
            score[name] += float(inter.sum() / (((found == 1) & valid) | true).sum())
    assert score["refined"] > score["base"] + 0.5


def test_an_example_a_class_of_every_episode():
    examples = episode_examples(
        PrototypeSegmenter(nn.Identity()), Episodes(DATA, [1, 2, 3], count=3, ways=2)
    )
    assert len(examples) == 6
    assert all(e.logits.shape == (1, 32, 32) and e.labels.shape == (32, 32) for e in examples)


def test_too_few_images_or_classes_are_named():
    with pytest.raises(SegmendError, match="ways: want 1 to 2"):
        Episodes(DATA, [1, 2], count=1, ways=3)
    with pytest.raises(SegmendError, match=r"class 1: is in .* 30 shots and a query need 31"):
        Episodes(DATA, [1], count=1, shots=30)
