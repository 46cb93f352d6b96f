"""The local page over HTTP: on the loopback alone, under an address that nobody can guess, for no other origin."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tracin.errors import InputError
from tracin.exploring.pages import Explorer
from tracin.results.page import render

HOST = "127.0.0.1"
LONGEST = 4096  # letters of an address
PATIENCE = 30  # seconds that a connection may be silent
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Server(ThreadingHTTPServer):
    """Serves one explorer until it is shut down.

    Args:
        explorer: makes the pages.
        port: 0 takes a free one.

    Attributes:
        address: what to open in a browser; whoever does not know it is refused.
    """

    daemon_threads = True

    def __init__(self, explorer: Explorer, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.explorer = explorer
        self.token = secrets.token_urlsafe(24)
        self.port = self.server_address[1]
        self.address = f"http://{HOST}:{self.port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection early is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = PATIENCE
    protocol_version = "HTTP/1.1"
    server_version = "tracin"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(*self._page())

    def do_HEAD(self) -> None:
        self.do_GET()

    def _page(self) -> tuple[HTTPStatus, str]:
        if not self._own_origin():
            return HTTPStatus.FORBIDDEN, _told("Refused", "This page is for this machine alone.")
        if len(self.path) > LONGEST:
            return HTTPStatus.REQUEST_URI_TOO_LONG, _told("Too long", "The address is too long.")
        parts = urlsplit(self.path)
        token, _, address = parts.path.removeprefix("/").partition("/")
        if not compare_digest(token.encode(), self.server.token.encode()):
            return HTTPStatus.FORBIDDEN, _told("Refused", "Open the address that the command printed.")
        explorer = self.server.explorer
        if address not in explorer.views:
            return HTTPStatus.NOT_FOUND, _told("Not there", "There is no such page.")
        try:
            query = dict(parse_qsl(parts.query, max_num_fields=8, errors="replace"))
            return HTTPStatus.OK, explorer.page(address, query)
        except (InputError, ValueError) as error:
            return HTTPStatus.BAD_REQUEST, _told("Not a question", str(error))

    def _own_origin(self) -> bool:
        """Whether the request names this server, and comes from no other site: names can be made to lead here."""
        own = {f"{name}:{self.server.port}" for name in (HOST, "localhost")}
        hosts = self.headers.get_all("Host") or []
        origin = self.headers.get("Origin")
        return (
            len(hosts) == 1
            and hosts[0] in own
            and (origin is None or origin in {f"http://{name}" for name in own})
            and self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        )

    def _answer(self, status: HTTPStatus, page: str) -> None:
        body = page.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Addresses hold the token: they are not printed."""


def _told(title: str, text: str) -> str:
    return render("explore.html", kind="told", title=title, text=text, form_action="'none'", footer="", query="")


def serve(explorer: Explorer, port: int = 0, ready: Callable[[str], None] = print) -> None:
    """Serves until interrupted; `ready` is told the address.

    Raises:
        InputError: if the port is taken.
    """
    try:
        server = Server(explorer, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"port {port} cannot be taken ({reason}); leave --port out for a free one") from error
    with server:
        ready(server.address)
        server.serve_forever()
