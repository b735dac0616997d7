"""An image's pseudo-masks by several background scores at once."""

import pytest
import torch

from segmend.tags.affinity_jobs import AffinitySpec, build_affinity
from segmend.tags.cam_files import CamFile
from segmend.tags.dense_crf import CRF_SETTINGS, dense_crf
from segmend.tags.image_masks import mask_of, masks_of
from segmend.tags.options import MaskOptions

TRIED = {
    "affinitynet": [{"walk_power": 0.05}, {"walk_power": 64.0}, {}],
    "irn": [{"constant": 0.05}, {"constant": 0.99}, {"power": 4.0}],
    None: [{"constant": 0.05}, {"constant": 0.6}, {"power": 4.0}, {}],
}


@pytest.mark.parametrize("method", list(TRIED))
@pytest.mark.parametrize("background", [0, None])
def test_settings_tried_together_give_what_each_gives_alone(method, background):
    torch.manual_seed(0)
    maps = torch.rand(2, 5, 6)
    cams = CamFile(maps, torch.tensor([0, 2]), torch.zeros(4), (33, 45))
    image = torch.rand(3, 33, 45)
    net = None if method is None else build_affinity(AffinitySpec(method, "squeezenet1_0", 8, 5))
    if net is not None:
        net.eval()
    tried = [MaskOptions(refine="none", walk_steps=16, **given) for given in TRIED[method]]
    together = masks_of(tried, cams, image, background=background, affinity=net)
    shares = []
    for options, found in zip(tried, together, strict=True):
        alone = mask_of(options, cams, image, background=background, affinity=net)
        assert torch.equal(found.labels, alone.labels)
        torch.testing.assert_close(found.confidence, alone.confidence)
        shares.append(float((found.labels == 0).float().mean()))
    assert background is None or len(set(shares)) > 1


@pytest.mark.parametrize("name", CRF_SETTINGS)
def test_the_crf_is_the_one_that_the_settings_name(name):
    torch.manual_seed(1)
    maps, image = torch.rand(1, 21, 26), torch.rand(3, 21, 26)
    options = MaskOptions(crf=name, constant=0.4, normalisation="max")
    found = mask_of(options, CamFile(maps, torch.tensor([1]), torch.zeros(2), (21, 26)), image,
                    background=0)  # fmt: skip
    scores = torch.cat([torch.full_like(maps, 0.4), maps / maps.max()])
    sure = {
        key: dense_crf(scores, image, settings=CRF_SETTINGS[key]).amax(0) for key in CRF_SETTINGS
    }
    # Mean field magnifies the last digit of the scores, but not as far as other settings are away.
    apart = {key: float((found.confidence - sure[key]).abs().max()) for key in CRF_SETTINGS}
    assert apart.pop(name) < 0.01
    assert min(apart.values()) > 0.05


def test_an_unknown_crf_is_refused_before_any_image():
    with pytest.raises(ValueError, match=r"crf[\s\S]*'walked'"):
        MaskOptions(crf="wide")
