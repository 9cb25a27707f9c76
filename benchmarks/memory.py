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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
