"""`python bound.py PARENT COMMAND…`: become COMMAND, killed by the kernel when the thread of PARENT that started it ends.

SIGKILL and not SIGTERM, since a part that is paused (SIGSTOP) would never see the latter. Where there is no prctl (macOS) the
command runs without that promise.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h

if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    raise SystemExit(f"process {sys.argv[1]} is not the parent of this one any more")
os.execv(sys.argv[2], sys.argv[2:])
