"""The service over TLS, through a real socket."""

from __future__ import annotations

import importlib.util
import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.serving.http.processes import serving

COMMAND = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
    "-addext subjectAltName=DNS:localhost"
)


def write_with_the_package(certificate: Path, key: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate.write_bytes(builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, none))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of localhost and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if importlib.util.find_spec("cryptography") is not None:
        write_with_the_package(certificate, key)
    elif shutil.which("openssl") is not None:
        words = [*COMMAND.split(), "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(words, check=True, capture_output=True)
    else:
        pytest.skip("a certificate needs the package cryptography or the command openssl")
    return certificate, key


def settings(certificate: Path, key: Path) -> str:
    return f'[server]\nheader_seconds = 0.5\ncertificate = "{certificate}"\nprivate_key = "{key}"\n'


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_answers_over_tls_and_not_without(
    first: Path, tmp_path: Path, pair: tuple[Path, Path], workers: str
) -> None:
    trusted = ssl.create_default_context(cafile=str(pair[0]))
    with serving(tmp_path, str(first), "--workers", workers, text=settings(*pair), tls=trusted) as service:
        assert service.score() == 200
        assert next(line["tls"] for line in service.lines if line["event"] == "listening") is True
        with service.open(b"GET /livez HTTP/1.1\r\nhost: h\r\n\r\n") as plain:
            try:
                received = plain.recv(100)
            except ConnectionResetError:
                received = b""
            assert not received.startswith(b"HTTP")
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(service.open(), server_hostname="localhost")
        old = ssl.create_default_context(cafile=str(pair[0]))
        with trusted.wrap_socket(service.open(), server_hostname="localhost") as silent:
            silent.sendall(b"POST /v1/score HT")
            assert silent.recv(100).startswith(b"HTTP/1.1 408")  # the guards hold under TLS, too
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            old.wrap_socket(service.open(), server_hostname="localhost")
        assert service.score() == 200


def test_a_wrong_certificate_is_found_before_anything_listens(
    first: Path, tmp_path: Path, pair: tuple[Path, Path], command: Any
) -> None:
    file, (certificate, key) = tmp_path / "serve.toml", pair
    (tmp_path / "text").write_text("no certificate")
    for one, other in ((tmp_path / "nowhere", key), (tmp_path / "text", key), (certificate, certificate)):
        file.write_text(settings(one, other))
        code, _, errors = command("serve", str(first), "--config", str(file))
        assert code == 2 and "should be a certificate and its key without a password, in PEM" in errors
    if shutil.which("openssl") is not None:
        words = [
            "openssl",
            "pkcs8",
            "-topk8",
            "-in",
            str(key),
            "-passout",
            "pass:secret",
            "-out",
            str(tmp_path / "locked"),
        ]
        subprocess.run(words, check=True, capture_output=True)
        file.write_text(settings(certificate, tmp_path / "locked"))
        code, _, errors = command("serve", str(first), "--config", str(file))
        assert code == 2 and "received: a key with a password" in errors
    file.write_text(f'[server]\ncertificate = "{certificate}"\n')
    code, _, errors = command("serve", str(first), "--config", str(file))
    assert code == 2 and "'certificate' and 'private_key' should stand together" in errors
