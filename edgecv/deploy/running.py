"""What runs on a device: switching to a release that is there, going back, and asking whether it answers."""

from __future__ import annotations

import shlex
import time
from importlib.resources import files as package_files

from edgecv.deploy import device
from edgecv.deploy.device import Facts
from edgecv.deploy.ssh import Host
from edgecv_runtime.errors import ComputationError, Unavailable
from edgecv_runtime.records import Record


def switch(host: Host, folder: str, release: str, ready_s: int) -> str:
    """Switch to a release that is there and prove it -> what runs; raises ComputationError when it was gone back.

    The device does it alone (`switch.sh`, detached): a connection that breaks meanwhile leaves nothing half done.
    """
    script = (package_files("edgecv.deploy") / "switch.sh").read_text(encoding="utf-8")
    outcome = f"outcome.{release}.{time.time_ns()}"
    given = {"folder": folder, "id": release, "seconds": str(ready_s), "outcome": outcome}
    named = "\n".join(f"{name}={shlex.quote(value)}" for name, value in given.items())
    started = f"""
cd {shlex.quote(folder)}
[ -d releases/{shlex.quote(release)} ] || {{ echo 'there is no release {release}' >&2; exit 1; }}
setsid sh -c {shlex.quote(f"{named}{chr(10)}{script}")} </dev/null >/dev/null 2>&1 &
while [ ! -f {outcome} ]; do
    kill -0 $! 2>/dev/null || [ -f {outcome} ] || {{ echo lost; exit; }}
    sleep 0.1
done
cat {outcome}
rm -f {outcome}
"""
    said = host.run(started, what="switching").strip()
    state, _, why = said.partition(": ")
    if state not in ("ready", "failed"):
        raise Unavailable(f"{host.name}: the switch to {release} ended without a word (killed, or a full disk)")
    if state != "ready":
        raise ComputationError(f"{host.name}: {release} does not answer: {why}")
    return why


def prune(host: Host, folder: str, keep: int) -> str:
    """Remove releases but what runs, the one before it and the `keep` newest others -> what went, in words."""
    script = (package_files("edgecv.deploy") / "prune.sh").read_text(encoding="utf-8")
    return host.run(f"folder={shlex.quote(folder)} keep={keep}\n{script}", what="removing old releases").strip()


class Status(Record, frozen=True):
    """What runs on a device. ready: what its probe says, answers: whether it is ready."""

    host: str
    facts: Facts
    answers: bool
    ready: str


def status(host: Host, folder: str = device.FOLDER, ready_s: int = 60) -> Status:
    """What runs on a device, and whether it answers; ready_s: how long its probe may take."""
    facts = device.ask(host, folder)
    if not facts.current:
        return Status(host.name, facts, False, "nothing is deployed there")
    script = f"""
cd {shlex.quote(facts.folder)}/current || exit 1
timeout -k 2 {ready_s + 1} sh ./probe </dev/null 2>&1 && answers=yes || code=$?
case $code in 124 | 137) printf '\\nthe probe took longer than {ready_s} s' ;; esac
printf '\\n%s' ${{answers:-no}}
"""
    *said, answers = filter(None, host.run(script, what="asking whether it answers").splitlines())
    return Status(host.name, facts, answers == "yes", said[-1] if said else "")


def rollback(host: Host, folder: str = device.FOLDER, ready_s: int = 60) -> str:
    """Switch to the release before the current one -> its name; raises Unavailable where there is none."""
    facts = device.ask(host, folder)
    if not facts.before:
        raise Unavailable(f"{host.name}: there is no release before {facts.current or 'the first'}")
    switch(host, facts.folder, facts.before, ready_s)
    return facts.before
