"""What the tests add to the servers of the test kit: certificates, and waiting."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from fastdb.errors import ServerFailed, ServerMissing
from fastdb.testing.servers.places import HOST, free_port
from fastdb.testing.servers.server import START_SECONDS, Server

__all__ = ["HOST", "ServerFailed", "ServerMissing", "ServerWithTLS", "free_port", "wait_until"]


class ServerWithTLS(Server):
    """A server that has a certificate.

    Args:
        tls: Offer TLS, with a certificate from the authority in `ca_file`.
        names: The hosts that the certificate is for.
        expired: Let the time of that certificate be over.
        settings: Settings of the server that differ from the ones here.
    """

    def __init__(
        self,
        *,
        tls: bool = True,
        names: Sequence[str] = ("localhost", HOST),
        expired: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(settings=settings)
        self.tls = tls
        self.names = tuple(names)
        self.expired = expired

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.directory / "server.pem"

    @property
    def key(self) -> Path:
        return self.directory / "server.key"

    def _prepare(self) -> None:
        self._write_certificates()
        super()._prepare()

    def _write_certificates(self) -> None:
        if not self.tls:
            return
        authority = trustme.CA()
        end = datetime.now(UTC) - timedelta(days=1) if self.expired else None
        server = authority.issue_cert(*self.names, not_after=end)
        authority.cert_pem.write_to_path(self.ca_file)
        server.cert_chain_pems[0].write_to_path(self.certificate)
        server.private_key_pem.write_to_path(self.key)
        self.key.chmod(0o600)


def wait_until(holds: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Look again and again until `holds`; fail when that takes far too long."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise ServerFailed(f"what was waited for did not come within {seconds} s")
        time.sleep(0.005)
