"""Addresses that somebody who means harm would give, and a name server of their own; nothing here reaches a network.

`LITERAL` can be refused by looking at them, `NAMED` only once the name is resolved.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

PUBLIC = "93.184.215.14"
# Hosts that write out an address of ours, in every form that some parser takes for one.
HOSTS = {
    "loopback": "127.0.0.1",
    "loopback, another": "127.255.255.254",
    "this host": "0.0.0.0",
    "zero": "0",
    "private, 10/8": "10.1.2.3",
    "private, 172.16/12": "172.31.255.1",
    "private, 192.168/16": "192.168.0.1",
    "link-local": "169.254.1.1",
    "carrier-grade NAT": "100.127.0.1",
    "benchmarking": "198.19.0.1",
    "multicast": "239.255.255.250",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "documentation": "203.0.113.7",
    "metadata, AWS and most": "169.254.169.254",
    "metadata, AWS tasks": "169.254.170.2",
    "metadata, AWS over v6": "[fd00:ec2::254]",
    "metadata, Google over v6": "[fd20:ce::254]",
    "metadata, Alibaba": "100.100.100.200",
    "metadata, Oracle": "192.0.0.192",
    "metadata, Azure": "168.63.129.16",
    "loopback, v6": "[::1]",
    "unspecified, v6": "[::]",
    "link-local, v6": "[fe80::a9fe:a9fe]",
    "site-local, v6": "[fec0::1]",
    "unique local, v6": "[fc00::1]",
    "multicast, v6": "[ff05::2]",
    "documentation, v6": "[2001:db8::1]",
    "v4 mapped": "[::ffff:127.0.0.1]",
    "v4 mapped, in hex": "[::ffff:a9fe:a9fe]",
    "v4 translated": "[::ffff:0:127.0.0.1]",
    "v4 compatible": "[::127.0.0.1]",
    "v4 compatible, public": "[::93.184.215.14]",
    "6to4": "[2002:7f00:1::]",
    "6to4, public": "[2002:5db8:d70e::1]",
    "6to4 relay": "192.88.99.1",
    "Teredo": "[2001:0:5db8:d70e::1]",
    "ORCHID": "[2001:20::1]",
    "NAT64": "[64:ff9b::169.254.169.254]",
    "NAT64, local use": "[64:ff9b:1::a9fe:a9fe]",
    "NAT64, local use, of a public one": "[64:ff9b:1::5db8:d70e]",
    "discard only": "[100::1]",
    "segment routing": "[5f00::1]",
    "decimal": "2130706433",
    "decimal metadata": "2852039166",
    "hex": "0x7f000001",
    "hex, capital X": "0X7F.0X0.0X0.0X1",
    "octal": "0177.0.0.01",
    "octal, whole": "017700000001",
    "octal, with zeros": "00000177.1",
    "mixed bases": "0xa9.254.0251.0376",
    "two parts": "127.1",
    "three parts": "10.1.515",
    "trailing dot": "127.0.0.1.",
    "trailing dots": "127.0.0.1..",
    "percent-encoded": "%31%32%37.0.0.1",
    "percent-encoded name": "%6c%6f%63alhost",
    "full-width digits": "１２７.0.0.1",
    "full-width dots": "127．0．0．1",
    "ideographic dots": "127。0。0。1",
    "circled digits": "①②⑦.⓪.⓪.①",
    "circled letters": "ⓛocalhost",
    "soft hyphen": "local\u00adhost",
    "zero-width space": "local\u200bhost",
    "localhost": "localhost",
    "localhost, root": "LOCALHOST.",
    "below localhost": "api.localhost",
    "zone": "[fe80::1%25eth0]",
    "zone, bare": "[::1%lo]",
    "IPvFuture": "[v1.fe80::a]",
}
# Whole URLs: two parsers would read two hosts in them, or one of them a header, or no web at all.
URLS = {
    "no host": "http:///x",
    "one slash": "http:/127.0.0.1/",
    "no slash": "http:127.0.0.1",
    "four slashes": "http:////127.0.0.1/",
    "user": "http://example.com@127.0.0.1/",
    "user and password": "http://a:b@127.0.0.1/",
    "user with an encoded slash": "http://example.com%2f@127.0.0.1/",
    "an empty user": "http://@127.0.0.1/",
    "two users": "http://a@example.com@127.0.0.1/",
    "port and user": "http://example.com:80@127.0.0.1/",
    "fragment before the user": "http://127.0.0.1#@example.com/",
    "query before the user": "http://127.0.0.1?@example.com/",
    "backslash before the user": "http://example.com\\@127.0.0.1/",
    "backslash for a slash": "http:\\\\127.0.0.1\\",
    "backslash in the host": "http://127.0.0.1\\.example.com/",
    "space in the host": "http://127.0.0.1 .example.com/",
    "space before": " http://127.0.0.1/",
    "tab": "http://127.0.0.1\t/",
    "line end": "http://127.0.0.1/\r\nHost: example.com",
    "NUL": "http://127.0.0.1\x00.example.com/",
    "NUL, encoded": "http://127.0.0.1%00.example.com/",
    "vertical tab": "http://127.0.0.1\x0b/",
    "not a port": "http://example.com:http/",
    "a port with a sign": "http://example.com:+80/",
    "a port with other digits": "http://example.com:٨٠/",
    "two ports": "http://example.com:80:22/",
    "port 0": "http://example.com:0/",
    "port beyond": "http://example.com:65616/",
    "open bracket": "http://[::1/",
    "half a character": "http://exa\ud800mple.com/",
    "too long": "http://example.com/" + "x" * 5000,
    "no scheme": "example.com/x.png",
    "relative scheme": "//127.0.0.1/",
    "file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1/",
    "gopher": "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict": "dict://127.0.0.1:6379/INFO",
    "ldap": "ldap://127.0.0.1/",
    "data": "data:image/png;base64,iVBORw0KGgo=",
    "jar": "jar:http://127.0.0.1!/",
    "s3": "s3://bucket/key",
    "unix": "http+unix://%2Fvar%2Frun%2Fdocker.sock/images/json",
    "javascript": "javascript:alert(1)",
}
# Ports of other services: mail, shells, file shares, telephony, screens, chat.
PORTS = [1, 7, 21, 22, 23, 25, 53, 79, 110, 111, 119, 139, 143, 389, 445, 465, 514, 587, 636, 993, 1720, 2049, 5060]
PORTS += [6000, 6667, 10080]

LITERAL = {
    **{name: f"http://{host}/x.png" for name, host in HOSTS.items()},
    **{f"{name}, https": f"https://{host}:8443/x.png" for name, host in list(HOSTS.items())[::6]},
    **URLS,
    **{f"port {port}": f"http://{PUBLIC}:{port}/" for port in PORTS},
}

# What the attacker's name server says of each name: one answer for every time it is asked, the last one for ever.
ZONE: dict[str, list[list[str]]] = {
    "loopback.attacker.example": [["127.0.0.1"]],
    "loopback6.attacker.example": [["::1"]],
    "private.attacker.example": [["10.0.0.1"]],
    "metadata.attacker.example": [["169.254.169.254"]],
    "metadata6.attacker.example": [["fd00:ec2::254"]],
    "cgnat.attacker.example": [["100.64.0.1"]],
    "mapped.attacker.example": [["::ffff:127.0.0.1"]],
    "nat64.attacker.example": [["64:ff9b:1::a9fe:a9fe"]],
    "6to4.attacker.example": [["2002:a9fe:a9fe::"]],
    "teredo.attacker.example": [["2001:0:5db8:d70e::1"]],
    "zone.attacker.example": [["fe80::1%eth0"]],
    "mixed.attacker.example": [[PUBLIC, "192.168.0.1"]],
    "mixed6.attacker.example": [["2606:4700::1111", "::1"]],
    "last-of-many.attacker.example": [[PUBLIC] * 20 + ["127.0.0.1"]],
}
NAMED = {name.partition(".")[0]: f"http://{name}/x.png" for name in ZONE}
# Public when it is checked, ours from then on.
REBINDING = "rebinding.attacker.example"
ZONE[REBINDING] = [[PUBLIC], ["127.0.0.1"]]


@dataclass
class Wire:
    """In place of the system's resolver and its connections: who was asked for, and what was connected to."""

    asked: list[str] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)

    def resolve(self, host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        """`socket.getaddrinfo`."""
        answers = ZONE.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        self.asked.append(host)
        said = answers[min(self.asked.count(host), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in said]

    def connect(self, address: tuple[str, int], *args: Any, **options: Any) -> socket.socket:
        """`socket.create_connection`: nobody is there."""
        self.connected.append(address)
        raise ConnectionRefusedError
