"""A TLS end before Postgres, whose certificate can be renewed, and the authority that signs it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

REQUEST = 8  # bytes of an SSLRequest
HERE = "127.0.0.1"
Result = TypeVar("Result")


class Authority:
    """Signs certificates for 127.0.0.1; `file` is what clients trust."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "authority.pem"
        self._folder = folder
        self._key = _new_key()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        signs = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        own = self._builder(self._name, self._key, days=1).add_extension(x509.BasicConstraints(True, None), True)
        own = own.add_extension(signs, True)
        self.file.write_bytes(own.sign(self._key, SHA256()).public_bytes(Encoding.PEM))

    def context(self, days: int = 1) -> ssl.SSLContext:
        """A server's side, as `certificate`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate(days))
        return context

    def certificate(self, days: int = 1) -> Path:
        """A file with a new key, valid until in so many days; a negative number: until so long ago."""
        key = _new_key()
        name = x509.SubjectAlternativeName([x509.IPAddress(ip_address(HERE))])
        made = self._builder(x509.Name([]), key, days).add_extension(name, True).sign(self._key, SHA256())
        path = self._folder / f"{made.serial_number}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(made.public_bytes(Encoding.PEM) + private)
        return path

    def _builder(self, subject: x509.Name, key: EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
        until = datetime.now(UTC) + timedelta(days)
        built = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        # Without the keys' names and usage, Python 3.13 takes no certificate.
        built = built.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return built.add_extension(issuer, False).not_valid_before(until - timedelta(2)).not_valid_after(until)


def _new_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())  # which browsers take, too


class SecuredWire:
    """Takes TLS off what comes for Postgres. `handshakes`: those that succeeded with the certificate of now."""

    def __init__(self, dsn: str, authority: Authority) -> None:
        parts = urlsplit(dsn)
        self._target = (parts.hostname, parts.port)
        self._context = authority.context()
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.WriteTransport] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.handshakes = 0
        self._thread.start()
        self._server = self._in_loop(asyncio.start_server(self._client, HERE, 0))
        port = self._server.sockets[0].getsockname()[1]
        netloc = f"{parts.username}:{parts.password}@{HERE}:{port}"
        query = f"sslmode=verify-full&sslrootcert={authority.file}"
        self.dsn = parts._replace(netloc=netloc, query=query).geturl()

    def __enter__(self) -> SecuredWire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.close()
        self._in_loop(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def renew(self, context: ssl.SSLContext) -> None:
        """Show another certificate from now on, to those that are connected too."""
        self._context, self.handshakes = context, 0
        self._in_loop(self._end_all())

    def _in_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _end_all(self) -> None:
        for transport in self._open:
            transport.abort()
        await asyncio.sleep(0)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport  # the writer has none after a handshake that failed
        self._open.add(transport)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(REQUEST)
            writer.write(b"S")
            await writer.start_tls(self._context)
            self.handshakes += 1
            back, forth = await asyncio.open_connection(*self._target)
            self._open.add(forth.transport)
            await asyncio.gather(_pass(reader, forth), _pass(back, writer))
            self._open.discard(forth.transport)
        self._open.discard(transport)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
