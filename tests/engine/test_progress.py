from __future__ import annotations

import io

import pytest
from rich.console import Console

from segmend.engine.progress import Bar, progress_bar, rate, track


@pytest.mark.parametrize(
    ("speed", "text"), [(None, ""), (0.0, ""), (12.34, "12.3/s"), (0.25, "4.0 s each")]
)
def test_rate_reads_well(speed, text):
    assert rate(speed) == text


def test_without_a_terminal_one_line_at_the_end_and_one_per_note(capsys):
    with progress_bar("reading", total=3) as bar:
        bar.note("half way")
        bar.advance(3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading: half way"
    assert lines[1].startswith("reading: 3/3 in ")
    assert len(lines) == 2


def test_disabled_is_silent_and_passes_everything_on(capsys):
    assert list(track(iter("abc"), description="x", enabled=False)) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_on_a_terminal_a_bar_with_count_and_description():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    bar = Bar("training", 4, console)
    bar.advance(4)
    bar.note("epoch 1/1")
    bar.close()
    assert "training · epoch 1/1" in screen.getvalue()
    assert "4/4" in screen.getvalue()


def test_an_error_inside_ends_the_bar_with_what_was_done(capsys):
    def items():
        yield 1
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(track(items(), description="reading", total=5))
    assert capsys.readouterr().err.startswith("reading: 1/5 in ")
