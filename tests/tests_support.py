"""Run a segmend command in this process, as the console script would."""

from typer.testing import CliRunner, Result

from segmend.cli.main import build_app


def run_command(*words: object) -> Result:
    """Exit code and output (stdout and stderr together) of `segmend WORDS`."""
    return CliRunner().invoke(build_app(), [str(word) for word in words])
