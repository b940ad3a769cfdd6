"""Certificates for tests: an authority of one's own, made by the `openssl` command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Authority:
    """`ca`: its own certificate; `certificate` and `key`: of a server on 127.0.0.1, signed by it. All PEM."""

    ca: Path
    certificate: Path
    key: Path


def authority(folder: Path, name: str, host: str = "IP:127.0.0.1") -> Authority:
    made = Authority(folder / f"{name}-ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
    own = folder / f"{name}-ca.key"
    _openssl("req", "-x509", *KEY, "-keyout", own, "-out", made.ca, "-days", "2", "-subj", f"/CN={name}")
    # Signed right away, so that no file with serial numbers is needed.
    signed = [
        "-CA",
        made.ca,
        "-CAkey",
        own,
        "-addext",
        f"subjectAltName={host}",
        "-addext",
        "basicConstraints=CA:FALSE",
    ]
    _openssl(
        "req", "-x509", *KEY, "-keyout", made.key, "-out", made.certificate, "-days", "2", "-subj", "/CN=x", *signed
    )
    return made


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
