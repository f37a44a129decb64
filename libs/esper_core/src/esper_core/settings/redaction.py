"""What may be printed of a value: never a secret, never a password in a URL."""

from __future__ import annotations

import re
from typing import Final

from pydantic import SecretBytes, SecretStr

HIDDEN: Final = "[hidden]"
_SECRET_NAME: Final = re.compile(
    r"(^|[_.\-])(secret|password|passwd|token|api_key|authorization|signature|private_key)s?($|[_.\-])", re.IGNORECASE
)
_URL_PASSWORD: Final = re.compile(r"(?P<head>[a-z][a-z0-9+.\-]*://[^\s/:@]*:)[^\s/@]+@", re.IGNORECASE)
_BEARER: Final = re.compile(r"\besper1\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+")


def is_secret_name(name: str) -> bool:
    """Tell whether a field of that name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def redact_text(text: str) -> str:
    """Hide passwords in URLs and bearer tokens inside a text."""
    return _BEARER.sub(HIDDEN, _URL_PASSWORD.sub(rf"\g<head>{HIDDEN}@", text))


def redact(name: str, value: object) -> str:
    """Return `value` as text that is safe to print under the name `name`."""
    if isinstance(value, SecretStr | SecretBytes) or is_secret_name(name):
        return HIDDEN if value else ""
    return redact_text(str(value))
