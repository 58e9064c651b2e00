"""Downloading from a server on this machine, extraction, and verification."""

import gzip
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading

import pytest

from binjax.data import SOURCES, DataError, RemoteFile, Source, fetch, verify

pytest.importorskip("pooch", reason="pooch is not installed (the extra 'data')")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Server:
    """Serves `files`; counts requests; can cut the answer short of its Content-Length."""

    def __init__(self):
        self.files, self.requests, self.cut = {}, [], set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                data = outer.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if self.path in outer.cut else data)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


DATA = bytes(range(256)) * 300
PLAIN = RemoteFile("set.bin", sha256(DATA))


def one(server, *mirrors, file=PLAIN):
    return {"toy": Source(tuple(server.url + m for m in mirrors), (file,))}


def refused(*words, call=fetch, **options):
    with pytest.raises(DataError) as caught:
        call("toy", **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def no_leftovers(folder):
    return not [p for p in folder.rglob("*") if p.name.endswith(".part")]


def test_the_table_is_complete():
    assert set(SOURCES) == {"mnist", "fashion-mnist", "cifar10", "cifar100", "stl10", "svhn"}
    for source in SOURCES.values():
        assert source.mirrors and all(m.startswith("http") for m in source.mirrors)
        for file in source.files:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert bool(file.members) == file.name.endswith(".tar.gz")


@pytest.mark.parametrize("progress", [False, True])
def test_fetch_and_not_again(server, tmp_path, capfd, progress):
    server.files["/a/set.bin"] = DATA
    sources = one(server, "/a/")
    root = tmp_path / "new" / "root"
    for _ in range(2):
        (path,) = fetch("toy", root, sources=sources, progress=progress)
        assert path == root / "toy" / "set.bin" and path.read_bytes() == DATA
    assert server.requests == ["/a/set.bin"]
    assert no_leftovers(root)
    out, err = capfd.readouterr()
    assert out == "" and (progress or err == "")
    (status,) = verify("toy", root, sources=sources)
    assert (status.status, status.expected, status.found) == ("ok", PLAIN.sha256, PLAIN.sha256)


def test_the_next_mirror_is_tried(server, tmp_path):
    server.files |= {"/b/set.bin": b"wrong", "/c/set.bin": DATA, "/d/set.bin": DATA}
    server.cut.add("/c/set.bin")
    (path,) = fetch("toy", tmp_path, sources=one(server, "/a", "/b", "/c", "/d"))
    assert path.read_bytes() == DATA
    assert server.requests == [f"/{m}/set.bin" for m in "abcd"]
    assert no_leftovers(tmp_path)


def test_all_mirrors_failing_gives_every_reason(server, tmp_path):
    server.files |= {"/b/set.bin": b"wrong", "/c/set.bin": DATA}
    server.cut.add("/c/set.bin")
    sources = one(server, "/a", "/b", "/c")
    words = ("404", "5 bytes of sha256", PLAIN.sha256, f"{server.url}/c/set.bin: ", "by hand")
    refused(*words, directory=tmp_path, sources=sources)
    assert no_leftovers(tmp_path) and not (tmp_path / "toy" / "set.bin").exists()
    dead = {"toy": Source(("http://127.0.0.1:1",), (PLAIN,))}
    refused("ConnectionError", directory=tmp_path, sources=dead)


def test_damaged_file_is_found_and_replaced(server, tmp_path):
    server.files["/set.bin"] = DATA
    sources = one(server, "")
    path = tmp_path / "set.bin"  # in the root, where `load` would find it first
    flipped = bytearray(DATA)
    flipped[1000] ^= 1
    path.write_bytes(flipped)
    (status,) = verify("toy", tmp_path, sources=sources)
    assert (status.status, status.found) == ("damaged", sha256(flipped))
    assert fetch("toy", tmp_path, sources=sources) == [path]
    assert path.read_bytes() == DATA
    path.unlink()
    (status,) = verify("toy", tmp_path, sources=sources)
    assert (status.status, status.found) == ("missing", None)
    assert status.path == tmp_path / "toy" / "set.bin"


def test_content_decides_for_recompressed_and_plain_files(tmp_path, server):
    served = gzip.compress(DATA, 9)
    file = RemoteFile("x-idx1-ubyte.gz", sha256(served), sha256(DATA))
    sources = one(server, "", file=file)
    for name, data in [
        ("x-idx1-ubyte.gz", gzip.compress(DATA, 1)),
        ("x-idx1-ubyte", DATA),
        ("x.idx1-ubyte", DATA),
    ]:
        path = tmp_path / name
        path.write_bytes(data)
        assert [s.status for s in verify("toy", tmp_path, sources=sources)] == ["ok"]
        assert fetch("toy", tmp_path, sources=sources) == [path]
        path.write_bytes(data[:-7])
        assert [s.status for s in verify("toy", tmp_path, sources=sources)] == ["damaged"]
        if name != file.name:
            refused(path, "remove it", directory=tmp_path, sources=sources)
        path.unlink()
    assert server.requests == []


def test_unwritable_folder(server, tmp_path):
    server.files["/set.bin"] = DATA
    (tmp_path / "toy").write_text("a file where the folder should be")
    refused("cannot write", tmp_path / "toy", directory=tmp_path, sources=one(server, ""))


def test_unknown_name_and_missing_folder(tmp_path):
    with pytest.raises(DataError, match="did you mean mnist"):
        fetch("mnits", tmp_path)
    with pytest.raises(DataError, match="did you mean cifar10"):
        verify("cifr10", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        verify("mnist", tmp_path / "no")


def test_embedded_needs_no_download():
    paths = fetch("fashion-mnist-12k")
    assert len(paths) == 4 and all(path.is_file() for path in paths)


def test_without_pooch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r"pip install 'binjax\[data\]'"):
        fetch("mnist", tmp_path)


# --- archives ---------------------------------------------------------------------------------

MEMBERS = {"toy-bin/one.bin": b"1" * 5000, "toy-bin/two.bin": b"2" * 7000}


def archive(members, extra=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


def archived(server, data):
    server.files["/toy.tar.gz"] = data
    file = RemoteFile("toy.tar.gz", sha256(data), members=tuple(MEMBERS))
    return one(server, "", file=file)


def test_archive_is_extracted_verified_and_dropped(server, tmp_path):
    sources = archived(server, archive(MEMBERS | {"toy-bin/unasked.txt": b"x"}))
    for _ in range(2):
        paths = fetch("toy", tmp_path, sources=sources)
        assert paths == [tmp_path / "toy" / "one.bin", tmp_path / "toy" / "two.bin"]
    assert server.requests == ["/toy.tar.gz"]
    assert [p.read_bytes() for p in paths] == list(MEMBERS.values())
    assert {p.name for p in (tmp_path / "toy").iterdir()} == {"one.bin", "two.bin", "SHA256SUMS"}
    assert [s.status for s in verify("toy", tmp_path, sources=sources)] == ["ok", "ok"]
    paths[1].write_bytes(b"2" * 6999 + b"3")
    assert [s.status for s in verify("toy", tmp_path, sources=sources)] == ["ok", "damaged"]
    fetch("toy", tmp_path, sources=sources)
    assert [s.status for s in verify("toy", tmp_path, sources=sources)] == ["ok", "ok"]
    (tmp_path / "toy" / "SHA256SUMS").unlink()
    statuses = verify("toy", tmp_path, sources=sources)
    assert [s.status for s in statuses] == ["unverified"] * 2
    assert statuses[0].expected is None and statuses[0].found == sha256(MEMBERS["toy-bin/one.bin"])


def test_archive_put_there_by_hand_is_used_and_kept(server, tmp_path):
    data = archive(MEMBERS)
    sources = archived(server, data)
    (tmp_path / "toy.tar.gz").write_bytes(data)
    fetch("toy", tmp_path, sources=sources)
    assert server.requests == [] and (tmp_path / "toy.tar.gz").exists()


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "extra", "word"),
    [
        (MEMBERS | {"../evil": b"x"}, (), "refused: member '../evil'"),
        (MEMBERS | {"/tmp/evil": b"x"}, (), "refused: member '/tmp/evil'"),
        (MEMBERS | {"toy-bin/../../evil": b"x"}, (), "refused"),
        ({"toy-bin/one.bin": b"1"}, (), "lacks toy-bin/two.bin"),
        ({"toy-bin/one.bin": b"1"}, (link("toy-bin/two.bin", "/etc/passwd"),), "link or special"),
        (
            {"toy-bin/one.bin": b"1"},
            (link("toy-bin/two.bin", "toy-bin/one.bin", tarfile.LNKTYPE),),
            "link or special",
        ),
    ],
)
def test_malicious_archive_is_refused_whole(server, tmp_path, members, extra, word):
    sources = archived(server, archive(members, extra))
    root = tmp_path / "root"
    refused(word, "toy.tar.gz", directory=root, sources=sources)
    left = {p.name for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()}
    assert left <= {"toy.tar.gz"}


def test_damaged_archive(server, tmp_path):
    for data in (archive(MEMBERS)[:-40], b"no archive at all"):
        refused("damaged archive", directory=tmp_path, sources=archived(server, data))
    assert no_leftovers(tmp_path)


def test_sums_file_is_what_sha256sum_reads(server, tmp_path):
    fetch("toy", tmp_path, sources=archived(server, archive(MEMBERS)))
    try:
        subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "toy", check=True)
    except FileNotFoundError:
        pytest.skip("no sha256sum on this machine")
