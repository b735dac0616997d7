"""The loss against the published code's values and gradients (golden), and pair by pair."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend import SegmendError
from segmend.tags import similarity, similarity_window
from segmend.tags.similarity import FeatureSimilarityLoss, feature_similarity_loss
from segmend.tags.similarity_window import gaussian_tail

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = {name: dict(np.load(GOLDEN_FOLDER / f"fsl_{name}.npz")) for name in ("small", "medium")}
PUBLISHED = {"maxnorm": "maxnorm", "sigmoid": "sigmoid", "softmax": "softmax_hfpl"}


def golden(size: str, key: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[size][key])


def random_case(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Double maps (N, K, h, w) in [0, 1] and images with many near colours."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(shape, generator=generator, dtype=torch.float64)
    images = torch.rand((shape[0], 3, *shape[2:]), generator=generator, dtype=torch.float64)
    return maps, 0.3 + 0.2 * images


def by_definition(
    maps, images, *, mu=2.5, sigma=5.0, exponent=2.0, valid=None, window=None
) -> tuple[float, np.ndarray]:
    """Oracle: loss and gradient, every ordered pair in NumPy, with tanh and log as published."""
    u, x = maps.detach().numpy(), images.numpy()
    n, _, h, w = u.shape
    keep = np.ones((n, h, w), bool) if valid is None else valid.numpy()
    pixels = list(np.ndindex(h, w))
    loss, grad = 0.0, np.zeros_like(u)
    for b in range(n):
        for i in pixels:
            for j in pixels:
                dy, dx = i[0] - j[0], i[1] - j[1]
                if not (keep[b][i] and keep[b][j]):
                    continue
                if window is not None and max(abs(dy), abs(dx)) > window:
                    continue
                d = np.abs(x[b, :, i[0], i[1]] - x[b, :, j[0], j[1]]).mean().clip(0, 1)
                t = math.tanh(mu + math.log((d + 1e-5) / (1 - d + 1e-5)))
                g = 1 / keep[b].sum()
                if sigma is not None:
                    g = math.exp(-(dy**2 + dx**2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
                step = u[b, :, i[0], i[1]] - u[b, :, j[0], j[1]]
                loss -= g * t * 0.5 * (np.abs(step) ** exponent).sum()
                slope = 0.5 * exponent * np.sign(step) * np.abs(step) ** (exponent - 1)
                grad[b, :, i[0], i[1]] -= g * t * slope
                grad[b, :, j[0], j[1]] += g * t * slope
    count = max(keep.sum(), 1)
    return loss / count, grad / count


def found_by_us(maps, images, **options) -> tuple[float, np.ndarray]:
    maps = maps.clone().requires_grad_()
    loss = feature_similarity_loss(maps, images, **options)
    loss.backward()
    return loss.item(), maps.grad.numpy()


def assert_equal(found, expected, *, rel=1e-9):
    assert found[0] == pytest.approx(expected[0], rel=rel, abs=rel * np.abs(expected[1]).max())
    np.testing.assert_allclose(
        found[1], expected[1], rtol=rel, atol=rel * max(np.abs(expected[1]).max(), 1e-300)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", PUBLISHED)
@pytest.mark.parametrize("size", GOLDEN)
def test_equals_the_published_value_and_gradient(size, kind, dtype):
    maps = golden(size, f"y_{kind}").to(dtype).requires_grad_()
    loss = feature_similarity_loss(maps, golden(size, "x"))
    expected = float(GOLDEN[size][f"loss_{PUBLISHED[kind]}_f64"])
    gradient = golden(size, f"grad_y_{PUBLISHED[kind]}_f64")
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-8)
    torch.testing.assert_close(
        maps.grad.float(), gradient, rtol=1e-5, atol=1e-6 * gradient.abs().max().item()
    )


@pytest.mark.parametrize("size", GOLDEN)
def test_equals_the_published_gradient_in_the_logits(size):
    logits = golden(size, "logits").double().requires_grad_()
    loss = FeatureSimilarityLoss()(logits[:, 1:], golden(size, "x"), golden(size, "label")[:, 1:])
    loss.backward()
    expected = golden(size, "grad_logits_maxnorm_f64")
    assert loss.item() == pytest.approx(float(GOLDEN[size]["loss_maxnorm_f64"]), rel=1e-5)
    torch.testing.assert_close(
        logits.grad.float(), expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item()
    )


@pytest.mark.parametrize("size", GOLDEN)
def test_predecessor_is_twice_the_loss_of_a_softmax(size):
    logits, tags = golden(size, "logits"), golden(size, "label")[:, 1:]
    loss = FeatureSimilarityLoss(form="multinomial")(logits, golden(size, "x"), tags)
    assert 2 * loss.item() == pytest.approx(float(GOLDEN[size]["loss_softmax_icam"]), rel=1e-5)


@pytest.mark.parametrize("size", GOLDEN)
def test_without_sigma_equals_the_published(size):
    loss = feature_similarity_loss(golden(size, "y_sigmoid"), golden(size, "x"), sigma=None)
    assert loss.item() == pytest.approx(float(GOLDEN[size]["loss_sigmoid_nosigma"]), rel=1e-5)


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("sigma", [1.0, 5.0, None])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_definition_pair_by_pair(exponent, sigma, masked):
    maps, images = random_case(0, 2, 3, 4, 7)
    valid = torch.rand(2, 4, 7, generator=torch.Generator().manual_seed(1)) > 0.4
    options = {"exponent": exponent, "sigma": sigma, "valid": valid if masked else None, "mu": 2.1}
    assert_equal(found_by_us(maps, images, **options), by_definition(maps, images, **options))


@pytest.mark.parametrize("exponent", [2.0, 1.5])
@pytest.mark.parametrize("pairs", [1, 300, 5000])
@pytest.mark.parametrize("window", [1, 2, 9])
def test_window_equals_the_definition_however_it_is_cut(window, pairs, exponent, monkeypatch):
    """40 columns are up to three strips; the pairs at a time cut the rows differently."""
    monkeypatch.setitem(similarity_window._PAIRS, "cpu", pairs)
    maps, images = random_case(2, 1, 2, 5, 40)
    options = {"window": window, "sigma": 3.0, "exponent": exponent}
    found = found_by_us(maps, images, path="window", **options)
    assert_equal(found, by_definition(maps, images, **options))


@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    window=st.integers(1, 10),
)
def test_any_size_equals_the_definition(rows, cols, seed, window):
    maps, images = random_case(seed, 1, 2, rows, cols)
    found = found_by_us(maps, images, path="window", window=window, sigma=2.0)
    assert_equal(found, by_definition(maps, images, window=window, sigma=2.0))


def test_gradient_is_that_of_the_value():
    maps, images = random_case(3, 1, 2, 3, 4)
    valid = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(2)) > 0.3
    for exponent in (1.5, 2.0):
        assert torch.autograd.gradcheck(
            lambda u, p=exponent: feature_similarity_loss(u, images, exponent=p, valid=valid),
            (maps.requires_grad_(),),
        )


@pytest.mark.parametrize("mu", [-30.0, 0.0, 2.5, 12.0, 200.0])
def test_colour_term_holds_for_any_mu_and_extreme_colours(mu):
    maps = torch.rand(1, 2, 2, 3, dtype=torch.float64)
    images = torch.tensor([0.0, 1.0, 0.0, 1e-6, 1.0, 0.5]).double().reshape(1, 1, 2, 3)
    images = images.expand(1, 3, 2, 3)
    expected = by_definition(maps, images, mu=mu)
    assert_equal(found_by_us(maps, images, mu=mu), expected)
    single = feature_similarity_loss(maps.float(), images, mu=mu)
    assert single.item() == pytest.approx(expected[0], rel=1e-4, abs=1e-6)


@given(seed=st.integers(0, 10**6), window=st.integers(1, 8), softmax=st.booleans())
def test_truncation_is_within_the_stated_bound(seed, window, softmax):
    maps, images = random_case(seed, 1, 3, 10, 9)
    images = (images - 0.3) * 5
    maps = (maps > 0.5).double() if not softmax else torch.softmax(20 * maps, 1)
    full = feature_similarity_loss(maps, images, sigma=2.0, path="dense")
    cut = feature_similarity_loss(maps, images, sigma=2.0, path="window", window=window)
    largest = 1.0 if softmax else 3 / 2
    assert (full - cut).abs() <= gaussian_tail(window, 2.0) * largest


@pytest.mark.parametrize(("radius", "sigma"), [(1, 0.4), (2, 1.0), (15, 5.0), (20, 5.0), (25, 5.0)])
def test_tail_is_the_sum_outside_the_window(radius, sigma):
    far = np.arange(-200, 201)
    weights = np.exp(-(far[:, None] ** 2 + far**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    outside = np.maximum(np.abs(far[:, None]), np.abs(far)) > radius
    assert gaussian_tail(radius, sigma) == pytest.approx(weights[outside].sum(), rel=1e-9)


def test_auto_takes_the_window_on_large_maps_and_nothing_changes(monkeypatch):
    maps, images = random_case(4, 1, 2, 12, 30)
    dense = found_by_us(maps, images, path="dense", sigma=2.0)
    assert_equal(found_by_us(maps, images, sigma=2.0), dense, rel=0)
    monkeypatch.setattr(similarity, "DENSE_CELLS", 100)
    window = found_by_us(maps, images, sigma=2.0)
    assert window[0] != dense[0]
    assert_equal(window, found_by_us(maps, images, sigma=2.0, path="window", window=10), rel=0)
    assert_equal(window, dense, rel=1e-5)


@given(seed=st.integers(0, 10**6), exponent=st.sampled_from([1.5, 2.0]))
def test_pixels_that_are_not_valid_cannot_matter(seed, exponent):
    maps, images = random_case(seed, 2, 3, 4, 5)
    valid = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed)) > 0.5
    results = []
    for fill in (torch.nan, 9.0):
        spoilt = maps.masked_fill(~valid[:, None], fill).requires_grad_()
        loss = feature_similarity_loss(
            spoilt, images.masked_fill(~valid[:, None], fill), valid=valid, exponent=exponent
        )
        loss.backward()
        results.append((loss.detach(), spoilt.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert (results[0][1][~valid[:, None].expand_as(maps)] == 0).all()


@pytest.mark.parametrize("sigma", [2.0, None])
def test_padding_that_is_masked_is_as_if_it_were_not_there(sigma):
    maps, images = random_case(5, 1, 2, 8, 9)
    valid = torch.zeros(1, 8, 9, dtype=torch.bool)
    valid[:, 2:7, 1:6] = True
    masked = feature_similarity_loss(maps, images, valid=valid, sigma=sigma)
    cropped = feature_similarity_loss(
        maps[:, :, 2:7, 1:6], images[:, :, 2:7, 1:6].contiguous(), sigma=sigma
    )
    torch.testing.assert_close(masked, cropped)


def test_nothing_valid_gives_0_with_a_graph():
    maps, images = random_case(6, 2, 2, 3, 3)
    maps.requires_grad_()
    loss = feature_similarity_loss(maps, images, valid=torch.zeros(2, 3, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert (maps.grad == 0).all()


@given(seed=st.integers(0, 10**6))
def test_batch_is_the_mean_of_its_images_and_channels_have_no_order(seed):
    maps, images = random_case(seed, 3, 4, 5, 4)
    alone = [feature_similarity_loss(maps[n : n + 1], images[n : n + 1]) for n in range(3)]
    whole = feature_similarity_loss(maps, images)
    torch.testing.assert_close(whole, torch.stack(alone).mean())
    torch.testing.assert_close(whole, feature_similarity_loss(maps.flip(1), images))


def test_flat_image_costs_differences_and_flat_maps_cost_nothing():
    maps, images = random_case(7, 1, 3, 6, 6)
    assert feature_similarity_loss(maps, torch.full_like(images, 0.4)) > 0
    flat = torch.full_like(maps, 0.7)
    assert feature_similarity_loss(flat, images).abs() < 1e-15


def test_published_form_pays_for_flooding_and_the_competitive_one_for_telling_apart():
    """A red and a blue object on green, both tagged: maps of one each, or each of both."""
    colours, objects = torch.zeros(1, 3, 6, 18), torch.full((1, 2, 6, 18), -1.0)
    colours[:, 1] = 1
    for index, (channel, columns) in enumerate(((0, slice(2, 6)), (2, slice(12, 16)))):
        colours[:, :, :, columns] = 0
        colours[:, channel, :, columns] = 1
        objects[:, index, :, columns] = 1
    flooded = objects.amax(1, keepdim=True).expand(-1, 2, -1, -1)

    def gain(form):
        loss = FeatureSimilarityLoss(form=form)
        apart, flood = (loss(maps, colours, torch.ones(1, 2)).item() for maps in (objects, flooded))
        return flood - apart

    assert gain("binomial") < 0 < gain("competitive")


def test_images_are_resized_and_clamped_as_published():
    maps, _ = random_case(8, 1, 2, 3, 5)
    images = torch.rand(1, 3, 13, 9, generator=torch.Generator().manual_seed(0)).double() * 2 - 0.5
    rows, cols = np.linspace(0, 12, 3), np.linspace(0, 8, 5)
    small = np.zeros((1, 3, 3, 5))
    for a, y in enumerate(rows):
        for b, x in enumerate(cols):
            top, left = min(int(y), 11), min(int(x), 7)
            fy, fx = y - top, x - left
            corners = images[0, :, top : top + 2, left : left + 2].numpy()
            small[0, :, a, b] = (corners * np.outer([1 - fy, fy], [1 - fx, fx])).sum((1, 2))
    expected = by_definition(maps, torch.from_numpy(small.clip(0, 1)))
    assert_equal(found_by_us(maps, images), expected)


def test_autocast_computes_in_single_precision_and_images_get_no_gradient():
    maps, images = random_case(9, 1, 3, 6, 5)
    maps, images = maps.bfloat16().requires_grad_(), images.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = FeatureSimilarityLoss()(maps, images)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_definition(maps.double(), images.detach())[0], rel=1e-5)
    assert maps.grad.dtype == torch.bfloat16
    assert images.grad is None


def test_gradient_is_scaled_by_what_comes_after():
    maps, images = random_case(10, 1, 2, 4, 4)
    plain = found_by_us(maps, images)[1]
    maps.requires_grad_()
    (3 * feature_similarity_loss(maps, images)).backward()
    np.testing.assert_allclose(maps.grad.numpy(), 3 * plain)


MAPS, IMAGES = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: feature_similarity_loss(MAPS[0], IMAGES), "maps: want float"),
        (lambda: feature_similarity_loss(MAPS, IMAGES[:1]), r"images: want float \(2, 3, H, W\)"),
        (lambda: feature_similarity_loss(MAPS, IMAGES.byte()), "images: .*got torch.uint8"),
        (lambda: feature_similarity_loss(MAPS, IMAGES, valid=MAPS[:, 0]), "valid: want bool"),
        (lambda: feature_similarity_loss(MAPS, IMAGES, sigma=0), "sigma: want a number above 0"),
        (lambda: feature_similarity_loss(MAPS, IMAGES, exponent=0.5), "exponent: .*got 0.5"),
        (lambda: FeatureSimilarityLoss(path="fast"), "path: want one of .*'fast'"),
        (lambda: FeatureSimilarityLoss(window=0), "window: want at least 1"),
        (lambda: FeatureSimilarityLoss(path="dense", window=9), "none with path"),
        (lambda: FeatureSimilarityLoss(sigma=None, path="window"), "sigma=None"),
        (lambda: FeatureSimilarityLoss(form="soft"), "form: want one of"),
        (lambda: FeatureSimilarityLoss(background=2), "background: want 0 or None"),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(SegmendError, match=message):
        call()
