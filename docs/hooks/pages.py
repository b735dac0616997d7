"""Pages that are made from the source while the documentation is built, so that none goes stale."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import typer

from segmend.cli.main import COMMANDS, build_app

SETTINGS = re.compile(r"<!-- options: ([\w.]+) -->")
ROOT = Path(__file__).resolve().parents[2]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs for every page before it is rendered."""
    if page.file.src_uri == "cli.md":
        return markdown.replace("<!-- commands -->", command_reference())
    if page.file.src_uri == "contributing.md":
        return (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    return SETTINGS.sub(lambda match: settings_table(match[1]), markdown)


def command_reference() -> str:
    """Every command with its description and options, as markdown."""
    top: Any = typer.main.get_command(build_app())
    parts = []
    for path in COMMANDS:
        command = top
        for word in path.split():
            command = command.commands[word]
        parts += [f"## segmend {path}", plain(command.help or ""), options_table(command.params)]
    return "\n\n".join(parts)


def options_table(params: list[Any]) -> str:
    """Options and arguments as a markdown table."""
    lines = ["| option | what it does | default |", "| --- | --- | --- |"]
    for param in params:
        if "--help" in param.opts:
            continue
        text = " ".join(plain(getattr(param, "help", None) or "").split())
        stated = re.search(r"\s*\[default: ([^\]]*)\]\.?$", text)
        default = stated[1] if stated else default_of(param)
        text = text[: stated.start()] if stated else text
        names = "`, `".join([*param.opts, *param.secondary_opts])
        names = names.upper() if param.param_type_name == "argument" else names
        lines.append(f"| `{names}` | {escape(text)} | {escape(default)} |")
    return "\n".join(lines)


def settings_table(name: str) -> str:
    """Fields of the settings class "module.Class": default, and the text below or in the field."""
    module, _, class_name = name.rpartition(".")
    settings = getattr(import_module(module), class_name)
    texts = field_texts(settings)
    lines = ["| setting | default | what it does |", "| --- | --- | --- |"]
    for field, info in settings.model_fields.items():
        text = " ".join((info.description or texts.get(field, "")).split())
        default = json.dumps(info.get_default(call_default_factory=True))
        choices = get_args(info.annotation)
        if choices and all(isinstance(choice, str) for choice in choices):
            text = " ".join([text, "One of " + ", ".join(f"`{c}`" for c in choices) + "."]).strip()
        lines.append(f"| `{field}` | `{default}` | {escape(text)} |")
    return "\n".join(lines)


def field_texts(settings: type) -> dict[str, str]:
    """The literal below each field, as in `width: int = 16` followed by a text of its own."""
    body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0].body  # type: ignore[attr-defined]
    texts = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            value = below.value if isinstance(below, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                texts[field.target.id] = value.value
    return texts


def default_of(param: Any) -> str:
    if param.required:
        return "**required**"
    if param.default is None or param.default in ([], (), ""):
        return ""
    if isinstance(param.default, bool):
        return "yes" if param.default else "no"
    return str(getattr(param.default, "value", param.default))


def plain(text: str) -> str:
    """Docstring without indentation and typer's form feeds."""
    return inspect.cleandoc(text).replace("\b", "").partition("\f")[0].strip()


def escape(text: str) -> str:
    """Safe inside a cell; settings' `code` stays as it is."""
    return text.replace("|", "\\|").replace("<", "&lt;")
