"""One candidate behind uvicorn, in a process of its own: run by `over_http`."""

import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from sqlite.candidates import CANDIDATES


def main(arguments: Sequence[str]) -> None:
    """Serve on an open socket: the candidate's name, its file, the socket's descriptor."""
    name, path, descriptor = arguments
    config = uvicorn.Config(CANDIDATES[name](Path(path)), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(descriptor))])
