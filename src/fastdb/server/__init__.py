"""What a network server and its driver are told: at connecting, after it, and with BEGIN."""

from fastdb.server.arguments import connect_arguments
from fastdb.server.capacity import compare_with_server
from fastdb.server.read_only import begin_read_only
from fastdb.server.settings import NO_LIMITS, apply_server_settings

__all__ = [
    "NO_LIMITS",
    "apply_server_settings",
    "begin_read_only",
    "compare_with_server",
    "connect_arguments",
]
