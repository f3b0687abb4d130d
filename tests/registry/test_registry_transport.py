"""How the client reaches a registry: TLS, client certificates, and nothing from an environment it was not given."""

import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_consul import FakeConsul

from gatecrew_registry import Entry, Registry, RegistryError, RegistrySettings

ENTRY = Entry(service="chat", id="chat-1", host="127.0.0.1", port=1, check="none")


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`NAME.pem` and `NAME.key` of the registry, signed by itself for 127.0.0.1, and of two clients."""
    folder = tmp_path_factory.mktemp("pki")
    for name in ("registry", "client", "stranger"):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", f"/CN={name}", "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
async def secure(pki: Path) -> AsyncIterator[FakeConsul]:
    """A registry that speaks TLS only, and only to the one client."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "client.pem"))
    context.load_cert_chain(pki / "registry.pem", pki / "registry.key")
    context.verify_mode = ssl.CERT_REQUIRED
    fake = FakeConsul()
    await fake.start(context)
    yield fake
    await fake.stop()


def settings(fake: FakeConsul, pki: Path, **given: str) -> RegistrySettings:
    environment = {
        "CONSUL_HTTP_ADDR": f"https://{fake.address}",
        "CONSUL_CACERT": str(pki / "registry.pem"),
        "CONSUL_CLIENT_CERT": str(pki / "client.pem"),
        "CONSUL_CLIENT_KEY": str(pki / "client.key"),
        **given,
    }
    return RegistrySettings.from_env(environment)


@pytest.mark.parametrize("given", [{}, {"CONSUL_CACERT": "", "CONSUL_HTTP_SSL_VERIFY": "false"}])
async def test_tls_with_a_client_certificate(secure: FakeConsul, pki: Path, given: dict[str, str]) -> None:
    async with Registry(settings(secure, pki, **given)) as registry:
        await registry.register(ENTRY)
    assert ENTRY.id in secure.entries


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"CONSUL_CACERT": ""}, id="the registry is not trusted"),
        pytest.param({"CONSUL_CLIENT_CERT": "", "CONSUL_CLIENT_KEY": ""}, id="no client certificate"),
        pytest.param({"CONSUL_CLIENT_CERT": "stranger.pem", "CONSUL_CLIENT_KEY": "stranger.key"}, id="a stranger's"),
    ],
)
async def test_tls_that_does_not_come_about(secure: FakeConsul, pki: Path, given: dict[str, str]) -> None:
    given = {name: str(pki / value) if value else "" for name, value in given.items()}
    async with Registry(settings(secure, pki, **given)) as registry:
        with pytest.raises(RegistryError, match=f"^registry https://{secure.address}: "):
            await registry.register(ENTRY)
    assert not secure.entries


async def test_only_what_it_was_given_counts(fake: FakeConsul, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "nowhere:1")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "not this one")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with Registry(RegistrySettings(address=fake.address)) as registry:
        await registry.register(ENTRY)
    assert fake.tokens == [None]
