"""The picture of a report in the documentation: the bundled nuclei, as a browser shows them.

    python benchmarks/report_picture.py [--out docs/assets/report.png]

Needs `chromium` (Debian's package, or Playwright's) and Playwright.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import segmend
from segmend.data.files import atomic_write
from segmend.data.sample import nuclei_sample
from segmend.engine.checkpoints import load_segmenter
from segmend.engine.prediction import predict_folder
from segmend.models.pretrained import nuclei_base

WIDTH = 1280
COLOURS = 96
"""Of the palette: the page has few, and the file is a third as large."""


def report(folder: Path) -> Path:
    """The report on the sample's fitting images, which the bundled base has not seen."""
    sample = nuclei_sample()
    shutil.copytree(sample.fit_images, folder / "images")
    shutil.copytree(sample.fit_masks, folder / "masks")
    os.chdir(folder)  # the command that is recommended names these folders
    model, _ = load_segmenter(nuclei_base())
    predict_folder(model, Path("images"), Path("probs"))
    found = segmend.diagnose("probs", "masks", images="images")
    return found.save(folder / "report.html")


def shot(page_file: Path) -> Image.Image:
    """From the top of the page to the end of the chart of gains."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 2400}, color_scheme="light")
        page.goto(page_file.as_uri())
        page.wait_for_selector("#plot-gains svg.main-svg")
        box = page.locator("#gains .chart .plot").bounding_box()
        assert box is not None
        area = {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + 12}
        picture = page.screenshot(clip=area)  # type: ignore[arg-type]
        browser.close()
    return Image.open(io.BytesIO(picture))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/assets/report.png"))
    given = parser.parse_args()
    out = given.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        picture = shot(report(Path(folder)))
        os.chdir(out.parent)
    with atomic_write(out) as temporary:
        picture.convert("RGB").quantize(COLOURS).save(temporary, optimize=True)
    print(f"{out.name}: {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
