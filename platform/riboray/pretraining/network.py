"""Which network workers talk to each other through."""

from __future__ import annotations

import fcntl
import socket
import struct

__all__ = ["interface_of"]

_SIOCGIFADDR = 0x8915  # netdevice(7): an interface's address


def interface_of(address: str) -> str | None:
    """Return the name of this machine's interface that has an IPv4 address; None if none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                told = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(told[20:24]) == address:
                return name
    return None
