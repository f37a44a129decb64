"""Start-up of Urza."""

from __future__ import annotations

import sys

from esper_core.clocks import SYSTEM_CLOCK
from esper_core.files import ensure_directory
from esper_core.pb.esper.urza.v1 import urza_pb2_grpc
from esper_core.rpc import ServerHost, run_service
from esper_core.security import Keyring
from urza.artefacts import ArtefactStore
from urza.catalogue import Catalogue
from urza.library import Library
from urza.seeding import seed
from urza.servicer import LibraryServicer
from urza.settings import UrzaSettings
from urza.sheets import SheetVerifier

SERVICE = "esper.urza.v1.Library"
READ_ONLY = ("ListBlueprints", "GetBlueprint", "GetKernel", "Watch")
SERVICE_ONLY = ("PutKernel", "AttachBsds")


async def serve(settings: UrzaSettings) -> None:
    folder = ensure_directory(settings.data_dir)
    url = settings.database_url or f"sqlite:///{folder / 'catalogue.sqlite'}"
    catalogue = Catalogue(url, SYSTEM_CLOCK)
    store = ArtefactStore(folder / "artefacts", max_bytes=settings.max_kernel_bytes)
    library = Library(catalogue, store, SYSTEM_CLOCK)
    await seed(library)

    host = ServerHost.from_settings("urza", settings)
    sheets = SheetVerifier(Keyring.load(settings.keyring_file))
    servicer = LibraryServicer(library, sheets, settings.max_kernel_bytes)
    host.add(
        servicer,
        urza_pb2_grpc.add_LibraryServicer_to_server,
        SERVICE,
        read_only_methods=READ_ONLY,
        service_only_methods=SERVICE_ONLY,
    )
    host.on_shutdown(catalogue.close)
    await host.run_until_stopped()


def main() -> int:
    return run_service("urza", UrzaSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
