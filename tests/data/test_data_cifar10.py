"""CIFAR-10: the official archive by its checksum and without running what it holds, and the same images as folders."""

import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading

import numpy as np
import pytest

from edgecv.data import DataConfig, cifar10, load
from edgecv_runtime.errors import DatasetError, Unavailable

BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, and numpy by its old names: as the official archive is."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_old_string(self, text):
        data = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    def save_global(self, thing, name=None):
        if getattr(thing, "__name__", "") == "_reconstruct":
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
        else:
            super().save_global(thing, name)

    dispatch[bytes] = save_old_string
    dispatch[str] = save_old_string
    dispatch[type(np.zeros)] = save_global


def pickled(batch):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(batch)
    return file.getvalue()


def contents(images, count=3):
    """Batch files of real digits in CIFAR-10's layout: (N, 3072) red, green and blue planes, and labels."""
    made = {}
    for number, name in enumerate(BATCHES):
        chosen = np.stack(images[number * count : (number + 1) * count])
        chosen = chosen // np.array([1, 2, 3], np.uint8)  # blue, green and red differ
        planes = chosen[..., ::-1].transpose(0, 3, 1, 2).reshape(count, 3072)
        made[name] = pickled({b"data": planes, b"labels": [number, 1, 9], b"batch_label": b"training"})
    return made


def archive(path, made):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in made.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def official(digits, tmp_path, monkeypatch):
    """A small archive that stands for the official one."""
    path = archive(tmp_path / "cifar-10-python.tar.gz", contents(digits[0]))
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def cifar(path=None):
    return load(DataConfig(source="cifar10", path=None if path is None else str(path)))


def test_an_archive_is_read(official, digits):
    found = cifar(official)
    assert found.classes[3] == "cat"
    assert (len(found.train), len(found.val)) == (15, 3)
    assert list(found.train.labels[:6]) == [0, 1, 9, 1, 1, 9]
    assert found.train.name(4) == "data_batch_2/00001"
    for index in range(15):
        assert np.array_equal(found.train[index], digits[0][index] // np.array([1, 2, 3], np.uint8))


def test_unpacked_batch_files_are_read(official, digits, tmp_path):
    batches = tmp_path / "unpacked" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for name, data in contents(digits[0]).items():
        (batches / name).write_bytes(data)
    for place in ("unpacked", "unpacked/cifar-10-batches-py"):
        assert cifar(tmp_path / place).train.fingerprint() == cifar(official).train.fingerprint()
    (batches / "data_batch_4").unlink()
    with pytest.raises(DatasetError, match=r"data_batch_4: cannot be read: No such file"):
        cifar(tmp_path / "unpacked")


def test_another_archive_is_refused(official):
    whole = official.read_bytes()
    official.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DatasetError, match="not the official archive: SHA-256"):
        cifar(official)


class Call:
    """Unpickling this calls a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "evil",
    [
        pickle.dumps({b"data": Call(os.mkdir, "owned")}, 2),
        pickle.dumps({b"data": Call(eval, "open('owned', 'w')")}, 4),
        pickle.dumps({b"data": Call(getattr, str, "format")}, 2),
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        b"cnumpy\nload\n(S'owned'\ntR.",
        b"cnumpy\nndarray.tofile\n.",
        pickle.dumps([1, 2]),
        b"",
        b"garbage",
        pickled({b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]}),
        pickled({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]}),
        pickled({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}),
        pickled({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}),
        pickled({b"labels": [0]}),
    ],
)
def test_a_batch_that_is_none_is_refused_and_runs_nothing(digits, tmp_path, monkeypatch, evil):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "batches"
    path.mkdir()
    for name, data in {**contents(digits[0]), "data_batch_3": evil}.items():
        (path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=r"data_batch_3: (not a CIFAR-10 batch|wants)"):
        cifar(path)
    assert not (tmp_path / "owned").exists()


@pytest.fixture
def server(monkeypatch):
    """A web server whose answer the test sets; yields the list of (status, body, promised length) and of requests."""
    answers, requests = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            status, body, length = answers[-1]
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{running.server_port}/cifar-10-python.tar.gz")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield answers, requests
        running.shutdown()


def test_the_archive_is_downloaded_once(official, server):
    answers, requests = server
    body = official.read_bytes()
    answers.append((200, body, len(body)))
    assert cifar().train.fingerprint() == cifar(official).train.fingerprint()
    assert cifar().train.fingerprint() == cifar(official).train.fingerprint()
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((404, b"gone", 4), Unavailable, "cannot be downloaded .*Not Found.*put the file at .* by hand"),
        ((200, b"<html>login</html>", 18), DatasetError, "incomplete or altered: SHA-256"),
        ((200, b"half", 4000), (Unavailable, DatasetError), "try again|by hand"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(official, server, answer, error, message):
    server[0].append(answer)
    with pytest.raises(error, match=message) as caught:
        cifar()
    assert "\n" not in str(caught.value)
    assert list(cifar10.files.cache_folder("cifar10").iterdir()) == []


def test_no_network_says_where_to_put_the_file(monkeypatch):
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    place = cifar10.files.cache_folder("cifar10") / "cifar-10-python.tar.gz"
    with pytest.raises(Unavailable, match=f"put the file at {place} by hand"):
        cifar()


def test_a_cache_folder_that_cannot_be_made_is_named(monkeypatch):
    monkeypatch.setenv("EDGECV_CACHE", "/dev/null/cache")
    with pytest.raises(Unavailable, match=r"no cache folder \(.*/dev/null/cache.*give data.path"):
        cifar()


def test_the_same_images_as_folders_are_read(photos):
    layout = {f"train/{name}": 2 for name in cifar10.CLASSES} | {f"test/{name}": 1 for name in cifar10.CLASSES}
    found = cifar(photos(layout, suffix=".jpg"))
    assert (len(found.train), len(found.val)) == (20, 10)
    assert found.classes == cifar10.CLASSES


def test_other_folders_are_not_taken_for_it(photos):
    with pytest.raises(DatasetError, match="not CIFAR-10: its classes are cat, dog; use source 'folder'"):
        cifar(photos({"cat": 3, "dog": 3}))
