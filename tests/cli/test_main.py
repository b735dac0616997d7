"""The `segmend` command itself: its list, its exit statuses, and what it does not import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import segmend
from segmend.cli.main import COMMANDS, GROUPS, Switches, build_app, guarded, load
from segmend.errors import SegmendError, SegmendWarning

WITHOUT_TORCH = """
import sys
sys.argv = ["segmend", *sys.argv[1:]]
from segmend.cli.main import main
try:
    main()
except SystemExit as end:
    status = end.code
heavy = {"torch", "lightning", "timm", "torchvision", "scipy", "numpy"} & sys.modules.keys()
print("HEAVY", sorted(heavy), "STATUS", status)
"""


def run(*words: str, program: str = "-m segmend.cli.main") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program.split(" ", 1), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["refine", "--help"], ["data"]])
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "HEAVY [] STATUS" in done.stdout, done.stdout + done.stderr


def test_importing_all_commands_imports_nothing_heavy() -> None:
    program = WITHOUT_TORCH.replace("main()", "build_app()").replace(
        "import main", "import build_app"
    )
    program = program.replace("build_app()", "build_app(); sys.exit(0)")
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "HEAVY [] STATUS 0" in done.stdout, done.stdout + done.stderr


def test_help_lists_every_command_with_its_line() -> None:
    runner = CliRunner(env={"COLUMNS": "200"})
    top = runner.invoke(build_app([]), ["--help"]).output
    for path, (_, line) in COMMANDS.items():
        group, _, name = path.rpartition(" ")
        text = runner.invoke(build_app([]), [group, "--help"]).output if group else top
        assert name in text
        assert line in text
    for name, line in GROUPS.items():
        assert name in top
        assert line in top


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_of_its_own(name: str) -> None:
    function = load(COMMANDS[name][0])
    assert (function.__doc__ or "").strip()
    result = CliRunner().invoke(build_app(name.split()), [*name.split(), "--help"])
    assert result.exit_code == 0, result.output


def test_version_is_the_package_version() -> None:
    assert run("--version").stdout.strip() == f"segmend {segmend.__version__}"


def test_unknown_command_exits_2_and_names_it() -> None:
    done = run("refien")
    assert done.returncode == 2
    assert "refien" in done.stderr


def one_command(function: object, switches: Switches) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(guarded(function, switches))  # type: ignore[arg-type]
    return app


def test_bad_input_is_one_line_without_a_traceback() -> None:
    def command() -> None:
        raise SegmendError("a.png: want 3 channels, got 1")

    result = CliRunner().invoke(one_command(command, Switches()), [])
    assert result.exit_code == 2
    assert result.stderr == "error: a.png: want 3 channels, got 1\n"


@pytest.mark.filterwarnings("always")
def test_a_warning_of_ours_is_one_line_without_its_place_in_the_code() -> None:
    def command() -> None:
        warnings.warn("tags.csv: 3 images have no tag", SegmendWarning, stacklevel=2)

    result = CliRunner().invoke(one_command(command, Switches()), [])
    assert result.exit_code == 0
    assert result.stderr == "warning: tags.csv: 3 images have no tag\n"


def test_warnings_of_others_stay_as_they_are() -> None:
    def command() -> None:
        warnings.warn("old", DeprecationWarning, stacklevel=2)

    with pytest.warns(DeprecationWarning, match="old"):
        result = CliRunner().invoke(one_command(command, Switches()), [])
    assert result.stderr == ""


def test_debug_lets_the_error_through() -> None:
    def command() -> None:
        raise SegmendError("a.png: want 3 channels, got 1")

    result = CliRunner().invoke(one_command(command, Switches(debug=True)), [])
    assert isinstance(result.exception, SegmendError)


def test_a_defect_of_ours_is_not_dressed_up_as_bad_input() -> None:
    def command() -> None:
        raise ZeroDivisionError

    result = CliRunner().invoke(one_command(command, Switches()), [])
    assert isinstance(result.exception, ZeroDivisionError)


def test_options_reach_a_guarded_command() -> None:
    seen = []

    def command(number: int = 1, *, name: str = "a") -> None:
        seen.append((number, name))

    result = CliRunner().invoke(one_command(command, Switches()), ["--number", "3", "--name", "b"])
    assert result.exit_code == 0, result.output
    assert seen == [(3, "b")]


def test_bad_input_end_to_end(tmp_path: Path) -> None:
    words = ["bench", "--from", str(tmp_path / "nowhere")]
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "Traceback" in run("--debug", *words).stderr


def test_an_interrupt_exits_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(
        textwrap.dedent(
            """
            import signal, time, typer
            from segmend.cli.main import Switches, guarded

            # Tests started in a shell's background would hand on that it is ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)

            def slow() -> None:
                print("started", flush=True)
                time.sleep(60)

            app = typer.Typer()
            app.command()(guarded(slow, Switches()))
            app()
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
