import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgecv_runtime import Bundle, hashes
from edgecv_runtime import bundle as bundles
from edgecv_runtime.errors import BundleError


def test_a_bundle_holds_what_was_exported(exported):
    with Bundle(exported) as opened:
        assert opened.manifest.name == "tiny"
        assert opened.manifest.labels[3] == "digit 3"
        assert opened.golden().images.dtype == np.uint8
        assert len(opened.golden().logits) == 8
        assert opened.evidence().entries == ()
        assert set(opened.manifest.files) == {"model.onnx", "golden.npz"}


def test_an_exchange_by_two_renames_that_is_interrupted_leaves_the_old_bundle(bundle_copy, monkeypatch):
    """Where a kernel cannot exchange folders in one call."""
    plain = Path.rename

    def interrupted(old, new):
        if old.name.endswith(".tmp"):
            raise KeyboardInterrupt
        return plain(old, new)

    monkeypatch.setattr(sys, "platform", "other")
    with Bundle(bundle_copy) as opened:
        monkeypatch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bundles.update(opened, manifest=msgspec.structs.replace(opened.manifest, name="other"))
        monkeypatch.setattr(Path, "rename", plain)
    assert [path.name for path in bundle_copy.parent.iterdir()] == [bundle_copy.name]
    with Bundle(bundle_copy) as opened:
        assert opened.manifest.name == "tiny"
        bundles.update(opened, manifest=msgspec.structs.replace(opened.manifest, name="other"))
    with Bundle(bundle_copy) as opened:
        assert opened.manifest.name == "other"


def test_only_files_that_stay_are_remembered(exported, tmp_path, monkeypatch):
    """What an archive is unpacked to is new at every start; its hashes would push out those of folders."""
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "FRESH_NS", 0)
    with Bundle(exported) as opened:
        bundles.write(tmp_path / "a.edgecv", opened.manifest, opened.content())
    for path, kept in ((tmp_path / "a.edgecv", False), (exported, True)):
        with Bundle(path, remembered=True):
            assert (tmp_path / "cache" / "hashes").exists() == kept


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "evidence.json", "model.int8-u8s8.onnx"])
@pytest.mark.parametrize("where", [0.0, 0.37, 0.999])
def test_one_flipped_byte_is_refused(finished_copy, name, where):
    file = finished_copy / name
    data = bytearray(file.read_bytes())
    data[int(where * len(data))] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: altered: its SHA-256"):
        Bundle(finished_copy)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "evidence.json"])
def test_a_truncated_file_is_refused(finished_copy, name):
    file = finished_copy / name
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(BundleError, match=f"{name}: has .* bytes, the manifest says .*truncated"):
        Bundle(finished_copy)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_a_missing_file_is_refused(bundle_copy, name):
    (bundle_copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: missing"):
        Bundle(bundle_copy)


def test_an_extra_file_is_refused(bundle_copy):
    (bundle_copy / "notes.txt").write_text("hello")
    with pytest.raises(BundleError, match=r"does not list: notes\.txt; remove"):
        Bundle(bundle_copy)


def test_a_linked_file_is_refused(bundle_copy, tmp_path):
    elsewhere = tmp_path / "elsewhere.onnx"
    (bundle_copy / "model.onnx").rename(elsewhere)
    (bundle_copy / "model.onnx").symlink_to(elsewhere)
    with pytest.raises(BundleError, match=r"model\.onnx: a link"):
        Bundle(bundle_copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m | {"variant": []}, "unknown key 'variant'; did you mean 'variants'"),
        (lambda m: {"schema": 99, "another": "format"}, "schema 99 is not 2: use the edgecv version that wrote it"),
        (
            lambda m: m | {"head": m["head"] | {"labels": "x"}},
            "head: classification: labels: Expected 'array', got 'str'",
        ),
        (lambda m: m | {"head": m["head"] | {"task": "mind reading"}}, "head: no task 'mind reading'"),
        (lambda m: m | {"files": {**m["files"], "../x": {"sha256": "0", "bytes": 0}}}, "not a plain file name"),
        (lambda m: m | {"variants": m["variants"] * 2}, "variant names repeat"),
        (lambda m: {key: m[key] for key in m if key != "head"}, "missing required field 'head'"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(bundle_copy, change, said):
    path = bundle_copy / "bundle.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(BundleError, match=said):
        Bundle(bundle_copy)


def test_what_is_no_bundle_is_named(tmp_path):
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle(tmp_path / "none")
    with pytest.raises(BundleError, match="not a bundle: it has no bundle.json"):
        Bundle(tmp_path)


def test_an_archive_is_the_same_bundle_and_repeats_byte_for_byte(exported, tmp_path):
    with Bundle(exported) as opened:
        content = opened.content()
        for name in ("a.edgecv", "b.edgecv"):
            bundles.write(tmp_path / name, opened.manifest, content)
    assert (tmp_path / "a.edgecv").read_bytes() == (tmp_path / "b.edgecv").read_bytes()
    with Bundle(tmp_path / "a.edgecv") as archived, Bundle(exported) as opened:
        assert archived.manifest == opened.manifest
        unpacked = archived.root
        assert unpacked.is_dir()
    assert not unpacked.exists()


@pytest.mark.parametrize("name", ["../evil", "/evil", "sub/evil", "back\\slash"])
def test_an_archive_with_paths_is_refused(name, tmp_path):
    path = tmp_path / "x.edgecv"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"evil")
    with pytest.raises(BundleError, match="not a plain file"):
        Bundle(path)


def test_an_archive_that_is_a_bomb_or_repeats_names_is_refused(tmp_path):
    path = tmp_path / "x.edgecv"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", b"\0" * 50_000_000)
    with pytest.raises(BundleError, match="unpacks to too much"):
        Bundle(path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    with pytest.raises(BundleError, match="same name twice"):
        Bundle(path)


def test_a_truncated_archive_is_refused(exported, tmp_path):
    path = tmp_path / "x.edgecv"
    with Bundle(exported) as opened:
        bundles.write(path, opened.manifest, opened.content())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="not a whole .edgecv archive"):
        Bundle(path)


def test_a_folder_with_other_things_is_not_overwritten(exported, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with Bundle(exported) as opened, pytest.raises(BundleError, match="other things in it"):
        bundles.write(tmp_path, opened.manifest, {})
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_failing_write_leaves_the_old_bundle(bundle_copy):
    before = (bundle_copy / "bundle.json").read_bytes()
    with Bundle(bundle_copy) as opened, pytest.raises(FileNotFoundError):
        bundles.update(opened, content={"model.onnx": bundle_copy / "none.onnx"})
    assert (bundle_copy / "bundle.json").read_bytes() == before
    Bundle(bundle_copy).close()
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["bundle"]


WRITER = """
import sys, msgspec
from edgecv_runtime import Bundle, bundle
for number in range(10**6):
    with Bundle(sys.argv[1]) as opened:
        manifest = msgspec.structs.replace(opened.manifest, provenance={"number": str(number)})
        bundle.update(opened, manifest=manifest, content={"golden.npz": bytes([number % 256]) * 100_000})
    print(number, flush=True)
"""


def test_killed_at_random_moments_the_bundle_is_the_old_one_or_the_new_one(bundle_copy):
    """SIGKILL at 12 random moments of writing: what is left opens, and the next writer cleans up."""
    moments = np.random.default_rng(0).uniform(0, 0.03, 12)
    for moment in moments:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(bundle_copy)], stdout=subprocess.PIPE)
        assert writer.stdout.readline()  # it is at work
        time.sleep(moment)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        with Bundle(bundle_copy) as opened:
            number = int(opened.manifest.provenance["number"])
            assert opened.file("golden.npz").read_bytes() == bytes([number % 256]) * 100_000
    with Bundle(bundle_copy) as opened:
        bundles.update(opened)
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["bundle"]


def test_readers_beside_a_writer_never_see_a_mix(bundle_copy):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(bundle_copy)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline()
        for _ in range(40):
            with Bundle(bundle_copy) as opened:
                assert "number" in opened.manifest.provenance
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def test_a_full_disk_leaves_the_old_bundle(bundle_copy):
    """A file size limit stands in for the full disk: the write fails in the middle of the model."""
    script = """
import resource, sys
from edgecv_runtime import Bundle, bundle
with Bundle(sys.argv[1]) as opened:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    bundle.update(opened, content={"golden.npz": b"x" * 100_000})
"""
    done = subprocess.run([sys.executable, "-c", script, str(bundle_copy)], capture_output=True, text=True)
    assert "File too large" in done.stderr
    with Bundle(bundle_copy) as opened:
        assert len(opened.golden().images) == 8
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["bundle"]


def test_evidence_of_a_replaced_file_goes_with_it(finished_copy):
    with Bundle(finished_copy) as opened:
        assert {entry.variant for entry in opened.evidence().entries} == {"float32", "int8-u8s8"}
        kept = tuple(each for each in opened.manifest.variants if each.name == "float32")
        bundles.update(opened, manifest=msgspec.structs.replace(opened.manifest, variants=kept))
    with Bundle(finished_copy) as opened:
        assert {entry.variant for entry in opened.evidence().entries} == {"float32"}
        assert "model.int8-u8s8.onnx" not in opened.manifest.files


def test_labels_that_are_not_the_graph_s_own_are_refused(bundle_copy):
    import edgecv_runtime as rt

    with Bundle(bundle_copy) as opened:
        head = msgspec.structs.replace(opened.manifest.head, labels=opened.manifest.labels[::-1])
        bundles.update(opened, manifest=msgspec.structs.replace(opened.manifest, head=head))
    with pytest.raises(BundleError, match="labels are not the manifest's"):
        rt.load(bundle_copy, backend="onnxruntime")


def test_a_manifest_of_random_bytes_is_one_line(bundle_copy):
    path = bundle_copy / "bundle.json"
    raw = path.read_bytes()
    for seed in range(200):
        random = np.random.default_rng(seed)
        data = bytearray(raw)
        data[random.integers(len(data))] = random.integers(256)
        path.write_bytes(data)
        try:
            Bundle(bundle_copy).close()
        except BundleError as exc:
            assert "\n" not in str(exc)


def test_golden_inputs_that_are_none_are_refused(bundle_copy):
    with Bundle(bundle_copy) as opened:
        bundles.update(opened, content={"golden.npz": b"junk"})
    with Bundle(bundle_copy) as opened, pytest.raises(BundleError, match="holds no images and outputs"):
        opened.golden()


def test_a_bundle_exchanged_after_it_was_opened_is_not_run(bundle_copy, network):
    """Another process writes the bundle between the check of its files and the backend that reads them."""
    import edgecv_runtime as rt
    from edgecv_runtime.target import targets

    with Bundle(bundle_copy) as opened:
        (target,) = targets(opened, "onnxruntime")
        bundles.update(opened)  # the same files again, under other inodes
        rt.loading.of_target(opened, target).close()
    opened = Bundle(bundle_copy)
    with Bundle(bundle_copy) as writer:
        raw = writer.file("model.onnx").read_bytes()
        bundles.update(writer, content={"model.onnx": raw.replace(b"edgecv.name", b"edgecv.mane")})
    with pytest.raises(BundleError, match=r"model\.onnx: was exchanged while the bundle was open"):
        rt.loading.of_target(opened, target)
    with pytest.raises(BundleError, match="was exchanged"):
        bundles.update(opened)


def test_a_link_to_a_bundle_stays_one_when_the_bundle_changes(bundle_copy, tmp_path):
    link = tmp_path / "newest"
    link.symlink_to(bundle_copy)
    for name in ("one", "other"):
        with Bundle(link) as opened:
            bundles.update(opened, manifest=msgspec.structs.replace(opened.manifest, name=name))
        assert sorted(tmp_path.iterdir()) == [bundle_copy, link]
        assert link.is_symlink()
        with Bundle(bundle_copy) as opened:
            assert opened.manifest.name == name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": np.zeros((8, 16, 16, 3), np.uint8)}, r"its inputs are uint8 \(8, 16, 16, 3\), the network's are"),
        ({"images": np.zeros((8, 32, 32, 3), np.float32)}, "its inputs are float32"),
        ({"outputs": {"logits": np.zeros((7, 10), np.float32)}}, r"its outputs are float32 \(7, 10\) for 8 inputs"),
        ({"outputs": {"logits": np.full((8, 10), np.nan, np.float32)}}, "its outputs are not finite"),
        ({"labels": ("a", "b")}, "of another network: the model has 10 classes, but 2 labels"),
    ],
)
def test_golden_inputs_of_another_network_are_refused(changes, said, bundle_copy):
    import dataclasses

    with Bundle(bundle_copy) as opened:
        wrong = dataclasses.replace(opened.golden(), **changes)
        bundles.update(opened, content={"golden.npz": wrong.to_bytes()})
    with Bundle(bundle_copy) as opened, pytest.raises(BundleError, match=said):
        opened.golden()


def test_golden_pictures_travel_as_they_were_drawn(exported):
    with Bundle(exported) as opened:
        golden = opened.golden()
        assert golden.labels == opened.manifest.labels
        assert [picture.name for picture in golden.pictures] == ["landscape.png", "portrait.png", "turned.jpg"]
        assert set(golden.constants) == {"model.onnx"}
        again = golden.to_bytes()
        assert again == opened.file("golden.npz").read_bytes()
