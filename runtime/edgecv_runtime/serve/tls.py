"""Certificates of a server: its own, and by whom those of its clients have to be signed."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from edgecv_runtime.errors import BadInput
from edgecv_runtime.records import Record


class Tls(Record, frozen=True):
    """Files in PEM: cert, with its chain, and key; client_ca: who signs the certificates that clients must show."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> None:
        """Raises BadInput for a file that cannot be read, is none, or does not belong to the other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except (OSError, ssl.SSLError) as exc:
            raise BadInput(f"{self.cert}, {self.key}: no certificate with its key, in PEM: {_why(exc)}") from exc
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ssl.SSLError) as exc:
                raise BadInput(f"{self.client_ca}: no certificates of who signs those of clients: {_why(exc)}") from exc

    def for_uvicorn(self) -> dict[str, Any]:
        """Settings of uvicorn."""
        asked = {} if self.client_ca is None else {"ssl_ca_certs": str(self.client_ca)}
        required = ssl.CERT_NONE if self.client_ca is None else ssl.CERT_REQUIRED
        return {"ssl_certfile": str(self.cert), "ssl_keyfile": str(self.key), "ssl_cert_reqs": required, **asked}

    def for_grpc(self) -> tuple[list[tuple[bytes, bytes]], bytes | None, bool]:
        """Arguments of grpc.ssl_server_credentials."""
        ca = None if self.client_ca is None else self.client_ca.read_bytes()
        return [(self.key.read_bytes(), self.cert.read_bytes())], ca, ca is not None


def of_files(cert: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    """What the files say, checked; None without any; raises BadInput."""
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise BadInput("--tls-cert and --tls-key belong together, and --client-ca to both")
    tls = Tls(cert, key, client_ca)
    tls.check()
    return tls


def _why(exc: Exception) -> str:
    reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None)
    return str(reason or exc).lower().replace("_", " ")
