"""Photos decoded in worker processes, which may be killed, stopped or crash."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udq.errors import ImageError, InputError, UdqError
from udq.photos import decoding, sandbox, source
from udq.photos.indexed import IndexedFile, OutsideFolderError
from udq.photos.sandbox import Decoder
from udq.photos.source import UnreadableError

SCALE = {"shorter": 60, "longer": 100}
POSIX = pytest.mark.skipif(os.name != "posix", reason="no such signals there")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def photo(tmp_path):
    """A small photo of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    return tmp_path / "x.png"


@pytest.fixture
def decoder():
    with Decoder() as decoder:
        yield decoder


def process_of(decoder):
    """Return the id of the one process that a decoder runs."""
    (process,) = decoder._all
    return process._process.pid


class Waiting(threading.Thread):
    """Decodes a photo on a thread of its own."""

    def __init__(self, decoder, path):
        super().__init__(daemon=True)
        self.decoder, self.path, self.found = decoder, path, None
        self.start()

    def run(self):
        try:
            self.found = self.decoder.decode(self.path, **SCALE)
        except UdqError as error:
            self.found = error

    def result(self):
        self.join(60)
        assert not self.is_alive()
        return self.found


def refusal(decoder, path):
    """Return the error of a photo that cannot be decoded."""
    with pytest.raises(UnreadableError) as refused:
        decoder.decode(path, **SCALE)
    return refused.value


def assert_refused(error, message):
    """Check the error of a photo whose file could not be read to the end."""
    assert isinstance(error, UnreadableError)
    assert (str(error), error.content) == (message, None)


def stopped_over(decoder, photo):
    """Decode a photo in a process that is stopped; return the process and the thread that waits for it."""
    decoder.decode(photo, **SCALE)
    (held,) = decoder._all
    process, reply, asked = held._process.pid, held._reply, threading.Event()
    held._reply = lambda: asked.set() or reply()
    os.kill(process, signal.SIGSTOP)
    waiting = Waiting(decoder, photo)
    # Until the request is sent: a process that ends before is replaced, and costs no photo.
    assert asked.wait(10)
    return process, waiting


def running(process):
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(process, seconds=20):
    """Return whether a process ends within some seconds."""
    deadline = time.monotonic() + seconds
    while running(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not running(process)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.gif", "x.tif", "x.webp", "x.bmp", "x.ppm"])
def test_a_photo_is_decoded_as_in_this_process(decoder, photo, tmp_path, name):
    Image.open(photo).save(tmp_path / name)
    found = decoder.decode(tmp_path / name, **SCALE)
    expected = decoding.load(tmp_path / name, **SCALE)

    assert (found.width, found.height) == (120, 80)
    assert found.pixels.dtype == np.uint8
    assert (found.pixels == expected.pixels).all()
    assert found.content == expected.content == source.content(tmp_path / name)
    assert found.content.digest == hashlib.blake2b((tmp_path / name).read_bytes(), digest_size=16).digest()


CROP = {**SCALE, "least": 32}


@pytest.mark.parametrize("box", [None, (10, 5, 90.5, 60), (118, 78, 120, 80)])
def test_a_crop_is_decoded_as_in_this_process(decoder, photo, box):
    found, where = decoder.load_crop(photo, box, **CROP)
    expected, expected_where = decoding.load_crop(photo, box, **CROP)

    assert where == expected_where
    assert (found.width, found.height) == (expected.width, expected.height)
    assert (found.pixels == expected.pixels).all()


@pytest.mark.parametrize("box", [(0, 0, 121, 80), (5, 5, 5, 9), (9, 9, 5, 5), (0, 0, float("nan"), 9), (1, 2, 3)])
def test_a_wrong_box_is_the_same_error_as_in_this_process(decoder, photo, box):
    with pytest.raises(InputError) as here:
        decoding.load_crop(photo, box, **CROP)
    with pytest.raises(InputError) as there:
        decoder.load_crop(photo, box, **CROP)

    assert str(there.value) == str(here.value)


def test_a_crop_of_a_broken_photo_is_the_same_error_as_in_this_process(decoder, tmp_path):
    (tmp_path / "x.png").write_bytes(b"hello")
    for name in ("x.png", "nothing.png"):
        with pytest.raises((ImageError, InputError)) as here:
            decoding.load_crop(tmp_path / name, (1, 2, 3, 4), **CROP)
        with pytest.raises(type(here.value)) as there:
            decoder.load_crop(tmp_path / name, (1, 2, 3, 4), **CROP)
        assert str(there.value) == str(here.value)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_photo_is_the_same_error_as_in_this_process(decoder, tmp_path, data):
    (tmp_path / "x.png").write_bytes(data)
    found = refusal(decoder, tmp_path / "x.png")
    process = process_of(decoder)
    with pytest.raises(ImageError) as here:
        decoding.load(tmp_path / "x.png", **SCALE)

    assert str(found) == str(here.value)
    assert found.content == source.content(tmp_path / "x.png")
    assert str(refusal(decoder, tmp_path / "x.png")) == str(here.value)
    assert process_of(decoder) == process  # a broken photo does not cost the process


def test_a_missing_photo_has_no_content(decoder, tmp_path):
    found = refusal(decoder, tmp_path / "x.png")

    assert_refused(found, f"{tmp_path / 'x.png'}: No such file or directory")


@POSIX
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGABRT"])
def test_a_crash_costs_the_photo_and_no_other(decoder, photo, name, capfd):
    number = getattr(signal, name)
    process, waiting = stopped_over(decoder, photo)
    os.kill(process, number)
    os.kill(process, signal.SIGCONT)
    found = waiting.result()

    assert_refused(found, f"{photo}: its decoder crashed (signal {int(number)}, {name})")
    assert decoder.decode(photo, **SCALE).width == 120
    assert process_of(decoder) != process
    assert capfd.readouterr() == ("", "")


@POSIX
def test_a_photo_that_takes_too_long_is_broken_and_its_process_gone(photo):
    with Decoder(time_limit=1) as decoder:
        process, waiting = stopped_over(decoder, photo)
        found = waiting.result()

        assert_refused(found, f"{photo}: took longer than 1 s to decode")
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
        assert decoder.decode(photo, **SCALE).width == 120


@POSIX
def test_a_process_killed_while_it_waits_is_no_photos_fault(decoder, photo):
    decoder.decode(photo, **SCALE)
    (process,) = decoder._all
    process._process.kill()
    process._process.wait()

    assert decoder.decode(photo, **SCALE).width == 120


@POSIX
def test_closing_does_not_wait_for_photos_under_way(photo):
    decoder = Decoder()
    process, waiting = stopped_over(decoder, photo)
    decoder.close()

    assert isinstance(waiting.result(), UnreadableError)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(UdqError, match="was closed"):
        decoder.decode(photo, **SCALE)


def test_threads_that_ask_at_the_same_time_have_a_process_each(decoder, photo, tmp_path):
    for i in range(12):
        Image.new("RGB", (20 + i, 20)).save(tmp_path / f"{i}.png")
    waiting = [Waiting(decoder, tmp_path / f"{i}.png") for i in range(3)]

    assert [each.result().width for each in waiting] == [20, 21, 22]
    assert len(decoder._all) <= 3
    for i in range(12):
        assert decoder.decode(tmp_path / f"{i}.png", **SCALE).width == 20 + i


@POSIX
def test_ctrl_c_in_the_terminal_does_not_reach_the_processes(decoder, photo):
    decoder.decode(photo, **SCALE)

    assert os.getpgid(process_of(decoder)) != os.getpgid(0)


@POSIX
def test_a_process_that_cannot_start_is_one_line(photo, monkeypatch, tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    for executable, says in ((tmp_path / "python", "exit code 3"), (tmp_path / "nowhere", "No such file")):
        monkeypatch.setattr(sys, "executable", str(executable))
        with Decoder() as decoder, pytest.raises(UdqError, match=says) as refused:
            decoder.decode(photo, **SCALE)
        assert "cannot start a process to decode photos" in str(refused.value)
        assert "\n" not in str(refused.value)


SCRIPT = """
import os, signal, sys
from pathlib import Path
from udq.photos.indexed import IndexedFile, OutsideFolderError
from udq.photos.sandbox import Decoder
print("once", flush=True)
decoder = Decoder()
assert decoder.decode(Path(sys.argv[1]), shorter=60, longer=100).width == 120
print(*(process._process.pid for process in decoder._all), flush=True)
"""


@LINUX
@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), signal.SIGKILL)", "raise KeyboardInterrupt", "sys.exit()", "os._exit(1)"]
)
def test_no_process_outlives_a_script_that_has_no_main_guard(photo, tmp_path, end):
    (tmp_path / "script.py").write_text(SCRIPT + end)
    command = [sys.executable, tmp_path / "script.py", photo]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    once, process = done.stdout.split()

    assert once == "once"
    assert gone(int(process))


@LINUX
def test_a_stuck_process_ends_itself_if_its_parent_is_gone(photo, tmp_path):
    """The alarm that is set before each photo ends the process: the parent is gone and the photo never ends."""
    stuck = "import time; from udq.photos import sandbox_worker as it; it._GRACE = 0"
    stuck += "; it._answer = lambda *photo: time.sleep(60); it.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", stuck], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    name = os.fsencode(photo)
    request = sandbox._DecodeRequest(sandbox.WHOLE, shorter=60, longer=100).packed(1.0, len(name))
    process.stdin.write(request + name)
    process.stdin.flush()

    assert process.wait(20) == -signal.SIGALRM


@LINUX
def test_modules_in_the_working_folder_are_not_imported(photo, tmp_path, monkeypatch):
    (tmp_path / "struct.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with Decoder() as decoder:
        assert decoder.decode(photo, **SCALE).width == 120


WINDOW = {"margin": 0.25, "longer": 50, "enlarged": 1.5, "most": 100}


@pytest.mark.parametrize("box", [None, (10, 5, 90.5, 60), (118, 78, 120, 80)])
def test_a_window_is_decoded_as_in_this_process(decoder, photo, box):
    found, expected = decoder.load_window(photo, box, **WINDOW), decoding.load_window(photo, box, **WINDOW)

    assert (found.window, found.width, found.height) == (expected.window, expected.width, expected.height)
    assert (found.pixels == expected.pixels).all()


def test_relative_paths_start_from_the_folder_of_the_moment(decoder, photo, tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    shutil.copy(photo, tmp_path / "below" / "z.png")
    for folder, name in ((tmp_path, "x.png"), (tmp_path / "below", "z.png")):
        monkeypatch.chdir(folder)
        assert decoder.decode(Path(name), **SCALE).width == 120


@pytest.mark.parametrize("size", [(120, 80), (20, 300), (5, 5)])
def test_a_whole_photo_keeps_its_size(decoder, tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "y.png")
    np.testing.assert_array_equal(decoder.load_full(tmp_path / "y.png"), pixels)


def test_a_window_outside_the_photo_is_the_same_error_as_in_this_process(decoder, photo):
    box = (500.0, 500.0, 600.0, 600.0)
    with pytest.raises(UnreadableError) as expected:
        decoding.load_window(photo, box, **WINDOW)
    with pytest.raises(UnreadableError) as found:
        decoder.load_window(photo, box, **WINDOW)

    assert str(found.value) == str(expected.value)


def test_a_window_can_have_a_time_limit_of_its_own(decoder, photo, tmp_path):
    Image.open(photo).resize((3000, 2000)).save(tmp_path / "large.png", compress_level=1)
    with pytest.raises(UnreadableError, match=r"took longer than 0\.005 s to decode"):
        decoder.load_window(tmp_path / "large.png", None, **WINDOW, seconds=0.005)
    assert decoder.load_window(photo, None, **WINDOW).width == 120


@POSIX
def test_a_photo_of_a_collection_is_decoded_only_in_its_folder(decoder, photo, tmp_path):
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    shutil.copy(photo, root / "below" / "x.png")
    (root / "inside.png").symlink_to(root / "below" / "x.png")
    (root / "outside.png").symlink_to(photo)
    (root / "away").symlink_to(photo.parent)
    (tmp_path / "link").symlink_to(root)  # the folder itself may be reached by a link
    for name in ("below/x.png", "inside.png"):
        for folder in (root, tmp_path / "link"):
            assert decoder.decode(IndexedFile(folder / name, folder), **SCALE).width == 120
    for name in ("outside.png", f"away/{photo.name}", f"../{photo.name}"):
        for decode in (decoder.decode, lambda file, **_: decoder.load_crop(file, None, **CROP)):
            with pytest.raises(OutsideFolderError, match="found a link to a file outside, which is not followed"):
                decode(IndexedFile(root / name, root), **SCALE)
    with pytest.raises(UnreadableError, match="No such file"):
        decoder.decode(IndexedFile(root / "gone.png", root), **SCALE)


@LINUX
def test_the_shared_decoder_keeps_its_processes_and_leaves_none_behind(photo):
    script = f"""
import os
from pathlib import Path
from udq.photos import sandbox
decode = lambda: sandbox.shared().decode(Path({str(photo)!r}), shorter=60, longer=100)
decode(), decode()
(kept,) = sandbox.shared()._all
child = os.fork()
if not child:
    decode()
    (own,) = sandbox.shared()._all
    assert own is not kept
    raise SystemExit(0)
assert os.waitpid(child, 0)[1] == 0
decode()
assert list(sandbox.shared()._all) == [kept]
print(kept._process.pid)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert gone(int(done.stdout))
    assert done.stderr == ""
