"""A deployment against a real sshd: what comes, what comes home, and that whatever interrupts it leaves what ran."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from contextlib import contextmanager
from importlib.resources import files as package_files
from pathlib import Path
from types import SimpleNamespace

import msgspec
import onnx
import onnx.numpy_helper
import psutil
import pytest
from ssh_lab import Server, free_port
from typer.testing import CliRunner

from edgecv.cli.app import app
from edgecv.deploy import alone, deployment, device, wheels
from edgecv.deploy import running as present
from edgecv.deploy.deployment import STEPS, Asked, deploy
from edgecv.deploy.device import Facts
from edgecv.deploy.ssh import Host
from edgecv.run import elsewhere
from edgecv_runtime import Bundle, machine, records
from edgecv_runtime import bundle as bundles
from edgecv_runtime.errors import BadInput, ComputationError, Unavailable
from edgecv_runtime.evidence import Evidence

DIGITS = Path(__file__).parents[1] / "assets" / "digits.edgecv"
SWITCH = (package_files("edgecv.deploy") / "switch.sh").read_text()
ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
MADE = ("environments", "bundles", "releases")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A device with a disk of its own (a tmpfs) on which a release runs, brought as for one without an index."""
    folder = tmp_path_factory.mktemp("ssh")
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(
        [*ROOT, "mount", "-t", "tmpfs", "-o", f"size=1g,uid={os.getuid()},mode=755", "tmpfs", disk], check=True
    )
    server = Server(folder)
    found = SimpleNamespace(server=server, folder=disk / "edgecv", disk=disk, host=Host(server.name, server.config))
    found.wheel = wheels.own(folder)
    found.old, found.new = folder / "old", folder / "new"
    with Bundle(DIGITS) as bundle:
        for place in (found.old, found.new):
            manifest = msgspec.structs.replace(bundle.manifest, name=place.name)
            bundles.write(place, manifest, bundle.content())
    # ["--ssh-config", ...]: how the command line reaches it
    found.options = ["--folder", str(found.folder), "--ssh-config", str(server.config), "--wheel", str(found.wheel)]
    try:
        measured = ["--seconds", "0.02", "--rounds", "2", "--offline", "--json"]
        arguments = ["--quiet", "deploy", str(found.old), server.name, *found.options, *measured]
        dry = CliRunner().invoke(app, [*arguments, "--dry-run"])
        found.dry = dry, found.folder.exists()
        evidence = folder / "evidence.json"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PIP_NO_DEPS", "1")  # what it needs it has, see ssh_lab
            found.first = CliRunner().invoke(app, [*arguments, "--evidence", str(evidence)])
        assert found.first.exit_code == 0, found.first.output
        found.evidence = records.decode(evidence.read_bytes(), Evidence, "")
        found.release = running(found)
        yield found
    finally:
        server.stop()
        subprocess.run([*ROOT, "umount", "-l", disk], check=True)


def running(lab):
    return (lab.folder / "current").readlink().name


def asked(lab, **how):
    return Asked(str(lab.folder), lab.wheel, bench=False, **how)


def there(lab):
    """What lies on the device, and what runs."""
    return {name: sorted(each.name for each in (lab.folder / name).iterdir()) for name in MADE} | {
        "current": running(lab)
    }


def answers(lab):
    place = lab.folder / "current"
    asking = {**os.environ, "PYTHONPATH": str(lab.server.packages)}
    return subprocess.run(["sh", "probe"], cwd=place, env=asking, capture_output=True, check=False).returncode == 0


def settled(lab):
    """Wait until the device has ended a switch alone."""
    end = time.monotonic() + 60
    while (lab.folder / "pending").exists():
        assert time.monotonic() < end
        time.sleep(0.1)


def go(lab, bundle, tell=lambda _: None, **how):
    with Bundle(bundle) as opened:
        return deploy(lab.host, opened, asked(lab, **how), tell=tell)


def test_a_dry_run_asks_and_changes_nothing(lab):
    done, exists = lab.dry
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert not exists
    assert list(found["steps"]) == [step.name for step in STEPS]
    assert [name for name, said in found["steps"].items() if said.startswith("would ")] == list(found["steps"])[2:]
    assert found["facts"]["arch"] == os.uname().machine
    assert found["plan"]["extras"][0] == "cpu"


def test_the_bundle_runs_there_and_its_evidence_comes_home(lab):
    found = json.loads(lab.first.stdout)
    assert found["release"] == lab.release
    assert "self-test passed" in found["steps"]["switch"]
    assert found["steps"]["prune"] == "removed nothing"
    release = lab.folder / "current"
    assert (release / "environment" / "complete").exists()
    with Bundle(lab.old) as here, Bundle(release / "bundle") as copy:
        assert {each.name: here.sha256(each.name) for each in here.manifest.variants} == {
            each.name: copy.sha256(each.name) for each in copy.manifest.variants
        }
        assert all(each in copy.evidence().entries for each in lab.evidence.entries)
        assert not any(each in here.evidence().entries for each in lab.evidence.entries)
        name = deployment.content_id(here)
        assert deployment.content_id(copy) == name == (release / "bundle").resolve().name
    assert {each.machine.key for each in lab.evidence.entries} == {machine.this().key}
    assert all(each.latency and each.agreement for each in lab.evidence.entries)
    assert not (lab.folder / "pending").exists()


def test_evidence_goes_into_the_bundle_here_only_when_asked(lab, tmp_path):
    place = shutil.copytree(lab.old, tmp_path / "bundle")
    with Bundle(place) as bundle:
        before = deployment.content_id(bundle)
        elsewhere.merge(bundle, lab.evidence.entries)
    with Bundle(place) as bundle:
        assert all(each in bundle.evidence().entries for each in lab.evidence.entries)
        assert deployment.content_id(bundle) == before
        assert any("offered [" in line for line in deployment.lines(bundle, lab.evidence.entries))


def test_bench_on_a_device_measures_there_and_switches_nothing(lab, tmp_path):
    place = shutil.copytree(lab.new, tmp_path / "bundle")
    evidence = tmp_path / "evidence.json"
    before = running(lab)
    arguments = ["--quiet", "bench", str(place), "--on", lab.server.name, *lab.options]
    arguments += ["--seconds", "0.02", "--rounds", "1", "--evidence", str(evidence), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert running(lab) == before
    found = records.decode(evidence.read_bytes(), Evidence, "").entries
    assert found
    assert all(each.latency and each.agreement for each in found)
    with Bundle(place) as bundle:
        assert all(each in bundle.evidence().entries for each in found)
        assert not (lab.folder / "releases" / deployment.content_id(bundle)).exists()
        assert (lab.folder / "bundles" / deployment.content_id(bundle)).is_dir()
    rows = json.loads(done.stdout)
    assert {row["variant"] for row in rows} == {each.variant for each in found}
    done = CliRunner().invoke(app, ["--quiet", "bench", str(place), "--folder", "x"])
    assert done.exit_code == 2
    assert "name one: --on" in done.output


def connections():
    return [child for child in psutil.Process().children() if child.name() == "ssh"]


@contextmanager
def ssh_killed_at(name, seconds=0.15):
    """A callback of `deploy` that kills the first ssh that runs in a step, shortly after it began."""

    def kill(others):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for child in set(connections()) - others:
                time.sleep(seconds)
                child.kill()
                return
            time.sleep(0.005)

    threads = []

    def tell(said):
        if said.endswith(f": {name}"):
            threads.append(threading.Thread(target=kill, args=(set(connections()),)))
            threads[0].start()

    yield tell
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("name", ["environment", "bundle", "prove"])
def test_an_ssh_that_dies_leaves_what_ran(name, lab):
    before = there(lab)
    wheel = _another(lab) if name == "environment" else lab.wheel
    with ssh_killed_at(name) as tell, Bundle(lab.new) as new, pytest.raises(Unavailable, match="connection broke"):
        deploy(lab.host, new, msgspec.structs.replace(asked(lab), wheel=wheel), tell=tell)
    assert there(lab) == before
    assert answers(lab)


def at(name, act):
    """A callback of `deploy` that acts as a step begins."""
    return lambda said: act() if said.endswith(f": {name}") else None


def test_a_second_deployment_is_refused_while_one_goes_on(lab, tmp_path):
    """It would remove what the first has made, as it goes back, or even what that has switched to."""
    refused = []

    def second():
        before = there(lab)
        refused.append(CliRunner().invoke(app, ["--quiet", "deploy", str(lab.old), lab.server.name, *lab.options]))
        assert there(lab) == before
        looked = ["--quiet", "deploy", str(lab.old), lab.server.name, *lab.options, "--dry-run"]
        refused.append(CliRunner().invoke(app, looked))  # changes nothing, so it may

    place = renamed(lab.new, tmp_path, "first-of-two")
    go(lab, place, at("prove", second))
    assert [done.exit_code for done in refused] == [3, 0]
    assert refused[0].stderr == (
        f"edgecv: {lab.server.name}: another deployment is going on there; try again when it has ended\n"
    )
    with Bundle(place) as bundle:
        assert (lab.folder / "current" / "bundle").resolve().name == deployment.content_id(bundle)
    go(lab, lab.old)  # the lock went with the first


def renamed(bundle, folder, name):
    with Bundle(bundle) as opened:
        manifest = msgspec.structs.replace(opened.manifest, name=name)
        bundles.write(folder / name, manifest, opened.content())
    return folder / name


def test_who_falls_silent_keeps_nobody_away_and_removes_nothing_of_others(lab, tmp_path, monkeypatch):
    """A link that is cut, or a lid that is closed: the second begins, and what it uses stays when the first is back."""
    before = running(lab)
    place, fell = renamed(lab.new, tmp_path, "falls-silent"), []

    def is_busy():
        try:
            alone.Alone(lab.host, str(lab.folder)).__exit__(None, None, None)
        except Unavailable:
            return True
        return False

    def silent():
        fell.append(True)
        (keeper,) = connections()
        keeper.suspend()
        end = time.monotonic() + 60
        while is_busy():
            assert time.monotonic() < end
            time.sleep(0.2)
        keeper.resume()
        keeper.wait(20)
        monkeypatch.undo()
        go(lab, place)

    monkeypatch.setattr(alone, "SILENT_S", 5)
    monkeypatch.setattr(alone, "BEAT_S", 0.1)
    with pytest.raises(Unavailable, match="connection broke that kept other deployments away; .*lies beside it"):
        go(lab, place, at("prove", silent))
    assert fell
    assert running(lab) != before
    assert answers(lab)
    go(lab, lab.old)


def test_what_is_interrupted_here_does_not_go_on_there(tmp_path, monkeypatch):
    (tmp_path / "ssh").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    interrupting = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    interrupting.start()
    before = set(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt):
        Host("pi@camera").run("true")
    assert set(psutil.Process().children()) <= before


def _another(lab):
    """The wheel with one file more: another environment, which has to be made."""
    place = lab.server.folder / "another" / lab.wheel.name
    place.parent.mkdir()
    shutil.copy(lab.wheel, place)
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr("edgecv/another.txt", "")
    return place


def test_a_bundle_that_is_wrong_there_is_not_switched_to(lab, tmp_path):
    """Its weights are halved, its golden outputs are not."""
    before = there(lab)
    place = shutil.copytree(lab.new, tmp_path / "wrong")
    with Bundle(place) as bundle:
        file = bundle.manifest.variants[0].file
        model = onnx.load(bundle.file(file))
        for each in model.graph.initializer:
            if each.data_type == onnx.TensorProto.FLOAT and len(each.dims) > 1:
                each.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(each) / 2, each.name))
        bundles.update(bundle, content={file: model.SerializeToString()})
    with pytest.raises(ComputationError, match=r"the self-test there failed: .*float32"):
        go(lab, place)
    assert there(lab) == before


def test_a_bundle_that_cannot_run_there_is_refused_before_anything_is_copied(lab, tmp_path):
    """By evidence of another machine it needs more memory than there is."""
    before = there(lab)
    place = shutil.copytree(lab.new, tmp_path / "large")
    entries = [
        msgspec.structs.replace(each, backend=name, latency=msgspec.structs.replace(each.latency, peak_rss_mb=1e8))
        for each in lab.evidence.entries
        for name in ("onnxruntime", "openvino")
    ]
    with Bundle(place) as bundle:
        elsewhere.merge(bundle, entries)
    done = CliRunner().invoke(app, ["--quiet", "deploy", str(place), lab.server.name, *lab.options])
    assert done.exit_code == 3
    assert re.fullmatch(
        r"edgecv: .*: nothing of the bundle can run there: .*needs \d+ MiB, the device has .*\n", done.stderr
    )
    assert there(lab) == before
    first = lab.disk / "first"  # nothing was deployed there
    options = [str(first) if word == str(lab.folder) else word for word in lab.options]
    done = CliRunner().invoke(app, ["--quiet", "deploy", str(place), lab.server.name, *options])
    assert done.exit_code == 3
    assert not first.exists()


def test_a_device_that_is_gone_keeps_what_ran_and_ends_a_switch_alone(lab):
    def gone(said):
        if said.endswith(": release"):
            lab.server.stop()

    with pytest.raises(Unavailable, match="what runs there is untouched"):
        go(lab, lab.new, gone)
    lab.server.start()
    assert running(lab) == lab.release
    with ssh_killed_at("switch") as tell, pytest.raises(Unavailable, match="the device ends the switch alone"):
        go(lab, lab.new, tell)
    settled(lab)
    if running(lab) == lab.release:  # it died before the switch began
        go(lab, lab.new)
    status = CliRunner().invoke(app, ["deploy", lab.server.name, "--status", *lab.options[:4]])
    assert status.exit_code == 0, status.output
    assert f"{running(lab)} runs, before it {lab.release}" in status.stdout
    assert "answers: float32 on" in status.stdout
    rollback = ["deploy", lab.server.name, "--rollback", *lab.options[:4]]
    was = running(lab)
    dry = CliRunner().invoke(app, [*rollback, "--dry-run"])
    assert (dry.exit_code, running(lab)) == (2, was), dry.output
    back = CliRunner().invoke(app, rollback)
    assert back.stdout == f"{lab.release} runs\n", back.output
    assert running(lab) == lab.release
    probe = lab.folder / "current" / "probe"
    usual = probe.read_text()
    try:
        for script, wanted in (
            ("printf fine", (True, "fine")),
            ("echo no frame; exit 1", (False, "no frame")),
            ("exec sleep 60", (False, "the probe took longer than 0 s")),
        ):
            probe.write_text(script)
            found = present.status(lab.host, str(lab.folder), ready_s=0)
            assert (found.answers, found.ready) == wanted
    finally:
        probe.write_text(usual)
    for kind in ("releases", "bundles"):  # for those that follow
        for each in (lab.folder / kind).iterdir():
            if each.resolve() not in (
                (lab.folder / "current").resolve(),
                (lab.folder / "current" / "bundle").resolve(),
            ):
                shutil.rmtree(each)


def test_a_full_disk_leaves_what_ran(lab):
    before = there(lab)

    def resize(size):
        subprocess.run([*ROOT, "mount", "-o", f"remount,size={size}", lab.disk], check=True)

    def tell(said):
        if said.endswith(": bundle"):
            used = subprocess.run(["df", "-k", "--output=used", lab.disk], capture_output=True, text=True, check=True)
            resize(f"{int(used.stdout.split()[1]) + 8}k")

    try:
        with pytest.raises(ComputationError, match=r"copying the bundle failed: .*No space left on device"):
            go(lab, lab.new, tell)
    finally:
        resize("1g")
    assert there(lab) == before
    assert answers(lab)


def test_a_release_that_does_not_answer_is_gone_back_from(lab):
    before = there(lab)
    started = lab.folder / "started"
    restart = f'basename "$(readlink -f .)" >>{shlex.quote(str(started))}'
    with pytest.raises(ComputationError, match=f"no frame for 10 s; went back to {lab.release}, which is ready"):
        go(lab, lab.new, restart=restart, probe="echo no frame for 10 s; exit 1", ready_s=1)
    assert len(started.read_text().split()) == 1  # the old one has nothing to start
    assert there(lab) == before


# What follows needs no ssh: the script that runs on the device, killed at each rename.
@pytest.fixture
def releases(tmp_path):
    for name in ("old", "new"):
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / "probe").write_text(f"echo {name} answers")
        (tmp_path / "releases" / name / "restart").write_text("")
    (tmp_path / "current").symlink_to("releases/old")
    return tmp_path


def switch_there(folder, before="", name="new"):
    given = f"folder={shlex.quote(str(folder))} id={name} seconds=0 outcome=outcome\n{before}\n"
    return subprocess.run(["sh", "-c", given + SWITCH], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["mv", "ln", "rm"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_power_lost_before_any_rename_leaves_one_whole_release(command, number, releases):
    """Killed before its Nth `mv`, `ln` or `rm`: as when the power goes there."""
    count = f'{command}() {{ n=$((${{n:-0}} + 1)); [ $n != {number} ] || kill -9 $$; command {command} "$@"; }}'
    done = switch_there(releases, count)
    current = (releases / "current").readlink().name
    assert current in ("old", "new")
    assert (releases / "current" / "probe").exists()
    if done.returncode == -9 and current == "new" and (command, number) != ("mv", 3):  # switched, not yet proven
        assert (releases / "pending").read_text() == "old"
    assert switch_there(releases).returncode == 0
    assert (releases / "current").readlink().name == "new"
    assert (releases / "outcome").read_text() == "ready: new answers\n"
    assert not (releases / "pending").exists()


def test_what_was_switched_to_and_never_proven_is_gone_back_from_to_what_was(releases):
    (releases / "pending").write_text("old")
    (releases / "current").unlink()
    (releases / "current").symlink_to("releases/new")
    (releases / "releases" / "new" / "probe").write_text("echo broken; exit 1")
    switch_there(releases)
    assert (releases / "outcome").read_text() == "failed: broken; went back to old, which is ready\n"
    assert (releases / "current").readlink().name == "old"


def test_the_first_release_that_does_not_answer_leaves_nothing(releases):
    (releases / "current").unlink()
    (releases / "releases" / "new" / "probe").write_text("echo broken; exit 1")
    switch_there(releases)
    assert (releases / "outcome").read_text().startswith("failed: broken; nothing ran before")
    assert not (releases / "current").is_symlink()


def test_two_switches_at_once_are_one(releases):
    with subprocess.Popen(["flock", releases / "lock", "sleep", "30"]) as held:
        for _ in range(200):
            if subprocess.run(["flock", "-n", releases / "lock", "true"], check=False).returncode:
                break
            time.sleep(0.01)
        switch_there(releases)
        for child in psutil.Process(held.pid).children():
            child.kill()
    assert (releases / "outcome").read_text() == "failed: another switch is going on\n"
    assert (releases / "current").readlink().name == "old"


@pytest.fixture
def sshd(lab):
    yield lab.server
    lab.server.known("host")
    lab.server.use("user")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda server: server.known(""), "its host key is not known: connect once by hand"),
        (lambda server: server.known("stranger"), "its host key is another one than known_hosts has"),
        (lambda server: server.use("stranger"), "it refuses the key"),
    ],
    ids=["unknown host", "changed host", "wrong key"],
)
def test_what_ssh_would_ask_is_one_line_and_nothing_is_accepted(change, said, sshd, lab):
    change(sshd)
    known = (sshd.folder / "known_hosts").read_text()
    done = CliRunner().invoke(app, ["--quiet", "deploy", str(lab.old), sshd.name, *lab.options])
    assert done.exit_code == 3
    assert done.stderr.startswith(f"edgecv: {sshd.name}: {said}")
    assert done.stderr.count("\n") == 1
    assert (sshd.folder / "known_hosts").read_text() == known


def test_a_device_that_is_not_there_is_one_line(lab):
    with pytest.raises(Unavailable, match="nothing listens there"):
        Host(f"root@127.0.0.1:{free_port()}", lab.server.config).run("true")
    with pytest.raises(Unavailable, match="no such host name"):
        Host("root@nowhere.invalid", lab.server.config).run("true")
    with pytest.raises(Unavailable, match="nothing is deployed|no release before"):
        present.rollback(lab.host, str(lab.server.folder / "nothing"))


def test_a_place_for_evidence_that_is_none_is_told_before_the_device_is_asked(tmp_path):
    done = CliRunner().invoke(app, ["deploy", str(DIGITS), "root@nowhere.invalid", "--evidence", str(tmp_path)])
    assert done.exit_code == 2
    assert "is a folder; name a file" in done.stderr


@pytest.mark.parametrize(
    "name", ["", "-oProxyCommand=x", "root@", "root@host:0", "root@host:70000", "a b", "host:port"]
)
def test_what_is_no_device_is_refused(name):
    with pytest.raises(BadInput, match="is no device"):
        Host(name)


PI = Facts(
    arch="aarch64", folder="/home/pi/e", glibc="2.36", python="/usr/bin/python3", python_version="3.11", venv="yes",
    writable="yes", disk_mb=9000, clock=1_795_000_000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"python": "", "python_version": ""}, "it has no Python"),
        ({"python_version": "3.8"}, "its newest Python is 3.8"),
        ({"venv": ""}, "apt-get install python3-venv"),
        ({"arch": "armv7l"}, "its architecture is armv7l"),
        ({"glibc": ""}, r"no glibc \(Alpine"),
        ({"glibc": "2.27"}, "glibc 2.27"),
        ({"writable": ""}, "may not write to /home/pi/e"),
        ({"disk_mb": 100}, "100 MiB are free"),
        ({"clock": 0}, "days behind"),
    ],
)
def test_a_device_that_does_not_fit_is_refused_before_anything_is_copied(changed, said):
    with pytest.raises(Unavailable, match=said):
        device.check(msgspec.structs.replace(PI, **changed), "pi", 1, 1_795_000_000)
    assert device.check(PI, "pi", 1, 1_795_000_000) == []


def test_a_clock_in_1970_does_without_an_index():
    assert "off" in device.check(msgspec.structs.replace(PI, clock=0), "pi", 1, 1_795_000_000, offline=True)[0]


@pytest.mark.parametrize(
    ("folder", "found"), [("~/there//", "there"), ("a b/", "a b"), ("/", "/"), ("/nowhere/x/", "/nowhere/x")]
)
def test_a_folder_is_one_however_it_is_written_and_a_disk_without_figures_is_no_error(folder, found, tmp_path):
    (tmp_path / "df").write_text("#!/bin/sh\necho Filesystem\necho 'fuse 0 0 0 - /x'\n")
    (tmp_path / "df").chmod(0o755)
    script = device.below(folder, "ask.sh", root="")
    where = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env=where)
    facts = device.read(done.stdout, "lab")
    assert facts.folder == os.path.join(tmp_path, found)  # noqa: PTH118 - of an absolute one itself
    assert facts.disk_mb == 0


def test_a_jetson_is_told_by_its_own_files_and_keeps_its_own_libraries(tmp_path):
    """The files as JetPack 6.2 has them."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
    (tmp_path / "etc" / "nv_tegra_release").write_text(release)
    (tmp_path / "etc" / "os-release").write_text('PRETTY_NAME="Ubuntu 22.04.5 LTS"\nID=ubuntu\n')
    (tmp_path / "proc" / "device-tree" / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:        7802892 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc" / "cpuinfo").write_text("processor : 0\nCPU part : 0xd42\n")
    (tmp_path / "usr" / "local" / "cuda").mkdir(parents=True)
    cuda = {"cuda": {"name": "CUDA SDK", "version": "12.6.11"}, "cuda_cudart": {"version": "12.6.68"}}
    (tmp_path / "usr" / "local" / "cuda" / "version.json").write_text(json.dumps(cuda, indent=3))
    script = device.below("there", "ask.sh", root=str(tmp_path))
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "HOME": "/tmp"}
    )
    facts = device.read(f"Welcome to Ubuntu\n{done.stdout}", "jetson")
    assert (facts.model, facts.l4t, facts.system) == (
        "NVIDIA Jetson Orin Nano Developer Kit",
        "36.4.3",
        "Ubuntu 22.04.5 LTS",
    )
    assert (facts.memory_mb, facts.folder) == (7620, "/tmp/there")
    assert abs(facts.disk_mb - shutil.disk_usage("/tmp").free / 2**20) < 500
    plan = device.plan(facts)
    assert plan.sees_system
    assert "cpu" not in plan.extras
    assert plan.packages[0] == "cuda-bindings==12.*"  # 13 finds no driver that serves it
    assert any("no other over them" in reason for reason in plan.reasons)
    assert device.plan(PI, ("page", "cpu", "page")).extras == ("cpu", "page")
    with pytest.raises(BadInput, match="did you mean 'page'"):
        Asked(extras=("pages",))
    for wrong in ({"ready_s": 0}, {"rounds": 0}, {"seconds": -1.0}):
        with pytest.raises(BadInput, match="must be positive"):
            Asked(**wrong)
    with pytest.raises(ComputationError, match="no Linux with a POSIX shell"):
        device.read("'folder' is not recognized as a command", "windows")
