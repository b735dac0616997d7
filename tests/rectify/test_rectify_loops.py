"""The loss in other people's loops: smp, and the Trainer of transformers (from the docs' page)."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "rectify.md"


def block_with(word):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return next(block for block in blocks if word in block)


@pytest.mark.parametrize("word", ["segmentation_models_pytorch", "RectifiedTrainer"])
def test_the_page_s_loop_runs(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block_with(word), f"{PAGE.name}: {word}", "exec"), names)
    if word == "RectifiedTrainer":
        assert names["trainer"].state.global_step == 2
        assert int(names["trainer"].rectify.calls) == 2
    else:
        assert int(names["rectify"].calls) == 3
        assert names["loss"].isfinite()
