"""Addresses of engines and of the gateway."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.config.address import Backend, is_loopback, parse_backend, reaches
from sage_inference.config.errors import ConfigError
from sage_inference.netloc import reachable


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        ("http://h:8001", Backend("http", "h", 8001)),
        ("http://h:8001/v1", Backend("http", "h", 8001)),
        ("h:8001/v1/", Backend("http", "h", 8001)),
        ("https://h", Backend("https", "h", 443)),
        ("HTTP://h", Backend("http", "h", 80)),
        ("https://h/openai/v1", Backend("https", "h", 443, "/openai")),
        ("[::1]:9", Backend("http", "::1", 9)),
        ("http://my_engine:1", Backend("http", "my_engine", 1)),
        ("unix:/run/v.sock", Backend("http", "localhost", 80, uds="/run/v.sock")),
        ("unix:///run/v.sock", Backend("http", "localhost", 80, uds="/run/v.sock")),
        ("UNIX:/run//./v 1.sock", Backend("http", "localhost", 80, uds="/run/v 1.sock")),
        ("unix:/run/ü@x#y?z:80", Backend("http", "localhost", 80, uds="/run/ü@x#y?z:80")),
        ("unix:8001", Backend("http", "unix", 8001)),
        ("unix:8001/v1", Backend("http", "unix", 8001)),
    ],
)
def test_an_address_is_read(text: str, backend: Backend) -> None:
    assert parse_backend(text) == backend
    assert parse_backend(backend.base_url) == backend


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "port is missing"),
        ("h", "port is missing"),
        ("8001", "port is missing"),
        (":8001", "host is missing"),
        ("h:0", "from 1 to 65535"),
        ("h:65536", "from 1 to 65535"),
        ("h:８", "from 1 to 65535"),
        ("ftp://h:1", "only http and https"),
        ("http://h:1/?q", "must be http://host:port"),
        ("http://h:1/a b", "must be http://host:port"),
        ("http://h:1\n", "must be http://host:port"),
        ("::1:8001", "must be http://host:port"),
        ("300.1.1.1:1", "must be http://host:port"),
        ("file:///etc/passwd", "only http and https"),
        ("unix:", "must be absolute, as in unix:/run/vllm.sock"),
        ("unix:v.sock", "must be absolute"),
        ("unix:~/v.sock", "must be absolute"),
        ("unix:@abstract", "must be absolute"),
        ("unix://run/v.sock", "must be absolute"),
        ("unix:/", "a Unix socket is a file"),
        ("unix:/run/", "a Unix socket is a file"),
        ("unix:/run/v.sock/v1", "write it without /v1"),
        ("unix:/" + 107 * "a", "has 108 bytes, and a Unix socket's has at most 107"),
        ("unix:/" + 54 * "ü", "has 109 bytes"),
        ("unix:/run/a\nb", "must be http://host:port"),
        ("unix:/run/a\0b", "must be http://host:port"),
    ],
)
def test_a_mistyped_address_is_told(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_backend(text)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as error:
        parse_backend("http://me:hunter2@h:1")
    assert "hunter2" not in str(error.value)


@given(
    st.text(max_size=40)
    | st.text("htp:/[]@.0123456789a", max_size=30)
    | st.text(max_size=30).map("unix:/{}".format)
    | st.text("/.v1#u ", max_size=30).map("unix:{}".format)
)
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        backend = parse_backend(text)
    except ConfigError:
        return
    assert 1 <= backend.port <= 65535
    assert parse_backend(backend.base_url).identity == backend.identity


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("h", False),
        ("Localhost", True),
        ("LOCALHOST.", True),
        ("gw.localhost", True),
        ("[::1]", True),
        ("::1%lo", True),
        ("127.1", True),
        ("0x7f000001", True),
        ("127.0.0.1.", True),
        ("::ffff:127.0.0.1", True),
        ("[::ffff:7f00:1]", True),
        ("::ffff:192.0.2.1", False),
        ("[::]", False),
        ("fe80::1%lo", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.nip.io", False),
        ("notlocalhost", False),
        ("", False),
    ],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("url", "host", "reached"),
    [
        ("127.0.0.1:8000", "127.0.0.1", True),
        ("localhost:8000", "127.0.0.1", True),
        ("127.0.0.1:8000", "0.0.0.0", True),
        ("127.0.0.1:8001", "127.0.0.1", False),
        ("127.0.0.2:8000", "127.0.0.1", False),
        ("h:8000", "0.0.0.0", False),
        ("gw.localhost:8000", "0.0.0.0", True),
        ("[::1]:8000", "Localhost", True),
        ("http://LOCALHOST.:8000", "[::1]", True),
        ("[::ffff:127.0.0.1]:8000", "127.0.0.1", True),
        ("H.:8000", "h", True),
    ],
)
def test_our_own_address_is_recognised(url: str, host: str, reached: bool) -> None:
    assert reaches(parse_backend(url), host, 8000) is reached


@pytest.mark.parametrize(
    "urls",
    [
        ("http://h:1/llama", "http://h:1/qwen/v1"),
        ("http://h:1", "http://h:1/qwen"),
        ("http://h:443", "https://h"),
        ("https://h/a", "https://h/b"),
        ("http://[::1]:1/a", "http://[::1]:1"),
        ("http://h:1/a/b", "http://h:1/a%2Fb"),
        ("http://h:1", "http://h:2"),
    ],
)
def test_two_addresses_have_two_names(urls: tuple[str, str]) -> None:
    assert len({parse_backend(url).name for url in urls}) == 2


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_an_address_without_a_prefix_is_named_by_host_and_port(path: str) -> None:
    assert parse_backend(f"http://h:1{path}").name == "h:1"


def test_an_instance_at_a_socket_is_named_by_it_and_equals_itself_only() -> None:
    backend = parse_backend("unix:///run//v.sock")
    assert backend.name == backend.base_url == "unix:/run/v.sock"
    assert backend.identity == parse_backend("unix:/run/v.sock").identity
    assert backend.identity != parse_backend("unix:/run/w.sock").identity
    assert backend.identity != parse_backend("localhost:80").identity


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_socket_is_never_the_gateways_own_address(host: str) -> None:
    assert not reaches(parse_backend("unix:/run/v.sock"), host, 80)


@pytest.mark.parametrize(
    ("host", "reached_at"),
    [
        ("", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("[::]", "::1"),
        ("::1", "::1"),
        ("[fe80::1]", "fe80::1"),
        ("gpu.lan", "gpu.lan"),
    ],
)
def test_a_listener_on_all_addresses_is_reached_over_loopback(host: str, reached_at: str) -> None:
    assert reachable(host) == reached_at
