"""The report from a small server on this machine only: rows and pictures when they are asked for.

Nothing is served by the path of a file: an address names a page, a set of rows, or a picture by
the number of its image. So no address leads out of what was diagnosed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qsl, urlsplit

from segmend.diagnose.report.gallery import OTHER
from segmend.diagnose.report.html import GALLERY, render_html, render_image
from segmend.diagnose.report.payload import plain
from segmend.diagnose.report.pictures import KINDS, Picture, draw, encode, flat
from segmend.diagnose.report.rows import Rows, read_query
from segmend.diagnose.result import Diagnosis
from segmend.errors import SegmendError

LOOPBACK = "127.0.0.1"
LARGE = 900
"""Side in pixels of the square that a picture of one image's own page is fitted into."""
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass
class Answer:
    """What is sent back."""

    body: bytes
    media_type: str = "text/html; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


@dataclass
class Site:
    """The pages of one diagnosis by their addresses; `answer` is all that the server calls."""

    diagnosis: Diagnosis
    against: Diagnosis | None = None
    mended: Diagnosis | None = None
    num_pictures: int = GALLERY
    _pictures: dict[str, Picture] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._rows = Rows(self.diagnosis)
        page = render_html(
            self.diagnosis,
            against=self.against,
            mended=self.mended,
            num_pictures=self.num_pictures,
            rows_from="rows",
            locate=self._keep,
        )
        self._page = page.encode("utf-8")

    def answer(self, address: str) -> Answer:
        """What stands at an address such as "/rows?start=50".

        Raises:
            SegmendError: a query that cannot be read, or a file of an image that cannot be.
            LookupError: nothing stands there.
        """
        parts = urlsplit(address)
        match parts.path.split("/")[1:]:
            case [""]:
                return Answer(self._page)
            case ["rows"]:
                query = read_query(dict(parse_qsl(parts.query)))
                with self._lock:
                    content = json.dumps(plain(self._rows.page(query)))
                return Answer(content.encode("utf-8"), "application/json")
            case ["image", number]:
                return Answer(self._image_page(self._position(number)).encode("utf-8"))
            case ["picture", number, kind] if kind in (*KINDS, OTHER):
                return self._picture(self._position(number), kind)
        raise LookupError(address)

    def _keep(self, position: int, kind: str, picture: Picture) -> str:
        self._pictures[f"{position}/{kind}"] = picture
        return f"picture/{position}/{kind}"

    def _position(self, number: str) -> int:
        known = number.isascii() and number.isdigit() and len(number) < 10
        if not known or int(number) >= len(self.diagnosis.images):
            raise LookupError(number)
        return int(number)

    def _picture(self, position: int, kind: str) -> Answer:
        known = self._pictures.get(f"{position}/{kind}")
        if known is None:
            raise LookupError(kind)
        return Answer(known.data, known.media_type)

    def _image_page(self, position: int) -> str:
        if self.diagnosis.cases is None:
            return render_image(self.diagnosis, position, [])
        with self._lock:  # readers of files need not stand two readers at once
            case, _ = flat(self.diagnosis.cases[self.diagnosis.images[position].index])
        classes = len(self.diagnosis.setting.classes)
        pictures = [(kind, encode(draw(case, kind, classes), side=LARGE)) for kind in KINDS]
        return render_image(self.diagnosis, position, pictures)


class ReportServer(ThreadingHTTPServer):
    """Serves one site on the loopback interface; `address` says where."""

    daemon_threads = True

    def __init__(self, site: Site, *, port: int = 0) -> None:
        self.site = site
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise SegmendError(
                f"port {port}: cannot be opened ({error.strerror}); choose another, or 0 for any"
            ) from error

    @property
    def address(self) -> str:
        """Where a browser finds the report."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    server_version = "segmend"
    sys_version = ""

    def do_GET(self) -> None:
        self._send(self._answer(), with_body=True)

    def do_HEAD(self) -> None:
        self._send(self._answer(), with_body=False)

    def _answer(self) -> Answer:
        # Another site's page can point a name of its own at this address: its name is refused.
        port = self.server.server_address[1]
        if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to 127.0.0.1")
        try:
            return self.server.site.answer(self.path)
        except LookupError:
            return _refusal(HTTPStatus.NOT_FOUND, "nothing stands here")
        except SegmendError as error:
            return _refusal(HTTPStatus.BAD_REQUEST, str(error))

    def _send(self, answer: Answer, *, with_body: bool) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in SECURITY.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal shows the address alone."""


def _refusal(status: HTTPStatus, text: str) -> Answer:
    return Answer(f"{text}\n".encode(), "text/plain; charset=utf-8", status)
