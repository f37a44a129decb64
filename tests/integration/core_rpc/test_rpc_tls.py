"""Mutual TLS by certificate files."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from esper_core.errors import StorageError, UnavailableError
from esper_core.rpc import TlsFiles, check_health, open_channel
from esper_core.security.tokens import TokenSource
from support.rpc_echo import EchoStub
from support.rpc_server import CONFIG, Running


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("tls")
    files = TlsFiles(folder / "peer.pem", folder / "peer.key", folder / "ca.pem")
    fresh = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*fresh, "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", folder / "ca.key", "-out", files.ca_file)
    openssl(*fresh, "-subj", "/CN=peer", "-keyout", files.key_file, "-out", folder / "peer.csr")
    (folder / "san.cnf").write_text("subjectAltName=IP:127.0.0.1")
    openssl("x509", "-req", "-days", "2", "-in", folder / "peer.csr", "-CA", files.ca_file, "-CAkey", folder / "ca.key",
            "-CAcreateserial", "-extfile", folder / "san.cnf", "-out", files.cert_file)  # fmt: skip
    return files


async def test_both_sides_show_a_certificate(prepare: Callable[..., Running], tls: TlsFiles) -> None:
    running = prepare(replace(CONFIG, tls=tls))
    await running.host.start()
    source = TokenSource(running.keyring, "tester")
    async with open_channel(running.host.address, source, "test", tls, registry=running.registry) as channel:
        assert (await EchoStub(channel).One(StringValue(value="hello"))).value == "hello"
    with pytest.raises(UnavailableError):
        await check_health(running.channel(None))


def test_a_missing_certificate_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.pem"):
        TlsFiles(tmp_path / "absent.pem", tmp_path / "absent.pem", tmp_path / "absent.pem").channel_credentials()
