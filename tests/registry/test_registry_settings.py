"""CONSUL_HTTP_ADDR and its family."""

import ssl
import subprocess
from pathlib import Path

import pytest

from gatecrew_registry import RegistryError, RegistrySettings

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://127.0.0.1:8500"),
        ({"CONSUL_HTTP_ADDR": ""}, "http://127.0.0.1:8500"),
        ({"CONSUL_HTTP_ADDR": "10.0.0.1:8501"}, "http://10.0.0.1:8501"),
        ({"CONSUL_HTTP_ADDR": "consul.example"}, "http://consul.example:8500"),
        ({"CONSUL_HTTP_ADDR": "http://consul"}, "http://consul:8500"),
        ({"CONSUL_HTTP_ADDR": "http://consul:80/"}, "http://consul:80"),
        ({"CONSUL_HTTP_ADDR": "https://consul"}, "https://consul:8501"),
        ({"CONSUL_HTTP_ADDR": "https://consul:443"}, "https://consul:443"),
        ({"CONSUL_HTTP_ADDR": "[::1]:8500"}, "http://[::1]:8500"),
        ({"CONSUL_HTTP_ADDR": "[::1]"}, "http://[::1]:8500"),
        ({"CONSUL_HTTP_SSL": "true"}, "https://127.0.0.1:8501"),
        ({"CONSUL_HTTP_SSL": "1", "CONSUL_HTTP_ADDR": "http://consul:9"}, "https://consul:9"),
        ({"CONSUL_HTTP_SSL": "false", "CONSUL_HTTP_ADDR": "https://consul:9"}, "https://consul:9"),
        ({"CONSUL_HTTP_SSL": "0"}, "http://127.0.0.1:8500"),
    ],
)
def test_address(environment: dict[str, str], url: str) -> None:
    assert RegistrySettings.from_env(environment).url == url


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock", "unix:// is not supported"),
        ("CONSUL_HTTP_ADDR", "ftp://consul", "ftp:// is not supported"),
        ("CONSUL_HTTP_ADDR", "consul:", None),
        ("CONSUL_HTTP_ADDR", "consul:http", "Port could not be cast"),
        ("CONSUL_HTTP_ADDR", "consul:0", "not of the form host:port"),
        ("CONSUL_HTTP_ADDR", "consul:65536", "Port out of range"),
        ("CONSUL_HTTP_ADDR", "consul:8500/path", "only host and port"),
        ("CONSUL_HTTP_ADDR", "http://user:pass@consul", "only host and port"),
        ("CONSUL_HTTP_ADDR", "con sul:8500", "not of the form host:port"),
        ("CONSUL_HTTP_ADDR", ":8500", "not of the form host:port"),
        ("CONSUL_HTTP_ADDR", "[::1:8500", "Invalid IPv6 URL"),
        ("CONSUL_HTTP_SSL", "yes", "neither true nor false"),
        ("CONSUL_HTTP_SSL_VERIFY", "no", "neither true nor false"),
        ("CONSUL_HTTP_TOKEN_FILE", "/nowhere/token", "No such file or directory"),
        ("CONSUL_CACERT", "/nowhere/ca.pem", "No such file or directory"),
        ("CONSUL_CLIENT_CERT", "/nowhere/cert.pem", "No such file or directory"),
        ("CONSUL_CLIENT_KEY", "/nowhere/key.pem", "No such file or directory"),
    ],
)
def test_errors_name_the_variable_and_its_value(name: str, value: str, reason: str | None) -> None:
    if reason is None:
        assert RegistrySettings.from_env({name: value}).address == "consul:8500"
        return
    with pytest.raises(RegistryError) as caught:
        RegistrySettings.from_env({name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}={value}: ")
    assert reason in message
    assert "\n" not in message


def test_token(tmp_path: Path) -> None:
    assert RegistrySettings.from_env({}).read_token() is None
    assert RegistrySettings.from_env({"CONSUL_HTTP_TOKEN": " abc\n"}).read_token() == "abc"
    file = tmp_path / "token"
    file.write_text("from-file\n")
    settings = RegistrySettings.from_env({"CONSUL_HTTP_TOKEN": "abc", "CONSUL_HTTP_TOKEN_FILE": str(file)})
    assert settings.read_token() == "from-file"
    file.unlink()
    with pytest.raises(RegistryError, match="No such file"):
        settings.read_token()


def test_a_token_that_no_header_can_carry_is_not_told() -> None:
    with pytest.raises(RegistryError) as caught:
        RegistrySettings.from_env({"CONSUL_HTTP_TOKEN": "geheim\x00ä"})
    assert "geheim" not in str(caught.value)


def test_tls_files(tmp_path: Path) -> None:
    certificate, key, other = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "other.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=a", "-days", "2"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    other.write_text("no certificate")
    given = {
        "CONSUL_HTTP_SSL": "true",
        "CONSUL_CACERT": str(certificate),
        "CONSUL_CLIENT_CERT": str(certificate),
        "CONSUL_CLIENT_KEY": str(key),
    }
    context = RegistrySettings.from_env(given).ssl_context()
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    context = RegistrySettings.from_env({**given, "CONSUL_HTTP_SSL_VERIFY": "false"}).ssl_context()
    assert context is not None
    assert context.verify_mode == ssl.CERT_NONE
    assert RegistrySettings.from_env({"CONSUL_CACERT": str(certificate)}).ssl_context() is None
    for name, reason in (("CONSUL_CACERT", "CA file"), ("CONSUL_CLIENT_CERT", "client certificate")):
        with pytest.raises(RegistryError, match=f"^{reason} .*other.pem"):
            RegistrySettings.from_env({**given, name: str(other)})
    with pytest.raises(RegistryError, match="without a client certificate"):
        RegistrySettings.from_env({"CONSUL_CLIENT_KEY": str(key)})
