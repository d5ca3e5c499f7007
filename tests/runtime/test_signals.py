"""The same signal twice at once is one: `timeout` signals a process and its group. A later one ends it."""

from __future__ import annotations

import signal
import subprocess
import sys

SCRIPT = """
import os, signal, time
from edgecv_runtime import signals

seen = []
with signals.at_first(seen.append):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2 * signals.ECHO_S)
    print(seen, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
print("never")
"""


def test_an_echo_is_no_second_signal_and_a_later_one_ends_the_process():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.strip() == f"[{int(signal.SIGTERM)}]"
    assert done.returncode == -signal.SIGTERM


ENDS = """
import os, signal, sys, time
from edgecv_runtime import signals

def stop(number):
    raise KeyboardInterrupt

try:
    with signals.at_first(stop, then_end=True):
        if os.fork() == 0:
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(0.002)
            os.kill(os.getppid(), signal.SIGTERM)
            os._exit(0)
        time.sleep(5)
except KeyboardInterrupt:
    time.sleep(0.1)
    print("saved", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
print("never")
"""


def test_an_echo_does_not_end_what_is_being_saved():
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.strip() == "saved"
    assert done.returncode == -signal.SIGTERM
