"""From defaults, a recipe, `--set` and options to one checked settings object, and its record."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.text import Text

from segmend.cli.run_record import as_plain, write_run_record
from segmend.errors import SegmendError

__all__ = ["bundled_recipes", "print_settings", "resolve", "write_run_record"]

Options = TypeVar("Options", bound=BaseModel)


def resolve(
    options_class: type[Options],
    recipe: Path | None = None,
    sets: Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
) -> Options:
    """Settings from, in rising precedence: class defaults, recipe, `--set`, explicit options.

    Args:
        options_class: a pydantic model; fields that are models themselves are reached with a
            dot (`--set network.width=32`) or a nested mapping.
        recipe: a YAML or JSON file, a `run.json` written by an earlier run, or the name of a
            recipe that comes with segmend.
        sets: `key=value` texts; a value in brackets is read as YAML, `null` as None.
        overrides: options typed by the user; None means "not given".
    Returns:
        A checked instance of `options_class`.
    Raises:
        SegmendError: unreadable recipe, unknown key (with the closest known one), or a value
            of the wrong type or range (key, origin, what was found and what was expected).
    """
    given: dict[str, tuple[object, str]] = {}
    if recipe is not None:
        path, content = read_recipe(recipe)
        _lay_over(given, _flatten(options_class, content, origin=f"recipe {path}"))
    for text in sets:
        key, value = _split_set(text)
        _lay_over(given, _flatten(options_class, _nest({key: value}), origin=f"--set {key}"))
    explicit = {key: value for key, value in (overrides or {}).items() if value is not None}
    _lay_over(given, _flatten(options_class, explicit, origin="the command line"))
    try:
        return options_class.model_validate(_nest({k: v for k, (v, _) in given.items()}))
    except ValidationError as error:
        raise SegmendError(_explain(error, given)) from error


def bundled_recipes() -> dict[str, Path]:
    """Recipes that come with segmend, by name."""
    folder = Path(str(files("segmend.cli"))) / "recipes"
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))}


def print_settings(settings: BaseModel | Mapping[str, object], *, title: str = "settings") -> None:
    """Print settings in one compact block on stderr; non-defaults stand out."""
    values = as_plain(settings)
    defaults = _defaults(type(settings)) if isinstance(settings, BaseModel) else {}
    line = Text(f"{title}: ", style="bold")
    for number, (key, value) in enumerate(_leaves(values).items()):
        changed = key in defaults and defaults[key] != value
        line.append(" · " if number else "", style="dim")
        line.append(f"{key}=", style="dim")
        line.append(json.dumps(value, ensure_ascii=False), style="bold cyan" if changed else "")
    Console(stderr=True, highlight=False).print(line)


def read_recipe(recipe: Path) -> tuple[Path, Mapping[str, object]]:
    """Path and content of a YAML file, of a run's `run.json`, or of a bundled recipe's name."""
    bundled = bundled_recipes()
    path = Path(recipe)
    if not path.is_file() and str(recipe) in bundled:
        path = bundled[str(recipe)]
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(bundled) or "none"
        raise SegmendError(
            f"recipe {recipe}: cannot be read ({error.__class__.__name__}); give a YAML file, or "
            f"the name of a bundled recipe ({names})"
        ) from error
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _EachKeyOnce)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SegmendError(f"recipe {path}: not valid {path.suffix[1:]}: {reason}") from error
    if content is None:
        content = {}
    if isinstance(content, dict) and {"command", "settings", "versions"} <= content.keys():
        content = content["settings"]
    if not isinstance(content, dict):
        raise SegmendError(f"recipe {path}: want `key: value` lines, got {type(content).__name__}")
    return path, {str(key): value for key, value in content.items()}


class _EachKeyOnce(yaml.SafeLoader):
    """YAML's safe loader, which by itself lets the last of two equal keys win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [name for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        seen = set()
        for name in names:
            if name.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name.value!r} is given twice", name.start_mark
                )
            seen.add(name.value)
        return super().construct_mapping(node, deep)


def _split_set(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key:
        raise SegmendError(f"--set {text}: want key=value, such as --set seed=1")
    if value in ("null", "~"):
        return key, None
    if not value.startswith(("[", "{")):
        return key, value  # the settings class knows whether this is a number, a switch or a text
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SegmendError(f"--set {text}: the value is not a valid YAML list or map") from error


def _flatten(
    options_class: type[BaseModel], values: Mapping[str, object], *, origin: str, prefix: str = ""
) -> dict[str, tuple[object, str]]:
    """Dotted key -> (value, where it came from); unknown keys are refused here."""
    flat: dict[str, tuple[object, str]] = {}
    fields = options_class.model_fields
    for key, value in values.items():
        if key not in fields:
            raise SegmendError(_unknown(prefix + key, [prefix + f for f in fields], origin))
        inner = _model_of(fields[key].annotation)
        if inner is not None and isinstance(value, Mapping):
            flat |= _flatten(inner, value, origin=origin, prefix=f"{prefix}{key}.")
        else:
            flat[prefix + key] = (value, origin)
    return flat


def _lay_over(given: dict[str, tuple[object, str]], new: dict[str, tuple[object, str]]) -> None:
    """Later values win, also when one sets a whole group and the other a part of it."""
    for key in new:
        for old in [k for k in given if k.startswith(f"{key}.") or key.startswith(f"{k}.")]:
            del given[old]
    given |= new


def _model_of(annotation: object) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _unknown(key: str, known: Sequence[str], origin: str) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{origin}: unknown setting {key!r}.{hint} Known settings: {', '.join(sorted(known))}."


def _nest(flat: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *parents, last = dotted.split(".")
        home = nested
        for parent in parents:
            home = home.setdefault(parent, {})
        home[last] = value
    return nested


def _explain(error: ValidationError, given: Mapping[str, tuple[object, str]]) -> str:
    lines = []
    for problem in error.errors():
        parts = [str(part) for part in problem["loc"]]
        key = next(
            (k for n in range(len(parts), 0, -1) if (k := ".".join(parts[:n])) in given),
            ".".join(parts),
        )
        message = problem["msg"].removeprefix("Value error, ")
        if key in given:
            value, origin = given[key]
            lines.append(f"{origin}: {key}: got {value!r}; {message}")
        else:
            lines.append(f"{key or 'settings'}: {message}")
    return "\n".join(dict.fromkeys(lines))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _defaults(options_class: type[BaseModel]) -> dict[str, Any]:
    required = [k for k, f in options_class.model_fields.items() if f.is_required()]
    blank = options_class.model_construct()
    return _leaves(blank.model_dump(mode="json", exclude=set(required), warnings=False))
