"""The command line of verbs on a recorded run: ``RUN_ID KEY=VALUE …``."""

import socket
from collections.abc import Mapping, Sequence

from lightning_modules.errors import UserError, nearest


def read_words(words: Sequence[str], options: Mapping[str, str | None]) -> dict[str, str | None]:
    """The options with what the words set. Raises UserError for a word that sets none of them."""
    read = dict(options)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in options:
            wanted = f"write KEY=VALUE; {nearest(key, options)}" if not equals else nearest(key, options)
            raise UserError(f"{word}: there is no such option: {wanted}")
        if not value.strip():
            raise UserError(f"{key}=: the value is empty; give one, or leave the option out")
        read[key] = value
    return read


def truth(key: str, value: str | None) -> bool:
    """What ``true`` and ``false`` mean. Raises UserError for anything else."""
    if value not in ("true", "false"):
        raise UserError(f"{key}={value}: it can be: false, true")
    return value == "true"


def free_port(option: str, port: str, host: str = "127.0.0.1") -> int:
    """The port number that `option` (``--port `` or ``port=``) was given as `port`, if a server can listen there.

    Raises UserError for what is no port, an unknown host, a port that is in use or not permitted.
    """
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        raise UserError(f"{option}{port}: expected a port number from 1 to 65535")
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
            raise UserError(f"port {port} of {host}: {error.strerror}; try {option}{other}") from error
    return int(port)
