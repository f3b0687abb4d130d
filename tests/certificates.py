"""Certificates for tests, made by openssl: a CA, and what it signs."""

from __future__ import annotations

import subprocess
from pathlib import Path

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """A CA in a folder of its own: `ca.pem`, and NAME.pem with NAME.key of each that it has signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = str(folder / "ca.pem")
        folder.mkdir(parents=True, exist_ok=True)
        self._openssl("req", "-x509", *EC, "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")

    def issue(self, name: str, *names: str, expired: bool = False, file: str = "") -> tuple[str, str]:
        """Paths of a certificate with these DNS names (`name` itself if none is given), or `IP:...`, and of its key."""
        file = file or name
        sans = ",".join(each if each.startswith("IP:") else f"DNS:{each}" for each in names or (name,))
        (self.folder / f"{file}.ext").write_text(f"subjectAltName={sans}\n")
        self._openssl("req", *EC, "-subj", f"/CN={name}", "-keyout", f"{file}.key", "-out", f"{file}.csr")
        # A negative number of days is what this openssl takes for a certificate that is over.
        command = ["x509", "-req", "-in", f"{file}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        command += ["-days", "-1" if expired else "2", "-extfile", f"{file}.ext", "-out", f"{file}.pem"]
        self._openssl(*command)
        return str(self.folder / f"{file}.pem"), str(self.folder / f"{file}.key")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
