"""Keys, signatures, nonces and tokens."""

from esper_core.security.keyring import PURPOSES, Keyring, Purpose
from esper_core.security.nonce import LedgerStats, NonceLedger, NonceRecord
from esper_core.security.signing import (
    FreshnessPolicy,
    MessageSigner,
    MessageVerifier,
    Verification,
    signed_bytes,
)
from esper_core.security.tokens import ROLES, Role, TokenClaims, TokenSource, mint_token, verify_token

__all__ = [
    "PURPOSES",
    "ROLES",
    "FreshnessPolicy",
    "Keyring",
    "LedgerStats",
    "MessageSigner",
    "MessageVerifier",
    "NonceLedger",
    "NonceRecord",
    "Purpose",
    "Role",
    "TokenClaims",
    "TokenSource",
    "Verification",
    "mint_token",
    "signed_bytes",
    "verify_token",
]
