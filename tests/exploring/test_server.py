"""The local page: what each address shows, and who is refused."""

from __future__ import annotations

import http.client
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit

import pytest

from tests.samples.odd_labels import LABELS, odd_model
from tracin.errors import InputError
from tracin.explanation import Explainer
from tracin.exploring import Explorer
from tracin.exploring.server import HOST, Server, serve
from tracin.subject import open_subject

pytestmark = pytest.mark.filterwarnings("ignore:using the factored backend")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    checkpoint, train = odd_model()
    with Server(Explorer(Explainer(open_subject(checkpoint, train)))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def get(server: Server, address: str, method: str = "GET", **headers: str) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=20)
    path = urlsplit(server.address).path + address
    connection.request(method, path, headers={"Host": f"{HOST}:{server.port}"} | headers)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body, response.headers


def query(**values: object) -> str:
    return "?" + urlencode(values)


def test_it_listens_to_this_machine_alone(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert len(server.token) >= 32
    assert Server.__mro__[1].__name__ == "ThreadingHTTPServer"


def test_every_address(server: Server) -> None:
    assert "Look around" in get(server, "")[1]
    assert "Look around" in get(server, "find" + query(q=" "))[1]
    status, body, headers = get(server, "find" + query(q="QUOTES"))
    assert (status, "1 entity holds" in body) == (200, True)
    assert (headers["Cache-Control"], headers["X-Frame-Options"]) == ("no-store", "DENY")
    assert "Nothing found" in get(server, "find" + query(q="no such"))[1]
    assert "ask?head=3&amp;relation=0" in get(server, "entity" + query(id=3))[1]
    body = get(server, "ask" + query(head=3, relation=1))[1]
    assert body.count("why?head=3") == len(LABELS)
    assert "why?head=0" in get(server, "ask" + query(tail=3, relation=1))[1]
    first, again = (get(server, "why" + query(head=3, relation=1, tail=2))[1] for _ in range(2))
    assert first == again
    assert "Which training triples made the model say so?" in first


def test_labels_stay_text(server: Server) -> None:
    for entity in range(len(LABELS)):
        for address in ("entity" + query(id=entity), "why" + query(head=entity, relation=0, tail=1)):
            status, body, _ = get(server, address)
            assert status == 200
            assert body.count("<script>") == 1
            assert "<img" not in body
    assert "&lt;script&gt;" in get(server, "find" + query(q="<script>"))[1]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("nothing", 404),
        ("entity", 400),
        ("entity?id=12", 400),
        ("entity?id=-1", 400),
        ("entity?id=1e3", 400),
        ("entity?id=%D9%A1", 400),  # an Arabic digit
        ("entity?id=9999999999999999999", 400),
        ("ask?relation=0", 400),
        ("ask?head=1", 400),
        ("ask?head=1&relation=3", 400),
        ("why?head=1&relation=0", 400),
        ("find?" + "&".join(f"q{i}=1" for i in range(20)), 400),
        ("find?q=" + "a" * 5000, 414),
        ("../", 404),
    ],
)
def test_what_is_no_address_is_refused(server: Server, address: str, status: int) -> None:
    found, body, _ = get(server, address)
    assert found == status
    assert "Traceback" not in body


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "example.invalid"},
        {"Host": "127.0.0.1"},
        {"Host": "localhost:1"},
        {"Origin": "http://example.invalid"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_origins_are_refused(server: Server, headers: dict[str, str]) -> None:
    assert get(server, "", **headers)[0] == 403


def test_own_origins_are_not(server: Server) -> None:
    assert get(server, "", Host=f"localhost:{server.port}", Origin=f"http://localhost:{server.port}")[0] == 200
    assert get(server, "", **{"Sec-Fetch-Site": "same-origin"})[0] == 200
    status, body, headers = get(server, "", "HEAD")
    assert (status, body, int(headers["Content-Length"]) > 100) == (200, "", True)
    assert get(server, "", "POST")[0] == 501


@pytest.mark.parametrize("path", ["/", "/entity?id=1", "/wrong/", "//", "/%00/"])
def test_without_the_token_nothing_is_shown(server: Server, path: str) -> None:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=20)
    connection.request("GET", path, headers={"Host": f"{HOST}:{server.port}"})
    response = connection.getresponse()
    assert response.status == 403
    assert server.token not in response.read().decode()
    connection.close()


def test_two_hosts_or_none_are_refused(server: Server) -> None:
    path = urlsplit(server.address).path
    for hosts in ("", f"Host: {HOST}:{server.port}\r\nHost: example.invalid\r\n"):
        with socket.create_connection((HOST, server.port), timeout=20) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
            assert connection.recv(100).split()[1] == b"403"


@pytest.mark.slow
def test_a_thousand_requests_leave_memory_flat(server: Server) -> None:
    def load(count: int) -> None:
        for number in range(count):
            head, relation = number % len(LABELS), number % 3
            address = (
                "entity" + query(id=head),
                "ask" + query(head=head, relation=relation),
                "why" + query(head=head, relation=relation, tail=number % 7),
            )[number // 3 % 3]
            assert get(server, address)[0] == 200

    tracemalloc.start()
    try:
        load(200)  # as many pages as are kept
        before = tracemalloc.get_traced_memory()[0]
        load(800)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 2 << 20


def test_a_taken_port_is_said(server: Server) -> None:
    with pytest.raises(InputError, match=f"port {server.port} cannot be taken"):
        serve(server.explorer, server.port)
