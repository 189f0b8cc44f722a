"""The engines that the object store is tested over, by the names of their fixtures."""

from __future__ import annotations

from tests.servers.ceph import Ceph
from tests.servers.juicefs import JuiceFS
from tests.servers.object_store import ObjectStoreServer
from tests.servers.seaweedfs import SeaweedFS

ENGINES: dict[str, type[ObjectStoreServer]] = {"seaweedfs": SeaweedFS, "ceph": Ceph, "juicefs": JuiceFS}
