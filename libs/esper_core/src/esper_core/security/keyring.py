"""The keyring: named secret keys in one file, a derived key per purpose, two or more keys valid during rotation."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from esper_core.errors import ConfigurationError
from esper_core.files import atomic_write_json, read_json
from esper_core.ids import parse_name

Purpose = Literal["command", "bus", "rpc", "emergency", "bsds"]
PURPOSES: Final[tuple[Purpose, ...]] = get_args(Purpose)
KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys by id; `current_id` signs, every listed key verifies.

    The keys themselves never leave the object: callers get signatures and yes or no.
    """

    current_id: str
    _keys: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def generate(cls, key_id: str = "k1") -> Keyring:
        """Make a keyring with one fresh key."""
        return cls(key_id, {key_id: secrets.token_bytes(KEY_BYTES)})

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """Read a keyring file: JSON with `current` and `keys`, mode 0600.

        Raises
        ------
        ConfigurationError
            If others may read the file, or its content is not a keyring.
        StorageError
            If the file cannot be read.
        """
        document = read_json(path)
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"Others can read the keyring {path}. Run `chmod 600 {path}` and start again.")
        return cls._parsed(document, path)

    @classmethod
    def _parsed(cls, document: Any, path: Path) -> Keyring:
        if not isinstance(document, dict) or set(document) != {"current", "keys"}:
            raise ConfigurationError(f'The keyring {path} must hold exactly "current" and "keys".')
        if not isinstance(document["keys"], dict):
            raise ConfigurationError(f'"keys" in the keyring {path} must map key ids to base64 keys.')
        keys = {parse_name(name, "keys"): _decoded(name, text, path) for name, text in document["keys"].items()}
        if document["current"] not in keys:
            raise ConfigurationError(f'"current" in the keyring {path} names no key of the file.')
        return cls(document["current"], keys)

    def save(self, path: Path) -> None:
        """Write the keyring file with mode 0600."""
        keys = {name: base64.b64encode(key).decode() for name, key in self._keys.items()}
        atomic_write_json(path, {"current": self.current_id, "keys": keys}, mode=0o600)

    def rotated(self, key_id: str) -> Keyring:
        """Return a keyring that signs with a fresh key and still verifies with the old ones."""
        if key_id in self._keys:
            raise ConfigurationError(f"The keyring already has a key {key_id!r}. Choose another id.")
        return Keyring(key_id, {**self._keys, key_id: secrets.token_bytes(KEY_BYTES)})

    def without(self, key_id: str) -> Keyring:
        """Return a keyring that no longer knows an old key: the end of a rotation."""
        if key_id == self.current_id:
            raise ConfigurationError(f"{key_id!r} is the current key. Rotate to another one first.")
        return Keyring(self.current_id, {name: key for name, key in self._keys.items() if name != key_id})

    @property
    def key_ids(self) -> frozenset[str]:
        """Ids of all keys that verify."""
        return frozenset(self._keys)

    def sign(self, purpose: Purpose, data: bytes, key_id: str | None = None) -> bytes:
        """Return the HMAC-SHA256 (32 bytes) of `data` under the key derived for `purpose`."""
        return hmac.digest(self._derived(purpose, key_id or self.current_id), data, hashlib.sha256)

    def verify(self, purpose: Purpose, key_id: str, data: bytes, signature: bytes) -> bool:
        """Tell whether a signature holds; False for an unknown key. Compares in constant time."""
        if key_id not in self._keys:
            return False
        return hmac.compare_digest(self.sign(purpose, data, key_id), signature)

    def _derived(self, purpose: Purpose, key_id: str) -> bytes:
        if purpose not in PURPOSES:
            raise ValueError(f"purpose is {purpose!r}; it must be one of {', '.join(PURPOSES)}")
        return hmac.digest(self._keys[key_id], f"esper/{purpose}/v1".encode(), hashlib.sha256)


def _decoded(name: str, text: Any, path: Path) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ConfigurationError(f"Key {name!r} in the keyring {path} is not base64.") from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"Key {name!r} in the keyring {path} must be {KEY_BYTES} bytes, not {len(key)}.")
    return key
