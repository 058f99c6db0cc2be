"""The files that a URL names for TLS: read at the start, where redis-py first reads them when it connects."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def check(options: Mapping[str, Any]) -> None:
    """Read the certificates and the key among a connection's options.

    Raises:
        ValueError: one cannot be read, or is not what it should be; the message names the option.

    """
    for name in _FILES:
        if path := options.get(name):
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise ValueError(f"{name}={path}: cannot be read: {error.strerror}") from None
    if (folder := options.get("ssl_ca_path")) and not Path(folder).is_dir():
        raise ValueError(f"ssl_ca_path={folder}: is not a folder")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority := options.get("ssl_ca_certs"):
        try:
            context.load_verify_locations(authority)
        except ssl.SSLError:
            raise ValueError(f"ssl_ca_certs={authority}: holds no certificate in PEM format") from None
    certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
    if certificate:
        try:
            context.load_cert_chain(certificate, key, options.get("ssl_password") or "")
        except ssl.SSLError:
            named = f"ssl_certfile={certificate}" + (f", ssl_keyfile={key}" if key else "")
            raise ValueError(f"{named}: are no certificate and its key in PEM format") from None
    elif key:
        raise ValueError(f"ssl_keyfile={key}: needs ssl_certfile, the certificate that it belongs to")
