"""Where the registry is and how to talk to it: the variables that Consul's own tools read, checked once at start."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from .entry import RegistryError

HTTP_PORT = 8500
HTTPS_PORT = 8501
DEFAULT_ADDRESS = "127.0.0.1"

# What Go's strconv.ParseBool accepts, as Consul itself reads these variables.
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("0", "f", "F", "false", "False", "FALSE"), False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """How to reach one Consul agent, or the embedded registry.

    `address` may be given as `host`, `host:port`, `http://…` or `https://…` and is `host:port` afterwards. Without a
    port it is the one where Consul agents listen: 8500, or 8501 with TLS. A token file is read anew for each request,
    so that a rotated token needs no restart; it wins over `token`.

    Raises:
        RegistryError: a value makes no sense.
    """

    address: str = DEFAULT_ADDRESS
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    tls: bool = False
    tls_verify: bool = True
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None

    def __post_init__(self) -> None:
        host, port, tls = _parse_address(self.address, self.tls)
        object.__setattr__(self, "address", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        object.__setattr__(self, "tls", tls)
        if self.client_key and not self.client_cert:
            raise RegistryError(f"client key {str(self.client_key)!r} was given without a client certificate")
        self.read_token()
        self.ssl_context()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "RegistrySettings":
        """Read CONSUL_HTTP_ADDR and its family; a variable that is set but empty counts as not set.

        Raises:
            RegistryError: names the variable and its value.
        """
        given = {name: value.strip() for name, value in environ.items() if name.startswith("CONSUL_") and value.strip()}
        address = given.get("CONSUL_HTTP_ADDR", DEFAULT_ADDRESS)
        tls = _boolean(given, "CONSUL_HTTP_SSL", False)
        try:
            _parse_address(address, tls)
        except RegistryError as error:
            raise RegistryError(f"CONSUL_HTTP_ADDR={address}: {error}") from None
        return cls(
            address=address,
            token=given.get("CONSUL_HTTP_TOKEN"),
            token_file=_file(given, "CONSUL_HTTP_TOKEN_FILE"),
            tls=tls,
            tls_verify=_boolean(given, "CONSUL_HTTP_SSL_VERIFY", True),
            ca_file=_file(given, "CONSUL_CACERT"),
            client_cert=_file(given, "CONSUL_CLIENT_CERT"),
            client_key=_file(given, "CONSUL_CLIENT_KEY"),
        )

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def read_token(self) -> str | None:
        """Return the token as it is now.

        Raises:
            RegistryError: the file cannot be read, or the token cannot be sent; never tells the token.
        """
        token = self.token
        if self.token_file is not None:
            try:
                token = self.token_file.read_text("ascii").strip() or token
            except (OSError, ValueError) as error:
                raise RegistryError(f"token file {str(self.token_file)!r}: {_reason(error)}") from None
        if token is not None and not (token.isascii() and token.isprintable()):
            raise RegistryError("the registry token has characters that a header cannot carry")
        return token

    def ssl_context(self) -> ssl.SSLContext | None:
        """Build what a connection needs for TLS; None without TLS.

        Raises:
            RegistryError: a certificate or key file is no good.
        """
        if not self.tls:
            return None
        context = ssl.create_default_context()
        if not self.tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise RegistryError(f"CA file {str(self.ca_file)!r}: {_reason(error)}") from None
        try:
            if self.client_cert:
                # Without a password function OpenSSL would ask at the terminal.
                context.load_cert_chain(self.client_cert, self.client_key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            files = f"{str(self.client_cert)!r}" + (f" with key {str(self.client_key)!r}" if self.client_key else "")
            raise RegistryError(f"client certificate {files}: {_reason(error)}") from None
        return context


def _parse_address(address: str, tls: bool) -> tuple[str, int, bool]:
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "", address
    if scheme not in ("", "http", "https"):
        raise RegistryError(f"registry address {address!r}: {scheme}:// is not supported, use http:// or https://")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise RegistryError(f"registry address {address!r}: {error}") from None
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise RegistryError(f"registry address {address!r}: only host and port can be given")
    if not host or not all(letter.isalnum() or letter in ".-_:%" for letter in host) or port == 0:
        raise RegistryError(f"registry address {address!r} is not of the form host:port")
    tls = tls or scheme == "https"
    return host, port or (HTTPS_PORT if tls else HTTP_PORT), tls


def _boolean(given: Mapping[str, str], name: str, default: bool) -> bool:
    if name not in given:
        return default
    try:
        return _BOOLEANS[given[name]]
    except KeyError:
        raise RegistryError(f"{name}={given[name]}: neither true nor false") from None


def _file(given: Mapping[str, str], name: str) -> Path | None:
    if name not in given:
        return None
    path = Path(given[name])
    try:
        path.open("rb").close()
    except OSError as error:
        raise RegistryError(f"{name}={given[name]}: {_reason(error)}") from None
    return path


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
