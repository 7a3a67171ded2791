"""Addresses that other people gave: which of them may be called at all.

Such an address may be a trap: it may name our own network, in any notation, or another protocol's port. What can be
said without asking DNS is said here; calling one, and checking what its name resolves to, is moderation/outbound.py's.
Messages name only what the person gave, never an address that was found.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from moderation.errors import AddressRefused
from moderation.settings import Settings

MAX_URL_CHARACTERS = 4096  # presigned links with a session token run to 2,500
DEFAULT_PORTS = {"http": 80, "https": 443}
FIRST_FREE_PORT = 1024  # below it are services of other protocols, which a request could be made to look like
# Where browsers do not connect to from there on (https://fetch.spec.whatwg.org/#port-blocking): NFS, X11, IRC, …
REFUSED_PORTS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 10080}
)
# What `ipaddress` calls global in some Python versions and is not for us. IANA special-purpose registries, and
# Azure's metadata address, which is public by its number only.
_REFUSED_V4 = [ipaddress.IPv4Network(n) for n in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "240.0.0.0/4")]
# Only 2000::/3 is given out as global unicast (RFC 4291); tunnels (Teredo, 6to4) hide a second address and are refused.
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = [ipaddress.IPv6Network(n) for n in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: how networks without IPv4 reach it


@dataclass(frozen=True)
class Target:
    """A URL taken apart; `host` is lower case, ASCII, without brackets. `named` is what messages call it."""

    scheme: str
    host: str
    port: int
    path: str
    named: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.path}"

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def exemption(self) -> str:
        """How `allowed_hosts` would name it: always with the port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_link(url: str) -> None:
    """Refuse what is no http(s) address at all: for the moment at which a link is accepted.

    Where it leads is found out when it is read: a private address, written or resolved, ends the case the same way.
    Raises AddressRefused.
    """
    read(url)


def check_url(url: str, settings: Settings) -> None:
    """Refuse what can be refused without asking DNS: for the moment at which an endpoint is accepted.

    A name that resolves to something private passes here, and is refused when it is called. Raises AddressRefused.
    """
    target = read(url)
    refuse_port(target, settings)
    written_address(target, settings)


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one that anybody on the internet could mean: unicast, global, no hidden second address.

    Stricter than `ipaddress.is_global`, which changes with the Python version and calls some relays global.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in n for n in _REFUSED_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _UNICAST_V6 and not any(address in n for n in _REFUSED_V6)


def read(url: str, *, redirected: bool = False) -> Target:
    """A URL taken apart by one parser, for check and connection alike; `redirected`: it is not of who gave the link.

    Raises AddressRefused for what is no plain http(s) address.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise AddressRefused(f"The URL has {len(url)} characters; at most {MAX_URL_CHARACTERS} are accepted.")
    # Parsers disagree about these, and a disagreement is how a check and a connection come apart.
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise AddressRefused("The URL holds a space, a backslash or a control character: percent-encode it.")
    try:
        parsed = parse_url(url)
    except LocationParseError as error:
        raise AddressRefused("The URL cannot be read: give one like https://example.com/picture.jpg.") from error
    if parsed.scheme not in DEFAULT_PORTS:
        raise AddressRefused("The URL must begin with http:// or https://.")
    if parsed.auth is not None:
        raise AddressRefused("The URL must not hold a user name or password: use a link that works without them.")
    host = (parsed.host or "").strip("[]").rstrip(".").lower()
    if not host or "%" in host or not host.isascii():
        raise AddressRefused("The URL must name a host, without a zone: give one like https://example.com/picture.jpg.")
    if parsed.port == 0:
        raise AddressRefused("The URL's port must be between 1 and 65535.")
    # Where somebody else's server redirects to is not for the person who gave the link to learn.
    named = "The address that the link redirects to" if redirected else f"'{host}'"
    return Target(parsed.scheme, host, parsed.port or DEFAULT_PORTS[parsed.scheme], parsed.request_uri, named)


def written_address(target: Target, settings: Settings) -> str | None:
    """The address that a URL itself writes out, if any. Raises AddressRefused for one that is not public."""
    literal = _literal(target.host)
    if literal is not None:
        refuse_unless_public([literal], target, settings)
    elif _is_local_name(target.host):
        refuse_unless_public([], target, settings)
    return literal


def _literal(host: str) -> str | None:
    """The address that `host` writes out, in any form that the system's resolver would take as one (0x7f.1, 127.1)."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def _is_local_name(host: str) -> bool:
    # RFC 6761: these never leave the machine.
    return host == "localhost" or host.endswith(".localhost")


def refuse_unless_public(addresses: list[str], target: Target, settings: Settings) -> None:
    """Of what a target writes out or resolves to. Raises AddressRefused, but for an exempted host."""
    if target.exemption in settings.allowed_hosts:
        return
    # One private address among public ones is how rebinding begins, so all of them must be public.
    if not addresses or not all(_is_public_text(address) for address in addresses):
        raise AddressRefused(f"{target.named} is not a public address: give one that anybody can reach.")


def _is_public_text(address: str) -> bool:
    try:
        return is_public(ipaddress.ip_address(address))
    except ValueError:
        return False  # an address with a zone and the like


def refuse_port(target: Target, settings: Settings) -> None:
    """Raises AddressRefused for a port where browsers would not connect to, but for an exempted host."""
    usual = target.port in DEFAULT_PORTS.values()
    free = target.port >= FIRST_FREE_PORT and target.port not in REFUSED_PORTS
    if not usual and not free and target.exemption not in settings.allowed_hosts:
        raise AddressRefused(f"Port {target.port} is not for the web: use 443, 80 or one from {FIRST_FREE_PORT} up.")
