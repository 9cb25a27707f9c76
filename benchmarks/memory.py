"""How much memory this process has, as the system counts it."""

import os
import resource
import sys
from pathlib import Path


def resident_bytes() -> int:
    """Return what is resident now; elsewhere than on Linux, the most that ever was."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return highest_bytes()


def highest_bytes() -> int:
    """Return the most that ever was resident."""
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage() says includes, in a new process, what its parent had.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
