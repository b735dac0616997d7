"""Tags that a network tells instead of the data."""

import torch

from segmend.engine.checkpoints import save_segmenter
from segmend.tags.classifier_files import TAGGER, describe_classifier
from segmend.tags.network import build_classifier
from segmend.tags.tag_source import predicted_tags, tag_source


def run(folder, seed):
    torch.manual_seed(seed)
    model = build_classifier("test_vit", num_classes=2, weights="none")
    describe_classifier(folder, model.classifier_spec, ["none", "a", "b"], 0)
    save_segmenter(folder, model)
    return model


def test_the_plain_network_of_a_run_tells_tags_or_another_run(tmp_path):
    drawer, other = run(tmp_path / "one", 0), run(tmp_path / "two", 1)

    def weight(tags_from):
        return tag_source(tags_from, tmp_path / "one").model.head.weight

    assert tag_source("data", tmp_path / "one") is None
    assert torch.equal(weight("network"), drawer.head.weight)
    assert torch.equal(weight(str(tmp_path / "two")), other.head.weight)
    tagger = run(tmp_path / "one" / TAGGER, 2)
    assert torch.equal(weight("network"), tagger.head.weight)


def test_predicted_tags_are_probable_classes(tmp_path):
    model, image = run(tmp_path, 0).eval(), torch.rand(3, 32, 32)
    with torch.no_grad():
        probabilities = torch.sigmoid(model(image[None]).mean((2, 3)))[0]
    for threshold in (0.01, float(probabilities.mean()), 0.99):
        wanted = (probabilities >= threshold).float()
        assert torch.equal(predicted_tags(model, image, threshold=threshold), wanted)
