"""README and docs/python.md are run: commands print what README shows, Python runs, figures agree with results/.

After a change of what the commands print, run ``udq demo`` in an empty folder, then
``python tests/test_readme.py FOLDER``: it runs README's commands there and writes their output into README.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import udq

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
UDQ = Path(sys.executable).with_name("udq")
CONSOLE = re.compile(r"(?<=^```console\n).*?(?=^```)", re.DOTALL | re.MULTILINE)

# The only parts of the output that may differ between machines; everything else is compared exactly.
# Times, sizes and rounds of training, which stops as soon as one does not help: only their format is compared.
FORMAT_ONLY = {
    "SECONDS": r"\b\d+\.\d s\b",
    "MILLISECONDS": r"\b\d+ ms\b|(?<=query )\d+\b|(?<=scan )\d+\.\d\b|(?<=diffusion )\d+\b",
    "SIZE": r"\b\d+\.\d MB\b",
    "CONFIDENCE": r"\b\d+ %",
    "POINTS": r"(?<=CONFIDENCE )\d+(?= BOX)",
    "ROUNDS": r"\b\d of \d rounds? kept(?:; the \w+ did not help)?(?=;|$)",
    "PAIRS": r"\b\d+(?= photo pairs verified$)",
    "FOUND": r"(?<=^photo pairs found with mAP )\d\.\d\d before training, \d\.\d\d after \(± \d\.\d\d\)",
    "KEYPOINTS": r"\b\d+,\d+, \d+(?= per photo$)",
}
# Results of the network, whose rounding differs: compared with a tolerance, relative or absolute.
CLOSE = {
    "BOX": (r"\b\d+,\d+,\d+,\d+(?= \S+\.jpg$)", {"abs": 96}),  # pixels; rounds of training change boxes
    "SCORE": (r"\b\d\.\d{4}\b", {"rel": 0.35}),
    "REGIONS": (r"\b\d+,\d+(?= regions\b)|(?<=^regions )\d+,\d+\b", {"rel": 0.01}),
}


def reduced(line):
    """A line of output with placeholders for what may vary, and the values to compare with a tolerance."""
    line, close = " ".join(line.split()), {}
    for name, (pattern, _) in CLOSE.items():
        found = re.findall(pattern, line)
        sides = ",".join(found).split(",") if name == "BOX" else [number.replace(",", "") for number in found]
        close[name] = [float(side) for side in sides if side]
        line = re.sub(pattern, name, line)
    for name, pattern in FORMAT_ONLY.items():
        line = re.sub(pattern, name, line)
    return line, close


def check(printed, shown):
    """Compare what a command prints with what README shows."""
    ours, theirs = ([reduced(line) for line in text.splitlines()] for text in (printed, shown))
    assert [text for text, _ in ours] == [text for text, _ in theirs]
    for (_, measured), (line, expected) in zip(ours, theirs, strict=True):
        for name, (_, tolerance) in CLOSE.items():
            assert measured[name] == pytest.approx(expected[name], **tolerance), line


def steps(block):
    """The commands of a console block, each with the output shown below it."""
    return [step.split("\n", 1) for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]


@pytest.fixture
def run(udq, monkeypatch):
    """Run a command line of README in a folder, in this process, and return what it prints."""

    def run(command, folder):
        monkeypatch.chdir(folder)
        program, *arguments = shlex.split(command)
        assert program == "udq"
        code, out, err = udq(*arguments)
        assert code == 0, err
        return out

    return run


def python(page, folder):
    """Run the Python blocks of a page in order, as one program, and return what they print."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks, f"{page.name} has no python block"
    program = [sys.executable, "-c", "\n".join(blocks)]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(demo, tmp_path):
    """A folder with the demo's photos and answers in udq-demo/, as after ``udq demo``."""
    (tmp_path / "udq-demo").symlink_to(Path(demo["written"]["page"]).parent, target_is_directory=True)
    return tmp_path


@pytest.fixture
def built(folder):
    """The same with the demo's collection as photos.udq."""
    shutil.copytree(folder / "udq-demo" / "demo.udq", folder / "photos.udq")
    return folder


def test_commands_print_what_readme_shows(run, folder):
    blocks = CONSOLE.findall(README.read_text(encoding="utf-8"))
    assert len(blocks) == 2

    for command, shown in (step for block in blocks for step in steps(block)):
        check(run(command, folder), shown)


REMOVED = "photos.udq: 8 removed, 122 unchanged, in 0.1 s; the collection now has 122 photos"
FOUND = "   2   1.8241   99 %  52,169,310,440         scene-022.jpg"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (REMOVED, REMOVED.replace("8 removed", "10 removed")),
        (REMOVED, REMOVED.replace("122", "120")),
        (REMOVED, REMOVED.replace("removed", "added")),
        (REMOVED, ""),
        (FOUND, FOUND.replace("   2", "   3")),
        (FOUND, FOUND.replace("022.jpg", "023.jpg")),
        (FOUND, FOUND.replace("52,169", "152,169")),
        (FOUND, FOUND.replace("1.8241", "0.8241")),
        ("photos        130", "photos        131"),
        ("regions       12,666, 8 bytes per code", "regions       12,966, 8 bytes per code"),
        ("regions       12,666, 8 bytes per code", "regions       12,666, 4 bytes per code"),
    ],
)
def test_a_wrong_number_is_noticed(printed, shown):
    with pytest.raises(AssertionError):
        check(printed, shown)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (REMOVED, REMOVED.replace("0.1 s", "12.0 s")),
        (FOUND, "   2   1.7932   99 %  54,172,310,440         scene-022.jpg"),
        (FOUND, FOUND.replace("99 %", "100 %")),
        ("regions       12,666, 8 bytes per code", "regions       12,662, 8 bytes per code"),
        ("on disk       9.0 MB, format 3", "on disk       9.1 MB, format 3"),
        ("130 photos ranked in 366 ms (encoding the query 132, scan 233.1)",
         "130 photos ranked in 36 ms (encoding the query 13, scan 2.1)"),
    ],
)  # fmt: skip
def test_what_varies_between_machines_may_vary(printed, shown):
    check(printed, shown)


def test_the_python_of_readme_runs(built):
    lines = python(README, built).splitlines()

    assert [line.split()[:2] for line in lines] == [["1", "page.jpg"], ["2", "scene-025.jpg"]]


def test_the_python_of_the_docs_runs(built):
    lines = python(ROOT / "docs" / "python.md", built).splitlines()

    assert lines[0].startswith("130 photos, ")
    assert lines[1].split()[0] == "1"
    assert "coffee.jpg" in lines[1]
    for line in ("8 122", "8 122 130", "[]"):  # removed, added by the mirror, undamaged
        assert line in lines
    assert float(next(line for line in lines if line.startswith("mAP")).split()[1]) > 0.8
    assert lines[-1].startswith("nothing.udq: no such collection")


def test_the_docs_name_every_public_name():
    table = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").partition("**Everything else")[0]
    named = re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))

    assert sorted(named) == sorted({*udq.__all__, "udq.datasets.load"} - {"__version__"})


def test_the_headline_figures_of_readme_are_those_of_the_results():
    def read(name):
        return json.loads((ROOT / "results" / f"{name}.json").read_text())

    accuracy, query, index = map(read, ("accuracy", "benchmark_query", "benchmark_index"))
    instre, demo = accuracy["sets"]["instre_dev"], accuracy["sets"]["demo"]
    small = [accuracy["sets"][name]["means"]["mAP"] for name in ("instre_dev-2x2", "instre_dev-4x4")]
    two_threads = next(row for row in query["warm"] if row["threads"] == 2)
    table = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]

    for what, measured in (
        (
            f"{instre['queries']} boxed queries on {instre['photos']:,} INSTRE photos, 8 bytes per region",
            f"{instre['means']['mAP']:.3f}",
        ),
        ("objects of about 6 % and 1.5 % of larger photos", f"{small[0]:.3f} and {small[1]:.3f}"),
        (f"{demo['queries']} boxed queries on the demo's {demo['photos']} photos", f"{demo['means']['mAP']:.3f}"),
        (f"{query['setting']['codes']:,} codes, 2 threads", f"{two_threads['median_ms']['ours']:.0f} ms"),
        (
            f"`udq index --no-train` with OpenVINO, {index['threads']} threads",
            f"{index['rows']['index openvino']['photos_per_second']:.0f} photos/s",
        ),
    ):
        assert any(what in line and f"| {measured} |" in line for line in table), f"{what}: {measured}"


def test_the_tables_are_what_the_results_say():
    done = subprocess.run(
        [sys.executable, ROOT / "results" / "render.py", "--check"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            if link.startswith("https://"):
                continue
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def main():
    """Run README's commands in a folder that holds udq-demo/, and write their output into README."""
    folder = Path(sys.argv[1])

    def output(command):
        return subprocess.run([UDQ, *shlex.split(command)[1:]], cwd=folder, capture_output=True, text=True, check=True)

    def printed(block):
        return "".join(f"$ {command}\n{output(command).stdout}" for command, _ in steps(block[0]))

    README.write_text(CONSOLE.sub(printed, README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
