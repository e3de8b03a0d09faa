"""The port of a server that a verb starts."""

import socket

from lightning_modules.config.errors import UserError


def free_port(port: str, host: str = "127.0.0.1") -> int:
    """The number of the port that ``port=`` gives, if a server can listen there.

    Raises UserError for an invalid number, an unknown host, and a port that is in use or not permitted.
    """
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        raise UserError(f"port={port}: expected a port number from 1 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError, ValueError) as error:
        raise UserError(f"host {host!r} is not an address of this machine: {error}; try 127.0.0.1") from error
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            other = int(port) + 1 if int(port) < 2**16 - 1 else 5000
            raise UserError(f"port {port} of {host}: {error.strerror}; try port={other}") from error
    return int(port)
