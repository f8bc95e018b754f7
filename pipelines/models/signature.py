"""Signatures of a site over its models: Ed25519 (RFC 8032), so that a node can tell what its site released from anything else.

A key is a PEM file (PKCS #8) that stays with whoever releases bundles; nodes only know public keys, as 64 hex digits. What is signed
begins with its purpose, so that the signature of one kind of file never fits another.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from pydantic import BaseModel, ConfigDict, Field

from pipelines.errors import BundleError, ConfigError

PUBLIC_KEY = r"^[0-9a-f]{64}$"  # 32 bytes
_OTHERS = 0o077  # permission bits of group and others


class Signature(BaseModel):
    """Who signed, and the signature, in hex digits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    public_key: str = Field(pattern=PUBLIC_KEY)
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


def make_key(path: Path) -> str:
    """Write a new private key that only its owner can read, and return its public key.

    Raises
    ------
    ConfigError
        The file exists, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be written ({error.strerror})") from error
    with os.fdopen(handle, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return public_key(key)


def read_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key in a file.

    Raises
    ------
    ConfigError
        The file cannot be read, is no unencrypted Ed25519 key, or others than its owner may read it.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
        exposed = path.stat().st_mode & _OTHERS
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is no unencrypted private key in PEM form") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is no Ed25519 key; make one with `cervinode models keygen`")
    if exposed:
        raise ConfigError(f"{path}: others may read this key; take their permission away (chmod 600)")
    return key


def public_key(key: Ed25519PrivateKey) -> str:
    """Return the public key of a private one, 64 hex digits."""
    return key.public_key().public_bytes_raw().hex()


def sign(message: bytes, *, purpose: str, key: Ed25519PrivateKey) -> Signature:
    """Sign a message for a purpose."""
    return Signature(public_key=public_key(key), signature=key.sign(_with_purpose(message, purpose)).hex())


def check(signature: Signature | None, message: bytes, *, purpose: str, trusted_keys: Collection[str], where: Path) -> None:
    """Check a signature against a message.

    Without trusted keys, a missing signature is accepted and any key may have signed, but a broken signature is refused all the same.

    Raises
    ------
    BundleError
        The signature is broken, or there are trusted keys and none of them signed.
    """
    if signature is None:
        if trusted_keys:
            raise BundleError(f"{where} is not signed, and this node accepts only what a trusted key signed")
        return
    try:
        signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.public_key))
        signer.verify(bytes.fromhex(signature.signature), _with_purpose(message, purpose))
    except (InvalidSignature, ValueError) as error:
        raise BundleError(f"{where}: its signature is broken: the content is not what was signed") from error
    if trusted_keys and signature.public_key not in trusted_keys:
        raise BundleError(f"{where} is signed by {signature.public_key[:16]}..., which is not among the trusted keys")


def _with_purpose(message: bytes, purpose: str) -> bytes:
    return f"cervinode {purpose}\n".encode() + message
