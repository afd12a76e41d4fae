"""A certificate authority for tests, and certificates that it signs. Made with `openssl`."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CURVE = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate and its key, both PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates in a directory of its own. Skips the test where there is no `openssl`."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no `openssl` here to make certificates with")
        directory.mkdir(mode=0o755)
        self._directory = directory
        self._own = Certificate(directory / "authority.pem", directory / "authority.key")
        files = ("-keyout", self._own.key, "-out", self._own.certificate)
        _openssl("req", "-x509", "-newkey", *CURVE, "-nodes", "-days", "2", "-subj", "/CN=authority", *files)

    @property
    def certificate(self) -> Path:
        """The root certificate, for clients that trust the authority."""
        return self._own.certificate

    def sign(self, name: str, *, address: str = "IP:127.0.0.1", password: str | None = None) -> Certificate:
        """Create a certificate for a name and an address; with a password, its key is encrypted."""
        made = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request, extension = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extension.write_text(f"subjectAltName={address}\n")
        secret = ["-nodes"] if password is None else ["-passout", f"pass:{password}"]
        _openssl("req", "-newkey", *CURVE, *secret, "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
        by = ("-CA", self._own.certificate, "-CAkey", self._own.key, "-CAcreateserial")
        _openssl("x509", "-req", "-in", request, *by, "-days", "2", "-extfile", extension, "-out", made.certificate)
        made.key.chmod(0o600)
        return made


def give(certificate: Certificate, user: str | None) -> None:
    """Change the owner of the key to the user that the server runs as; None: leave it."""
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(certificate.key, account.pw_uid, account.pw_gid)


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
