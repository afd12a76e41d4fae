"""How clients and other nodes reach the nodes of a cluster under test: their address, and TLS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline_tests.support.certificates import Authority, Certificate

LOOPBACK_IPV6 = "::1"


@dataclass(frozen=True)
class ClusterAccess:
    """One host for all nodes. With a certificate and that of its authority, they accept connections over TLS only."""

    host: str = LOOPBACK
    certificate: Certificate | None = None
    authority: Path | None = None

    @classmethod
    def over_tls(cls, authority: Authority) -> ClusterAccess:
        """Return the access to nodes with a certificate of this authority."""
        return cls(certificate=authority.sign("node"), authority=authority.certificate)

    def settings(self, port: int) -> dict[str, object]:
        """Return the options of a node."""
        if self.certificate is None:
            return {"bind": self.host, "port": port}
        files = {"cert": self.certificate.certificate, "key": self.certificate.key, "ca-cert": self.authority}
        tls = {f"tls-{kind}-file": path for kind, path in files.items()}
        everywhere = {"tls-cluster": "yes", "tls-replication": "yes", "tls-auth-clients": "no"}
        return {"bind": self.host, "port": 0, "tls-port": port, **everywhere, **tls}

    def client_options(self) -> dict[str, Any]:
        """Return the options of redis-py's clients besides host and port."""
        return {} if self.authority is None else {"ssl": True, "ssl_ca_certs": str(self.authority)}

    def seed(self, port: int) -> str:
        """Return host and port as in a URL."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    def url(self, ports: Iterable[int], login: str = "") -> str:
        """Return the URL of the cluster with nodes on these ports as seeds. `login`: with the `@` behind it."""
        seeds = ",".join(map(self.seed, ports))
        if self.authority is None:
            return f"redis+cluster://{login}{seeds}"
        return f"rediss+cluster://{login}{seeds}?ssl_ca_certs={self.authority}"
