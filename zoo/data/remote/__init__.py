"""Files on a network: addresses, reading by range, and the versions that were listed."""

from zoo.data.remote.address import (
    Address,
    address_of,
    beside,
    is_web,
    path_of,
    server_of,
)
from zoo.data.remote.file import (
    AnyFile,
    RemoteFile,
    existing_file,
    files_below,
    find,
    find_all,
    key_of,
    local_of,
    missing,
    open_any,
    read_address,
    read_image,
)

__all__ = [
    "Address",
    "AnyFile",
    "RemoteFile",
    "address_of",
    "beside",
    "existing_file",
    "files_below",
    "find",
    "find_all",
    "is_web",
    "key_of",
    "local_of",
    "missing",
    "open_any",
    "path_of",
    "read_address",
    "read_image",
    "server_of",
]
