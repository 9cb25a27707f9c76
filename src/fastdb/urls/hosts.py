"""The hosts of a server URL, in all the places where they may be written."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from fastdb.errors import InvalidURL
from fastdb.urls.parameters import Query
from fastdb.urls.spelling import ENCODE


@dataclass(frozen=True, slots=True)
class Host:
    """A server: its name, address or socket directory, and its port where one is given."""

    name: str
    port: int | None = None

    @property
    def is_socket(self) -> bool:
        """Tell whether the host is a directory or file of this machine."""
        return self.name.startswith("/")


def read_hosts(written: str, query: Query) -> tuple[Host, ...]:
    """Read the hosts between "://" and "/", and those of `?host=` and `?port=`.

    As in libpq, `?host=` replaces what stands before the path: a socket is often written behind
    a host that only fills its place. A single port serves every host that has none of its own.

    Raises:
        InvalidURL: A host is empty, a port is no port, or their numbers differ.
    """
    in_place = _read_list(written)
    named = [host for text in query.take_all("host") for host in _read_list(text, of="host")]
    port_texts = query.take_all("port")
    ports = [_read_port(text) for texts in port_texts for text in texts.split(",")]
    if not ports and named and len(in_place) == 1 and in_place[0].port is not None:
        ports = [in_place[0].port]
    hosts = named or in_place
    if not ports:
        return tuple(host for host in hosts if host.name or host.port)
    return _with_ports([host for host in hosts if host.name] or [Host("")], ports)


def _read_list(text: str, *, of: str = "") -> list[Host]:
    if not text and not of:
        return []
    hosts = [_read_host(item) for item in text.split(",")]
    # "postgresql://:5433/name" has a port and the default host.
    if any(not host.name for host in hosts) and (of or len(hosts) > 1):
        raise InvalidURL(
            "The URL names a host that is empty; write each as host or host:port, with commas"
            " between several."
        )
    return hosts


def _read_host(text: str) -> Host:
    # A socket directory may hold colons (/cloudsql/project:region:instance).
    if text.startswith("/"):
        return Host(text)
    if text.startswith("["):
        found = re.fullmatch(r"\[([^\]]+)\](?::(.*))?", text)
        if not found:
            raise InvalidURL(
                "The URL has an IPv6 address that is not closed, or is followed by something that"
                " is not a port; write [::1] or [::1]:5432."
            )
        return Host(unquote(found.group(1)), _read_port(found.group(2)) if found.group(2) else None)
    if text.count(":") > 1 and re.fullmatch(r"[0-9A-Fa-f:.]+(%\w+)?", text):
        return Host(text)
    name, _, port = text.partition(":")
    return Host(unquote(name), _read_port(port) if port else None)


def _read_port(text: str) -> int:
    # Never shown: it may be a password with an unencoded "/", "user:pass/word@host".
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise InvalidURL(
            "The port in the database URL is not a number from 1 to 65535. If what follows the"
            f" first ':' is a password, {ENCODE}."
        )
    return int(text)


def _with_ports(hosts: list[Host], ports: list[int]) -> tuple[Host, ...]:
    if len(ports) == 1:
        return tuple(Host(host.name, host.port or ports[0]) for host in hosts)
    if len(ports) != len(hosts):
        raise InvalidURL(
            f"The URL names {len(hosts)} host(s) and {len(ports)} ports; give one port for all,"
            " or one for each."
        )
    return tuple(Host(host.name, port) for host, port in zip(hosts, ports, strict=True))
