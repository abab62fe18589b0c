"""Photos in storage and in tar files give the same collections as files; S3 is a real server on this machine."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import boto3
import numpy as np
import pytest
from configs import QUICK
from moto.server import ThreadedMotoServer

from udq import Collection
from udq.errors import ImageError, InputError, UdqError
from udq.photos import remote
from udq.photos.listing import PassedOver

FEW = QUICK.replace({"sample": {"photos": 2}})
NAMES = ("astronaut.png", "coffee.png", "deep er/coins 1#2?.png", "rocket.png")


@pytest.fixture(scope="module")
def files(photos, tmp_path_factory):
    """A folder of four photos, one with characters in its name that URLs reserve, and a broken one."""
    folder = tmp_path_factory.mktemp("stored") / "photos"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((photos / f"{Path(name).stem.split()[0]}.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"no photo")
    (folder / "notes.txt").write_text("no photo either")
    return folder


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    return Collection.build(files, tmp_path_factory.mktemp("whole") / "x.udq", config=FEW, device="cpu")


@pytest.fixture(scope="module")
def bucket(files):
    """A client of an S3 server, and the URL of the photos' folder there, with secrets and options."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        secrets = {"aws_access_key_id": "someone", "aws_secret_access_key": "secret"}
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **secrets)
        client.create_bucket(Bucket="museum")
        for file in filter(Path.is_file, files.rglob("*")):
            client.upload_file(str(file), "museum", f"photos/{file.relative_to(files).as_posix()}")
        yield client, f"s3://someone:secret@museum/photos?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    finally:
        server.stop()


def assert_same(one, other, prefix=""):
    assert [prefix + name for name in other.names] == one.names
    assert [prefix + entry["image"] for entry in other.broken] == [entry["image"] for entry in one.broken]
    for first, second in zip(one.segments, other.segments, strict=True):
        np.testing.assert_array_equal(first.codes, second.codes)
        np.testing.assert_array_equal(first.boxes, second.boxes)
        np.testing.assert_array_equal(first.photos["digest"], second.photos["digest"])


def test_photos_in_storage_are_indexed_as_files_are(bucket, whole, tmp_path):
    built = Collection.build(bucket[1], tmp_path / "x.udq", config=FEW, device="cpu")

    assert_same(built, whole)
    assert built.info()["images"] == 4
    assert {image.root for image in built.images} == {"s3://museum/photos/"}
    assert built.broken[0]["reason"].startswith("s3://museum/photos/broken.jpg: ")
    kept = b"".join(file.read_bytes() for file in (tmp_path / "x.udq").rglob("*") if file.is_file())
    assert b"secret" not in kept
    assert built.search(whole.images[1].path).matches[0].image == NAMES[1]


def test_tar_files_are_folders(files, whole, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for file in sorted(filter(Path.is_file, files.rglob("*"))):
            tar.add(file, file.relative_to(files).as_posix())
    sources, skipped = remote.find([tmp_path / "shard.tar"])
    built = Collection.build(tmp_path / "shard.tar", tmp_path / "x.udq", config=FEW, device="cpu")

    assert (len(sources), skipped) == (5, PassedOver(other_files=1))
    assert_same(built, whole, prefix="shard.tar/")
    assert built.images[0].root == f"{tmp_path.as_posix()}/"
    assert sources[0].state().startswith(f"{(files / NAMES[0]).stat().st_size} ")


def test_tar_files_in_storage_and_files_beside_them(bucket, files, tmp_path):
    client, url = bucket
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(files / NAMES[0], "inside.png")
    client.upload_file(str(tmp_path / "s.tar"), "museum", "shards/s.tar")
    sources, _ = remote.find([url.replace("/photos?", "/shards?"), files / NAMES[1]])

    assert [source.name for source in sources] == [NAMES[1], "s.tar/inside.png"]
    assert sources[1].place == "s3://museum/shards/s.tar/inside.png"
    with sources[1].local() as file:
        assert file.read_bytes() == (files / NAMES[0]).read_bytes()
    assert not file.exists()


def test_one_photo_of_storage(bucket):
    (source,), _ = remote.find([bucket[1].replace("/photos?", "/photos/coffee.png?")])
    assert (source.name, source.root) == ("coffee.png", "s3://museum/photos/")


def test_a_photo_that_is_gone_is_broken_and_a_storage_that_does_not_answer_is_an_error(bucket, files):
    client, url = bucket
    client.upload_file(str(files / NAMES[0]), "museum", "passing/one.png")
    (source,), _ = remote.find([url.replace("/photos?", "/passing?")])
    client.delete_object(Bucket="museum", Key="passing/one.png")
    with pytest.raises(ImageError, match=r"^s3://museum/passing/one\.png: no such file$"), source.local():
        pass
    client.upload_file(str(files / NAMES[0]), "museum", "passing/one.png")
    silent = remote.StoredSource(source.name, source.path, source.base, "s3://museum/x?endpoint_override=127.0.0.1:9&"
                           "scheme=http&region=us-east-1", source.file, 0, 10, 0)  # fmt: skip
    with pytest.raises(UdqError, match=r"^s3://museum/passing/one\.png: cannot be read"), silent.local():
        pass


@pytest.mark.parametrize("url", ["s4://someone:secret@museum/x", "s3://someone:sec/ret@museum/x", "s3://[museum]/x"])
def test_keys_of_a_url_are_not_in_the_error(url, tmp_path, udq):
    code, _, err = udq("index", url, "-o", tmp_path / "x.udq")

    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "sec" not in err.replace("museum", "")
    assert "no address of storage" in err


def test_the_last_member_of_a_name_counts_and_an_impossible_date_is_ignored(files, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, size, modified in (("a.png", 10, 5), ("a.png", 20, float("nan")), ("./b.png", 30, 1e300)):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = size, {"mtime": str(modified)}
            tar.addfile(member, io.BytesIO(bytes(size)))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../secret.png"
        tar.addfile(link)
    sources, skipped = remote.find([tmp_path / "s.tar"])

    assert [(source.name, source.size, source.modified) for source in sources] == [
        ("s.tar/a.png", 20, 0),
        ("s.tar/b.png", 30, 0),
        ("s.tar/link.png", 0, 0),
    ]
    assert skipped == PassedOver()
    with pytest.raises(ImageError, match=r"/s\.tar/link\.png: a link in a tar file, which is not read$"):
        sources[2].local().__enter__()


def test_folders_of_devices_and_excluded_ones_in_a_tar_file_are_counted(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.png", "__MACOSX/b.png", "x/@eaDir/c.png", "x/@eaDir/d.png", "x/e.png", "f_small.png", "g.txt"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    sources, passed_over = remote.find([tmp_path / "s.tar"], ["*_small.png"])

    assert [source.name for source in sources] == ["s.tar/a.png", "s.tar/x/e.png"]
    assert passed_over == PassedOver(other_files=1, excluded_folders=2, excluded_photos=1)


@pytest.mark.parametrize("argument", ["s3://museum/nothing", "what://museum/photos", "x.tar", "squeezed.tar"])
def test_a_place_that_cannot_be_listed_is_one_line(bucket, argument, tmp_path, udq):
    (tmp_path / "squeezed.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    if argument.startswith("s3"):
        argument += "?" + bucket[1].partition("?")[2]
    elif argument.endswith("tar"):
        argument = str(tmp_path / argument)
    code, _, err = udq("index", argument, "-o", tmp_path / "x.udq")

    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert argument.partition("museum")[0] in err
    assert "endpoint" not in err


def test_a_name_in_storage_that_leads_out_is_an_unreadable_photo(bucket, files):
    client, url = bucket
    client.upload_file(str(files / NAMES[0]), "museum", "odd/good.png")
    client.upload_file(str(files / NAMES[0]), "museum", "odd/a/../../../evil.png")
    sources, _ = remote.find([url.replace("/photos?", "/odd?")])

    assert [source.name for source in sources] == ["a/../../../evil.png", "good.png"]
    with pytest.raises(ImageError, match=r"its name contains '\.\.'$"):
        sources[0].local().__enter__()


def test_two_photos_of_one_name(bucket, files):
    with pytest.raises(InputError, match=r"two photos would be named 'coffee\.png'"):
        remote.find([bucket[1], files / "coffee.png"])


@pytest.mark.ray
def test_workers_of_a_cluster_read_from_storage(bucket, whole, tmp_path):
    pytest.importorskip("ray")
    assert_same(Collection.build(bucket[1], tmp_path / "x.udq", config=FEW, device="cpu", ray="local"), whole)
