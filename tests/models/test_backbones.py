"""Backbones whose weights cannot be had."""

import pytest

from segmend.errors import SegmendError
from segmend.models.backbones import build_backbone


@pytest.mark.parametrize("name", ["resnet10t", "deit_tiny_patch16_224"])
def test_weights_that_cannot_be_downloaded(name, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SegmendError, match=rf"timm cannot get those of {name}: .*weights=FILE"):
        build_backbone(name, output_stride=16, weights="hub")


def test_a_model_without_weights_to_download():
    with pytest.raises(SegmendError, match="those of resnetblur18: No pretrained weights exist"):
        build_backbone("resnetblur18", weights="hub")
