"""Addresses: which are public, and what is accepted without asking DNS; what is refused is in test_outbound.py."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation import addresses
from tests.moderation.test_outbound import settings_with


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://example.com:8443/a/b.jpg?size=large&x=%20#top",
        "HTTPS://EXAMPLE.COM/x",
        "https://bücher.example/ä.jpg",
        "https://8.8.8.8/x.jpg",
        "https://[2606:4700::1111]/x.jpg",
        "https://does-not-exist.invalid/",
        "https://localhost.example.com/",
    ],
)
def test_a_link_is_accepted_without_asking_dns(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_dns(*args: object, **named: object) -> None:
        raise AssertionError("DNS was asked")

    monkeypatch.setattr(socket, "getaddrinfo", no_dns)
    addresses.check_url(url, settings_with())


@pytest.mark.parametrize("port", [80, 443, 1024, 8080, 8443, 9000, 65535])
def test_ports_of_the_web_are_accepted(port: int) -> None:
    for scheme in ("http", "https"):
        addresses.check_url(f"{scheme}://example.com:{port}/", settings_with())


@given(st.ip_addresses(v=4))
def test_no_v4_address_is_public_that_the_standard_library_calls_private(address: ipaddress.IPv4Address) -> None:
    if addresses.is_public(address):
        assert address.is_global and not address.is_multicast and not address.is_reserved
    mapped = ipaddress.IPv6Address(f"::ffff:{address}")
    nat64 = ipaddress.IPv6Address(f"64:ff9b::{address}")
    assert addresses.is_public(mapped) == addresses.is_public(nat64) == addresses.is_public(address)


@given(st.ip_addresses(v=6))
def test_no_v6_address_is_public_that_the_standard_library_calls_private(address: ipaddress.IPv6Address) -> None:
    if addresses.is_public(address):
        assert address.is_global and not address.is_multicast


def test_public_addresses_are_public() -> None:
    for text in ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888"]:
        assert addresses.is_public(ipaddress.ip_address(text)), text
