"""Evidence expires with what it was measured with: it is shown, and decides nothing."""

from __future__ import annotations

import msgspec
import pytest
from evidence_lab import int8, tell

import edgecv_runtime as rt
from edgecv_runtime import Bundle, backends, machine, offers
from edgecv_runtime import bundle as bundles
from edgecv_runtime.bench import table
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Evidence

KEY = ("int8-u8s8", "onnxruntime", "float32")


def changed(entry, change):
    """An entry as it would be, measured with another version, driver or power mode."""
    if change == "version":
        return msgspec.structs.replace(entry, versions={**entry.versions, entry.backend: "1.2.3"})
    return msgspec.structs.replace(entry, machine=msgspec.structs.replace(entry.machine, **{change: "older"}))


def age(path, change, only=lambda entry: True):
    with Bundle(path) as opened:
        entries = [changed(each, change) if only(each) else each for each in opened.evidence().entries]
        bundles.update(opened, evidence=Evidence(tuple(entries)))


@pytest.fixture
def offering(finished_copy, monkeypatch):
    """A bundle that offers int8 on a machine with a driver and a power mode."""
    here = msgspec.structs.replace(machine.this(), driver="550.54", power="mode 0002")
    monkeypatch.setattr(machine, "this", lambda: here)
    tell(finished_copy, int8({"onnxruntime": "", "openvino": "made up"}))
    with rt.load(finished_copy, backend="onnxruntime", precision="int8") as model:
        assert model.info.variant == "int8-u8s8"
    return finished_copy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("version", "stale: onnxruntime was 1.2.3, is {onnxruntime}"),
        ("driver", "stale: driver was older, is 550.54"),
        ("power", "stale: power mode was older, is mode 0002"),
    ],
)
def test_what_changed_is_said_and_nothing_is_decided_by_it(offering, change, said):
    said = said.format(onnxruntime=backends.available()["onnxruntime"]["onnxruntime"])
    age(offering, change, lambda each: each.backend == "onnxruntime")
    with Bundle(offering) as opened:
        found = offers.offered(opened.manifest, opened.evidence(), machine.this(), backends.available())
        rows = {(row.variant, row.backend): row for row in table.rows(opened)}
    assert found.stale[KEY] == f"{said}; {offers.CURE}"
    assert KEY not in found.why_not
    assert found.why_not[("float32", "openvino", "float32")] == ""  # the others decide as before
    row = rows["int8-u8s8", "onnxruntime"]
    assert (row.offered, row.why_not) == (False, found.stale[KEY])
    # a bundle goes on: float32 as where nothing was measured, int8 no longer by itself
    with rt.load(offering, backend="onnxruntime") as model:
        assert model.info.variant == "float32"
        assert any(said in line for line in model.explain().splitlines())


def test_a_rival_that_is_stale_is_none(offering):
    """int8 as measured now beside a float32 of an older version: not timed, instead of judged by another's time."""
    age(offering, "version", lambda each: each.variant == "float32")
    with Bundle(offering) as opened:
        found = offers.offered(opened.manifest, opened.evidence(), machine.this(), backends.available())
    assert found.why_not[KEY] == offers.NOT_TIMED


def test_figures_of_other_circumstances_are_not_joined(offering):
    with Bundle(offering) as opened:
        (entry,) = [each for each in opened.evidence().entries if each.target == KEY]
    timed = msgspec.structs.replace(entry, agreement=None)
    assert Evidence((entry,)).merged([timed]).entries[0].agreement == entry.agreement
    for change in ("version", "driver", "power"):
        assert Evidence((changed(entry, change),)).merged([timed]).entries[0].agreement is None


def test_evidence_of_older_versions_says_nothing_of_driver_and_power_mode(offering):
    with Bundle(offering) as opened:
        entry = opened.evidence().entries[0]
    old = msgspec.structs.replace(entry, machine=msgspec.structs.replace(entry.machine, driver="", power=""))
    assert offers.stale(old, machine.this(), backends.available()) == ""
    raw = msgspec.to_builtins(old)
    for name in ("driver", "power"):
        del raw["machine"][name]
    for name in ("session", "block_ms"):
        del raw["latency"][name]
    assert msgspec.convert(raw, type(old)) == msgspec.structs.replace(
        old, latency=msgspec.structs.replace(old.latency, session="", block_ms=())
    )


def test_driver_and_power_mode_are_read_as_boards_write_them(tmp_path):
    """From a PC with an NVIDIA GPU, and a Jetson Orin with JetPack 6 (its nv_tegra_release and nvpmodel status)."""
    pc, jetson = tmp_path / "pc", tmp_path / "jetson"
    for path, text in {
        pc / "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22\n",
        pc / "sys/firmware/acpi/platform_profile": "balanced\n",
        pc / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        pc / "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
        jetson / "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
        jetson / "var/lib/nvpmodel/status": "pmode:0002",
    }.items():
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert (machine.driver(pc), machine.power(pc)) == ("550.54.14", "profile balanced, governor powersave")
    assert (machine.driver(jetson), machine.power(jetson)) == ("R36 (release), REVISION: 4.3", "mode 0002")
    assert (machine.driver(tmp_path), machine.power(tmp_path)) == ("", "")


def bundle_entries(path):
    with Bundle(path) as opened:
        return opened.evidence().entries


def timed_at(entry, session):
    return msgspec.structs.replace(entry, latency=msgspec.structs.replace(entry.latency, session=session))


def test_what_other_machines_measured_is_merged(finished_copy, tmp_path):
    from edgecv.run import elsewhere

    with Bundle(finished_copy) as opened:
        before = opened.evidence()
        jetson = msgspec.structs.replace(machine.this(), cpu="Some Jetson")
        theirs = [msgspec.structs.replace(each, machine=jetson) for each in before.entries]
        foreign = msgspec.structs.replace(theirs[0], sha256="0" * 64)
        older = changed(before.entries[0], "version")
        found = elsewhere.merge(opened, [*theirs, foreign, older])
    assert found.taken == len(theirs)
    assert "of another file" in found.left_out[0]
    assert "was 1.2.3, is " in found.left_out[1]
    with Bundle(finished_copy) as opened:
        assert set(opened.evidence().machines()) == {jetson.key, machine.this().key}
        assert all(each in opened.evidence().entries for each in before.entries)
        with pytest.raises(BadInput, match="nothing of it was taken.*another file"):
            elsewhere.merge(opened, [foreign])
    # of another machine nobody knows what there is now; but which of two measurements is the later one is known
    now = {each.key: each for each in bundle_entries(finished_copy) if each.machine.key == jetson.key}
    key, entry = next((key, each) for key, each in now.items() if each.latency)
    early = changed(timed_at(entry, "2020-01-01T00:00:00Z aaa"), "version")
    late = changed(timed_at(entry, "2090-01-01T00:00:00Z bbb"), "version")

    def merged(*entries):
        with Bundle(finished_copy) as opened:
            return elsewhere.merge(opened, entries).taken

    assert merged(timed_at(entry, "2030-01-01T00:00:00Z ccc")) == 1
    with pytest.raises(BadInput, match="with other versions before what the bundle has"):
        merged(early)
    assert merged(late, late) == 2  # the same twice changes nothing more
    assert {each.key: each for each in bundle_entries(finished_copy)}[key] == late
    (tmp_path / "x.json").write_text('{"entries": [{"variant": 3}]}')
    for name, said in (("x.json", "entries"), ("none.json", "cannot be read")):
        with pytest.raises(BadInput, match=said):
            elsewhere.read(tmp_path / name)
