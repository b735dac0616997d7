"""The report as one HTML file: no address in it leads out, and nothing in it is fetched."""

from __future__ import annotations

import base64
import hashlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import segmend
from segmend.diagnose.report import words
from segmend.diagnose.report.comparison import compare
from segmend.diagnose.report.gallery import Locate, gallery
from segmend.diagnose.report.payload import charts, columns, histogram, script_json, table
from segmend.diagnose.report.pictures import LEGEND, Picture
from segmend.diagnose.report.ranking import families_of
from segmend.diagnose.result import Diagnosis
from segmend.errors import SegmendError

GALLERY = 36
"""Images in the gallery by default."""
SCRIPTS = ("page.js", "charts.js", "table.js", "gallery.js", "start.js")


def render_html(
    diagnosis: Diagnosis,
    *,
    against: Diagnosis | None = None,
    mended: Diagnosis | None = None,
    num_pictures: int = GALLERY,
    rows_from: str | None = None,
    locate: Locate | None = None,
) -> str:
    """The report of a diagnosis as the text of one HTML file.

    The slider of the gallery goes from these predictions to `mended` or else to `against`.

    Args:
        against: of another model on the same images, to compare with.
        mended: of the same predictions after mending; gives before and after.
        num_pictures: images in the gallery, at most; 0 leaves it out.
        rows_from: address that serves the table's rows; they stand in the page by default.
        locate: where pictures are read from; see `gallery`.
    Raises:
        SegmendError: `against` or `mended` is of other images, or of another size.
    """
    rival = mended or against
    other = None if rival is None else rival.cases
    entries = gallery(diagnosis, num_pictures, other=other, locate=locate)
    rows = table(diagnosis) if rows_from is None else {"from": rows_from, **columns(diagnosis)}
    plotly, scripts = _plotly(), _scripts()
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            d=diagnosis,
            headline=words.sentences(diagnosis.verdict.headline),
            against=None if against is None else compare(diagnosis, against),
            mended=None if mended is None else compare(diagnosis, mended),
            entries=entries,
            families=families_of(diagnosis),
            gallery_kinds=[f for f in families_of(diagnosis) if any(f in e.kinds for e in entries)],
            bins=histogram(row.score for row in diagnosis.images),
            legend=_legend(),
            rows_left_out=len(diagnosis.images) - len(rows.get("names", diagnosis.images)),
            data=Markup(script_json({"charts": charts(diagnosis), "table": rows})),
            style=Markup(_asset("report.css")),
            plotly=Markup(plotly),
            scripts=Markup(scripts),
            policy=_policy(plotly, scripts, served=rows_from is not None),
            version=segmend.__version__,
        )
    )


def render_image(
    diagnosis: Diagnosis, position: int, pictures: Sequence[tuple[str, Picture]]
) -> str:
    """A page of one image, for the report's server: larger pictures, and what each fix gains."""
    template = _environment().get_template("image.html.j2")
    return template.render(
        d=diagnosis,
        position=position,
        pictures=pictures,
        legend=_legend(),
        style=Markup(_asset("report.css")),
        policy="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'",
    )


def _legend() -> dict[str, str]:
    return {
        name: words.css_colour((r / 255, g / 255, b / 255)) for name, (r, g, b) in LEGEND.items()
    }


def _policy(*scripts: str, served: bool) -> str:
    """Content security policy: only the scripts written here run, and nothing leaves the page."""
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    own = " 'self'; connect-src 'self'" if served else ""
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        f"img-src data:{own}; base-uri 'none'; form-action 'none'"
    )


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


@cache
def _plotly() -> str:
    """The library's text, as browsers hash and run it."""
    found = pkgutil.get_data("plotly", "package_data/plotly.min.js")  # what get_plotlyjs() gives
    if found is None:
        raise SegmendError("plotly is installed without plotly.min.js; reinstall plotly")
    text = found.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("</script", "<\\/script")


@cache
def _scripts() -> str:
    return "\n".join(_asset(name) for name in SCRIPTS)


def _asset(name: str) -> str:
    return files("segmend.diagnose.report").joinpath("assets", name).read_text("utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("segmend.diagnose.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Mapping[str, Any] = {
        "percent": words.percent,
        "points": words.points,
        "whole": words.whole,
        "p_value": words.p_value,
        "css_colour": words.css_colour,
    }
    environment.filters.update(filters)
    environment.globals.update(
        interval=words.interval,
        chances=words.chances,
        FAMILIES=words.FAMILIES,
        ADDONS=words.ADDONS,
    )
    return environment
