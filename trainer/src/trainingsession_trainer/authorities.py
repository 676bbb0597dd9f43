"""Certificate authorities of the cluster's own, trusted beside those of the image by whatever opens a connection."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from .errors import SpecError

BUNDLE = "ca-bundle.crt"
"""Beside the session, where the chart names some."""
VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "PIP_CERT")
"""Of Python's ssl, requests, curl, Amazon's client and pip: each reads only its own."""


def trust(bundle: Path, work: Path) -> int:
    """Have this process and its children trust what is in `bundle` too; gives how many certificates that is."""
    if not bundle.is_file():
        return 0
    joined = work / "authorities.pem"
    try:
        texts = [path.read_text("utf-8", "replace") for path in (*_of_the_image(), bundle)]
        joined.write_text("\n".join(texts), "utf-8")
    except OSError as error:
        raise SpecError(f"The certificates of trainer.caBundle cannot be put beside the image's ({error}).") from error
    os.environ.update(dict.fromkeys(VARIABLES, str(joined)))
    return texts[-1].count("-----BEGIN CERTIFICATE-----")


def _of_the_image() -> list[Path]:
    """Files with the authorities that Python would trust by itself; Debian has one with all of its folder's."""
    paths = ssl.get_default_verify_paths()
    folder = paths.capath or paths.openssl_capath
    found = [Path(path) for path in (paths.cafile, f"{folder}/ca-certificates.crt") if path]
    return [path for path in found if path.is_file()]
