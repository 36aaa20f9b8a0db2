"""What a process that computes does with memory that it frees."""

import subprocess
import sys

import pytest

PAGES = 10 * 1024  # of four kibibytes: more than malloc keeps by itself
REPEATS = 5
PROGRAM = f"""
import ctypes, resource, sys
from transcriber_engine.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
def use():
    block = library.malloc({PAGES} * 4096)
    ctypes.memset(block, 1, {PAGES} * 4096)
    library.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({REPEATS}):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize(("how", "page_faults"), [("kept", range(PAGES // 10)), ("given back", range(REPEATS * PAGES, 10**9))])
def test_freed_memory_is_used_again_without_a_page_fault(how: str, page_faults: range):
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    assert int(done.stdout) in page_faults
