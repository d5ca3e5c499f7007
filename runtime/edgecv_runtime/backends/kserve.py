"""A network that another program serves by the Open Inference Protocol v2 over HTTP: edgecv, Triton, MLServer, KServe.

It is named by the address that the protocol gives a model, which `curl` takes, too, and which may hold a version and a
path of a gateway: `kserve:http://host:8000/v2/models/photos.network/versions/2`. Behind a `#` stands which variant of
the bundle it was made of, where the server does not say so itself: edgecv does; of others it is float32 else.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import httpclient, onnxfile
from edgecv_runtime.backends import DEFAULT_DEVICE, UNKNOWN, Executed, Options, Tensors
from edgecv_runtime.backends import kservewire as wire
from edgecv_runtime.datatypes import BINARY
from edgecv_runtime.errors import BackendUnavailable, BadInput, ComputationError, nearest
from edgecv_runtime.httpclient import Client, refusal
from edgecv_runtime.machine import Machine
from edgecv_runtime.manifest import Precision, TensorSpec
from edgecv_runtime.onnxfile import OnnxHeader

EXAMPLE = "kserve:http://HOST:8000/v2/models/NAME"
_VARIABLES = (wire.TOKEN, "EDGECV_KSERVE_CA", "EDGECV_KSERVE_CERT", "EDGECV_KSERVE_KEY")
_PATH = re.compile(r"(?P<prefix>(?:/[^/]+)*?)/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/?")
_SCHEMES = {"http": 80, "https": 443}
_ROWS, _BYTES = 16, 16 << 20  # of a request at most
_STREAMS = 4  # requests at once, where as many were wanted as keep it busy


class Settings(NamedTuple):
    """What is known of a server beside its address; see `KServe`."""

    variant: str
    token: str
    ca: str
    cert: str
    key: str
    timeout_s: float
    retry_s: float


class KServe:
    """A model of a server, as a backend: `load(bundle, backend=KServe("http://host:8000/v2/models/photos.network"))`.

    The bundle's golden inputs prove at every load that it is this bundle's network.
    """

    name = "kserve"

    def __init__(
        self,
        url: str,
        *,
        variant: str = "",
        token: str = "",
        ca: str | Path = "",
        cert: str | Path = "",
        key: str | Path = "",
        timeout_s: float = 10.0,
        retry_s: float = 5.0,
    ) -> None:
        """url: of the model, .../v2/models/NAME[/versions/V]; nothing is asked yet.

        variant: of the bundle, that was given to the server; "": what it says, else float32. token: a bearer's. ca: a
        file with the certificates that the server's is checked by; cert, key: what is shown to it. timeout_s: of one
        answer; retry_s: after which a request is not tried again. Raises BadInput.
        """
        is_plain = url.isascii() and url.isprintable() and " " not in url
        try:
            parts = urlsplit(url if is_plain else "")
            port = _SCHEMES.get(parts.scheme, 0) if parts.port is None else parts.port
        except ValueError:
            parts, port = urlsplit(""), 0
        found, host = _PATH.fullmatch(parts.path), parts.hostname or ""
        if found is None or not host or not port or parts.query or parts.fragment or parts.scheme not in _SCHEMES:
            raise BadInput(f"'{_hidden(url)}' is no address of a model; expected {EXAMPLE}[/versions/V][#VARIANT]")
        if "@" in parts.netloc:
            raise BadInput(f"'{_hidden(url)}': a name or password is not sent; a token is, {wire.TOKEN}")
        if not (timeout_s > 0 and retry_s >= 0 and math.isfinite(timeout_s + retry_s)):
            raise BadInput(f"timeout_s must be positive and retry_s at least 0, got {timeout_s:g} and {retry_s:g}")
        if parts.scheme == "http" and (ca or cert or key):
            raise BadInput(f"'{url}': certificates are for https")
        self.url = url.rstrip("/")
        self._settings = Settings(variant, token, str(ca), str(cert), str(key), timeout_s, retry_s)
        self._place = parts.scheme, host, port
        self._root, self._path = found["prefix"] + "/v2", parts.path.rstrip("/")

    @classmethod
    def of(cls, address: str) -> KServe:
        """Of an address and its `#VARIANT`; token and certificates come from EDGECV_KSERVE_TOKEN, _CA, _CERT, _KEY."""
        if not address:
            raise BadInput(f"kserve wants the address of a model: {EXAMPLE}")
        url, _, variant = address.partition("#")
        token, ca, cert, key = (os.environ.get(variable, "") for variable in _VARIABLES)
        return cls(url, variant=variant, token=token, ca=ca, cert=cert, key=key)

    def __call__(self, model: Path, options: Options) -> Served:
        """Compare what the server says of its model with the file; raises BackendUnavailable, BadInput."""
        self.precisions(options.device)
        if options.threads:
            raise BadInput("kserve: threads are the server's own: leave them out")
        client = self._client()
        try:
            told, header = self._told(client), onnxfile.read(model)
            server = wire.about(client, self._root)
            self._check("input", told.inputs, header.inputs, server)
            self._check("output", told.outputs, header.outputs, server)
            is_binary = BINARY in server.extensions
            streams = options.streams or _STREAMS
            return Served(client, f"{self._path}/infer", header, told.content, is_binary, streams)
        except BaseException:
            client.close()
            raise

    def serves(self, variants: Mapping[str, str]) -> str:
        """The variant whose file it was given: by its own word where it is edgecv, else as it was said here."""
        client = self._client()
        try:
            content = self._told(client).content
        finally:
            client.close()
        if content:
            found = [name for name, digest in variants.items() if digest.startswith(content.rpartition(" ")[2])]
            if not found:
                known = ", ".join(f"{name} {digest[:8]}" for name, digest in variants.items())
                raise BackendUnavailable(f"{self.url}: it serves '{content}', and this bundle has: {known}")
            if self._settings.variant not in ("", *found):
                raise BackendUnavailable(f"{self.url}: it serves '{content}', not {self._settings.variant}")
            return found[0]
        wanted = self._settings.variant or "float32"
        if wanted not in variants:
            raise BadInput(f"{self.url}: the bundle has no variant '{wanted}'{nearest(wanted, variants)}")
        return wanted

    def probe(self) -> dict[str, str]:
        """Name and version of the server; raises BackendUnavailable where it does not answer."""
        client = self._client()
        try:
            server = wire.about(client, self._root)
        finally:
            client.close()
        return {server.name: server.version}

    def precisions(self, device: str = DEFAULT_DEVICE) -> tuple[Precision, ...]:
        """What it was given is all that it runs."""
        if device != DEFAULT_DEVICE:
            raise BadInput(f"kserve: device '{device}' is the server's affair: leave it out")
        return ("float32",)

    def machine(self) -> Machine:
        """The address; of the machine behind it nothing is known."""
        return Machine(cpu="", cores=0, isa=(), os="", python="", server=self.url)

    def _client(self) -> Client:
        own = self._settings
        scheme, host, port = self._place
        return Client(
            scheme,
            host,
            port,
            timeout_s=own.timeout_s,
            retry_s=own.retry_s,
            headers={"Authorization": f"Bearer {own.token}"} if own.token else {},
            context=httpclient.tls_context(own.ca, own.cert, own.key) if scheme == "https" else None,
        )

    def _told(self, client: Client) -> wire.Model:
        return wire.read(client, self._path, wire.Model)

    def _check(
        self, kind: str, said: list[wire.Tensor] | None, own: tuple[TensorSpec, ...], server: wire.Server
    ) -> None:
        """Compare tensors; a server that names none is judged by its answers. Of edgecv's two models one has them."""
        why = wire.unlike(said, own) if said else ""
        if not why:
            return
        is_pictures = server.name == "edgecv" and not self._path.endswith(".network")
        hint = f"; those of the network are at {self.url}.network" if is_pictures else ""
        raise BackendUnavailable(f"{self.url}: its {kind}s are not this network's: {why}{hint}")

    def __str__(self) -> str:
        """By what name `load` finds it again; token and certificates are those of the environment then."""
        return f"kserve:{self.url}" + (f"#{self._settings.variant}" if self._settings.variant else "")

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.url, self._settings)


class Served:
    """A model that another program runs; calls may come from several threads, each is a request of its own."""

    def __init__(
        self, client: Client, path: str, header: OnnxHeader, content: str, is_binary: bool, streams: int
    ) -> None:
        """content: what the server said that it serves; "" where it does not."""
        self.streams = streams
        self._client, self._path, self._content, self._is_binary = client, path, content, is_binary
        self._outputs = header.outputs
        self._rows = next(iter(header.inputs[0].shape), 0)  # what the file calls the number of rows

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Ask, in requests of some rows each where there are many."""
        ((name, tensor),) = feeds.items()
        step = max(1, min(_ROWS, _BYTES // max(1, tensor[:1].nbytes)))
        parts = [self._ask(name, tensor[at : at + step]) for at in range(0, len(tensor), step)]
        if len(parts) == 1:
            return parts[0]
        for output, each in parts[0].items():
            if not each.ndim or len(each) != step:
                raise ComputationError(f"{self._where}: '{output}' has not a row for each of {step} frames")
        return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}

    def executed(self) -> Executed:
        """The protocol does not tell."""
        return Executed(UNKNOWN, {})

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def _where(self) -> str:
        return f"{self._client.where}{self._path}"

    def _ask(self, name: str, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        body, headers = wire.request(name, tensor, [spec.name for spec in self._outputs], self._is_binary)
        answer = self._client.ask(self._path, body, headers)
        if answer.status != 200:
            raise ComputationError(f"{self._where}: {refusal(answer)}")
        told, binary = wire.parted(answer, self._where)
        content = (told.parameters or {}).get("content", self._content)
        if self._content and content != self._content:
            raise ComputationError(
                f"{self._where}: '{content}' answers, and '{self._content}' was loaded: load it again"
            )
        found, at = {}, 0
        for each in told.outputs:
            size = (each.parameters or {}).get("binary_data_size", 0)
            if type(size) is not int or size < 0:
                raise ComputationError(f"{self._where}: binary_data_size of '{each.name}' is {str(size)[:40]}")
            found[each.name] = each, binary[at : at + size] if size else None
            at += size
        if at != len(binary):
            raise ComputationError(f"{self._where}: {len(binary)} bytes follow its JSON, which names {at}")
        missing = [spec.name for spec in self._outputs if spec.name not in found]
        if missing:
            raise ComputationError(f"{self._where}: it does not answer '{missing[0]}', only: {', '.join(found)}")
        arrays = {spec.name: wire.array(*found[spec.name], spec, self._where) for spec in self._outputs}
        for spec in self._outputs:
            shape = arrays[spec.name].shape
            if shape and spec.shape[0] == self._rows and shape[0] != len(tensor):
                raise ComputationError(
                    f"{self._where}: '{spec.name}' comes as {shape}, and {len(tensor)} rows were asked"
                )
        return arrays


def _made(url: str, settings: Settings) -> KServe:
    return KServe(url, **settings._asdict())


def _hidden(url: str) -> str:
    """An address without the password that may stand in it, with a slash or an @ in it, too."""
    return re.sub(r"//.*@", "//...@", url, flags=re.S)
