"""A mail server on loopback, which keeps what it is sent, or says what it is told to say."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as SERVER
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.services import LOOPBACK
from moderation.settings import Settings, settings

USER, PASSWORD = "telltale", "p@ss word/1"
QUOTED = "telltale:p%40ss%20word%2F1"
FROM = "Telltale <telltale@telltale.example>"


@dataclass
class Mailbox:
    """What a server took, by whom it was signed in, and what it answers where that is not 250."""

    port: int = 0
    rcpt: str = "250 OK"
    data: str = "250 OK"
    taken: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    signed_in: list[bool] = field(default_factory=list)

    async def handle_RCPT(
        self, server: SERVER, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.rcpt.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.rcpt

    async def handle_DATA(self, server: SERVER, session: Session, envelope: Envelope) -> str:
        if self.data.startswith("250"):
            message = BytesParser(policy=SMTP).parsebytes(envelope.original_content or b"")
            assert isinstance(message, EmailMessage)
            self.taken.append(message)
            self.recipients.append(list(envelope.rcpt_tos))
            self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
            self.signed_in.append(session.authenticated)
        return self.data

    def rules(self, scheme: str = "smtp", user: str | None = None) -> Settings:
        """Settings that name this server."""
        url = f"{scheme}://{f'{user}@' if user else ''}{LOOPBACK}:{self.port}"
        return settings().model_copy(update={"smtp_url": url, "mail_from": FROM, "delivery_timeout_s": 60.0})


class _Anywhere(Controller):
    """On a port that the kernel chooses: of two processes that choose for themselves, both might choose the same."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def serving(kind: type[Mailbox] = Mailbox, **options: Any) -> Iterator[Any]:
    """A server with a mailbox of this kind; `options` are aiosmtpd's."""
    mailbox = kind()
    named = {"server_hostname": "localhost"}  # or for every connection it asks the DNS what it is called
    controller = _Anywhere(mailbox, hostname=LOOPBACK, port=0, ready_timeout=60, **named, **options)
    controller.start()
    mailbox.port = controller.port
    try:
        yield mailbox
    finally:
        controller.stop()


def sign_in(server: SERVER, session: Session, envelope: Envelope, mechanism: str, said: Any) -> AuthResult:
    """aiosmtpd's `authenticator`: one user, one password."""
    right = isinstance(said, LoginPassword) and (said.login, said.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=right, handled=False)


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for loopback, to be trusted, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail server of the tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    return public, context
