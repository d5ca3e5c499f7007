"""TLS and certificates of clients, over HTTP and gRPC: Python's ssl, grpcio and Triton's client are the referees."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ipaddress
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from serve_lab import BUNDLE, Puppet, picture, serving, until
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

import edgecv_runtime as rt
from edgecv.cli.app import app
from edgecv.deploy import probe
from edgecv_runtime.backends.kserve import KServe
from edgecv_runtime.errors import BackendUnavailable, BadInput, Unavailable
from edgecv_runtime.serve import Server, Tls

SECRET = "sesame-sesame-sesame"


def signed(folder, name, by=None, usage=ExtendedKeyUsageOID.SERVER_AUTH):
    """A certificate and its key as `NAME.crt` and `NAME.key`; without `by` an authority that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, issuer_key = (subject, key) if by is None else by
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if by is None:
        uses = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "crl_sign", "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        made = made.add_extension(x509.KeyUsage(key_cert_sign=True, **uses), critical=True)
    else:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    certificate = made.sign(issuer_key, hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return subject, key


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    ours, strangers = signed(folder, "ca"), signed(folder, "stranger-ca")
    signed(folder, "server", ours)
    signed(folder, "client", ours, ExtendedKeyUsageOID.CLIENT_AUTH)
    signed(folder, "stranger", strangers, ExtendedKeyUsageOID.CLIENT_AUTH)
    return folder


def tls_of(pki, client_ca=None):
    return Tls(pki / "server.crt", pki / "server.key", None if client_ca is None else pki / f"{client_ca}.crt")


def ready(server, pki, client=None, path="/v2/models/puppet/ready", host="127.0.0.1", **headers):
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    if client is not None:
        context.load_cert_chain(pki / f"{client}.crt", pki / f"{client}.key")
    with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", server.port, timeout=5, context=context)) as asked:
        asked.request("GET", path, headers={"Host": host, **headers})
        return asked.getresponse().status


def caller(server, pki, client=None):
    """Triton's own client of gRPC."""
    files = {} if client is None else {
        "private_key": str(pki / f"{client}.key"), "certificate_chain": str(pki / f"{client}.crt")
    }  # fmt: skip
    return triton.InferenceServerClient(
        f"127.0.0.1:{server.grpc_port}", ssl=True, root_certificates=str(pki / "ca.crt"), **files
    )


def doubled(client, **headers):
    x = triton.InferInput("x", [1, 4], "FP32")
    x.set_data_from_numpy(np.ones((1, 4), np.float32))
    return client.infer("puppet.network", [x], client_timeout=5, headers=headers or None).as_numpy("y").tolist()


def test_handshakes_that_never_end_cost_the_others_nothing(pki):
    """Each holds a descriptor, of which a process has some hundreds."""
    with serving(Puppet(), tls=tls_of(pki), connections=8, head_s=1.0) as server, contextlib.ExitStack() as open_:
        process = psutil.Process()
        before = process.num_fds()
        silent = [open_.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(200)]
        until(lambda: process.num_fds() - before >= 200 + 8)
        assert process.num_fds() - before < 200 + 100
        for client in silent:
            client.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
        assert ready(server, pki) == 200


def test_both_protocols_speak_tls_and_the_token_stays(pki):
    with serving(Puppet(), grpc_port=0, tls=tls_of(pki), token=SECRET) as server:
        assert server.url.startswith("https://")
        assert ready(server, pki) == 401
        assert ready(server, pki, Authorization=f"Bearer {SECRET}") == 200
        with pytest.raises((http.client.HTTPException, OSError)):
            plainly(server)
        with caller(server, pki) as client:
            with pytest.raises(InferenceServerException, match="a token is needed"):
                doubled(client)
            assert doubled(client, authorization=f"Bearer {SECRET}") == [[2.0] * 4]
        plain = triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        with plain, pytest.raises(InferenceServerException):
            doubled(plain)


def plainly(server):
    """Its status without TLS."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)) as asked:
        asked.request("GET", "/v2/health/live")
        return asked.getresponse().status


def test_a_service_s_probe_asks_over_tls_whatever_name_the_certificate_has(pki, tmp_path):
    (tmp_path / "token").write_text(f"{SECRET}\n")
    with serving(Puppet(), tls=tls_of(pki), token=SECRET) as server:
        assert "is ready" in probe.ready(f"{server.url}v2/health/ready", tmp_path / "token")
        with pytest.raises(Unavailable, match="does not answer"):
            probe.ready(f"http://127.0.0.1:{server.port}/v2/health/ready")
    with pytest.raises(BadInput, match="nowhere: the token cannot be read"):
        probe.ready(f"{server.url}v2/health/ready", tmp_path / "nowhere")


def test_a_service_that_speaks_no_http_is_not_ready():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ThreadPoolExecutor(1).submit(lambda: listener.accept()[0].sendall(b"SSH-2.0-lab\r\n"))
        with pytest.raises(Unavailable, match="does not answer"):
            probe.ready(f"http://127.0.0.1:{listener.getsockname()[1]}/v2/health/ready")


def test_a_certificate_of_the_client_stands_in_for_the_token(pki):
    """Also where other machines are listened to, and whatever name they call it by."""
    with serving(Puppet(), host="0.0.0.0", grpc_port=0, tls=tls_of(pki, "ca")) as server:
        assert ready(server, pki, "client", host="camera.example") == 200
        for stranger in (None, "stranger"):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
                ready(server, pki, stranger, path="/v2/health/live")
            with caller(server, pki, stranger) as client, pytest.raises(InferenceServerException):
                doubled(client)
        with caller(server, pki, "client") as client:
            assert doubled(client) == [[2.0] * 4]
    with serving(Puppet(), tls=tls_of(pki, "ca"), token=SECRET) as server:  # who gives both wants both
        assert ready(server, pki, "client") == 401


def test_other_machines_need_one_of_the_two(pki):
    with pytest.raises(BadInput, match="other machines would use the models; give a token"):
        Server([], "0.0.0.0", 0, tls=tls_of(pki))


def test_the_backend_checks_the_server_and_shows_a_certificate(pki, monkeypatch):
    with rt.load(BUNDLE) as model, serving(model, tls=tls_of(pki, "ca")) as server:
        url = f"{server.url}v2/models/digits.network"
        with pytest.raises(BackendUnavailable, match="TLS fails: CERTIFICATE_VERIFY_FAILED"):
            KServe(url).probe()
        with pytest.raises(BackendUnavailable):
            KServe(url, ca=pki / "ca.crt", retry_s=0).probe()
        with pytest.raises(BadInput, match=r"nothing.pem: no certificates can be read"):
            KServe(url, ca=pki / "nothing.pem").probe()
        for name, file in (("CA", "ca.crt"), ("CERT", "client.crt"), ("KEY", "client.key")):
            monkeypatch.setenv(f"EDGECV_KSERVE_{name}", str(pki / file))
        with rt.load(BUNDLE, backend=f"kserve:{url}") as far:
            assert far(picture()).label == model(picture()).label


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (("--tls-cert", "server.crt"), "--tls-cert and --tls-key belong together"),
        (("--client-ca", "ca.crt"), "--tls-cert and --tls-key belong together"),
        (("--tls-cert", "server.crt", "--tls-key", "client.key"), "no certificate with its key, in PEM: "),
        (("--tls-cert", "none.crt", "--tls-key", "server.key"), "no certificate with its key, in PEM: no such file"),
        (
            ("--tls-cert", "server.crt", "--tls-key", "server.key", "--client-ca", "server.key"),
            "no certificates of who signs those of clients",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(pki, files, why):
    files = [each if each.startswith("-") else str(pki / each) for each in files]
    done = CliRunner().invoke(app, ["serve", str(BUNDLE), "--listen", "127.0.0.1:0", *files])
    assert done.exit_code == 2
    assert why in " ".join(done.output.split())
