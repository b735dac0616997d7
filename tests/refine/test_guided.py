"""The guided filter against least squares in every window, and what it must leave alone."""

import numpy as np
import pytest
import torch

from segmend import SegmendError
from segmend.refine.guided import Guide, guided_filter


def window_by_window(probs, image, radius, epsilon):
    """He et al., equations 14, 15 and 18: a ridge regression in each window, then the mean."""
    height, width = probs.shape
    total, count = np.zeros((height, width)), np.zeros((height, width))
    planes = np.zeros((height, width, 4))
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - radius), y + radius + 1)
            cols = slice(max(0, x - radius), x + radius + 1)
            colours = image[:, rows, cols].reshape(3, -1)
            values = probs[rows, cols].ravel()
            centred = colours - colours.mean(1, keepdims=True)
            covariance = centred @ centred.T / len(values) + epsilon * np.eye(3)
            slope = np.linalg.solve(covariance, centred @ (values - values.mean()) / len(values))
            planes[y, x] = [*slope, values.mean() - slope @ colours.mean(1)]
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - radius), y + radius + 1)
            cols = slice(max(0, x - radius), x + radius + 1)
            plane = planes[rows, cols].reshape(-1, 4).mean(0)
            total[y, x] = plane[:3] @ image[:, y, x] + plane[3]
            count[y, x] = 1
    return total / count


@pytest.mark.parametrize("radius", [1, 3])
def test_equals_a_ridge_regression_in_every_window(radius):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 9, 11, generator=generator, dtype=torch.float64)
    images = torch.rand(1, 3, 9, 11, generator=generator, dtype=torch.float64)
    share = 1e-2 / float(images.var((2, 3), unbiased=False).mean())
    found = guided_filter(logits, images, Guide(radius, share)).sigmoid()[0, 0]
    wanted = window_by_window(logits.sigmoid()[0, 0].numpy(), images[0].numpy(), radius, 1e-2)
    np.testing.assert_allclose(found.numpy(), wanted.clip(1e-4, 1 - 1e-4), atol=1e-9)


def test_edges_of_the_image_survive_and_noise_does_not():
    images = torch.zeros(1, 3, 32, 32)
    images[..., 16:] = 1
    generator = torch.Generator().manual_seed(0)
    probs = 0.2 + 0.6 * images[:, :1] + 0.1 * torch.randn(1, 1, 32, 32, generator=generator)
    found = guided_filter(probs.clamp(0.01, 0.99).logit(), images, Guide(4, 1e-2)).sigmoid()
    for half in (found[..., 2:15], found[..., 17:30]):
        assert half.std() < 0.03
    assert float((found[..., 16] - found[..., 15]).mean()) > 0.5


def test_a_grey_image_gives_the_mean_of_means():
    logits = torch.randn(2, 1, 20, 20)
    found = guided_filter(logits, torch.full((2, 3, 20, 20), 0.5), Guide(2, 1e-3)).sigmoid()
    flat = torch.nn.functional.avg_pool2d(logits.sigmoid(), 5, 1, 2, count_include_pad=False)
    flat = torch.nn.functional.avg_pool2d(flat, 5, 1, 2, count_include_pad=False)
    torch.testing.assert_close(found, flat.clamp(1e-4, 1 - 1e-4), atol=1e-4, rtol=0)


def test_contrast_and_brightness_of_the_image_do_not_matter():
    logits, images = torch.randn(1, 1, 16, 16), torch.rand(1, 3, 16, 16)
    one, other = (guided_filter(logits, x, Guide(2, 0.1)) for x in (images, 0.2 + 0.1 * images))
    torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_channels_are_filtered_alike():
    logits, images = 0.3 * torch.randn(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    order, guide = [2, 0, 1], Guide(2, 0.3)
    one = guided_filter(logits, images, guide)
    torch.testing.assert_close(one[:, order], guided_filter(logits[:, order], images, guide))
    # The filter is linear and keeps constants, so shares still add up where none is cut off.
    torch.testing.assert_close(one.exp().sum(1), torch.ones(1, 16, 16), atol=1e-3, rtol=0)


def test_other_sizes_are_named():
    with pytest.raises(SegmendError, match=r"images: want \(1, 3, 8, 8\)"):
        guided_filter(torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 9), Guide(1, 1e-3))
