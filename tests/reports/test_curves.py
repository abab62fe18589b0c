"""Training curves, read back from the axes of the figure."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from udq.errors import InputError, UdqError
from udq.reports import curves


def history(rounds=2, epochs=3, stopped=None, kept=None, **further):
    """A history of training; ``further`` are keys with a value for each round."""
    entries = [
        {
            "iteration": i,
            "quantization_error": 0.1 / (i + 1),
            "separability": [20.0 - 3 * i - j for j in range(epochs)],
            "discriminability": [0.5 - 0.1 * i - 0.02 * j for j in range(epochs)],
        }
        | {key: values[i] for key, values in further.items()}
        for i in range(rounds)
    ]
    return {"rounds": entries, "kept": rounds if kept is None else kept, "stopped": stopped}


def lines(axes, points):
    """x and y of the lines of a panel, which have ``points`` points; border lines have no markers."""
    found = [line.get_xydata() for line in axes.get_lines() if line.get_marker() != "None"]
    assert [len(each) for each in found] == points
    return found


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_panel_for_each_equation_over_the_same_epochs():
    drawn = curves.figure(history(), "photos.udq")
    separability, discriminability, error = drawn.axes

    assert "photos.udq" in drawn.get_suptitle()
    for axes, equation in ((separability, "eq. 8"), (discriminability, "eq. 9"), (error, "eq. 6")):
        assert equation in axes.get_title(loc="left")
        assert axes.get_ylabel()
        assert axes.get_xlim() == (0, 6)
    assert error.get_xlabel() == "epochs trained"
    one, two = lines(separability, [3, 3])  # broken between rounds, whose labels differ
    assert one.tolist() == [[0.5, 20], [1.5, 19], [2.5, 18]]
    assert two.tolist() == [[3.5, 17], [4.5, 16], [5.5, 15]]
    (both,) = lines(error, [2])
    assert both == pytest.approx(np.array([[1.5, 0.1], [4.5, 0.05]]))
    assert {"module 1", "module 2, iteration 1"} < set(texts(separability))
    assert "0.0500" in texts(error)


def test_further_numbers_of_a_round_get_a_panel_each():
    drawn = curves.figure(history(mAP=[0.9, 0.95], participation_ratio=[None, 0.7], note=["a", "b"], odd=[1, 2]), "x")

    assert [axes.get_ylabel() for axes in drawn.axes[3:]] == ["mAP", "directions", "odd"]
    (precision,) = lines(drawn.axes[3], [2])
    assert precision[:, 1].tolist() == [0.9, 0.95]
    (ratio,) = lines(drawn.axes[4], [2])
    assert np.isnan(ratio[0, 1])
    assert ratio[1, 1] == 0.7


def test_a_number_that_only_later_rounds_have():
    trained = history(rounds=3)
    trained["rounds"][2]["participation_ratio"] = 0.8
    (found,) = lines(curves.figure(trained, "x").axes[3], [3])

    assert np.isnan(found[:2, 1]).all()
    assert found[2, 1] == 0.8


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), None])
def test_one_round_of_one_epoch_and_no_numbers(wrong, tmp_path):
    trained = history(rounds=1, epochs=1)
    trained["rounds"][0]["separability"] = [wrong]
    drawn = curves.figure(trained, "x")

    assert "not a number" in texts(drawn.axes[0])
    assert "not a number" not in texts(drawn.axes[1])
    curves.save(drawn, tmp_path / "x.png")


def test_many_rounds_are_named_by_number_without_values():
    drawn = curves.figure(history(rounds=40, epochs=5), "x")

    assert texts(drawn.axes[0]) == [str(i) for i in range(0, 40, 2)]
    assert texts(drawn.axes[2]) == []


def test_note_says_why_training_stopped():
    drawn = curves.figure(history(stopped="the loss was no longer a number"), "x")

    assert drawn.get_supxlabel() == "Stopped early: the loss was no longer a number"
    assert curves.figure(history(), "x").get_supxlabel() == ""


@pytest.mark.parametrize(
    ("ratios", "kept", "note"),
    [
        (
            [36.8, 37.3],
            1,
            "Round 2, iteration 1, was undone: it did not help (features spread over 37.3 directions, 36.8 before)",
        ),
        ([37.34], 0, "Round 1, iteration 0, was undone: it did not help (features spread over 37.3 directions)"),
        ([36.8, None], 1, "Stopped early: took back iteration 1"),
    ],
)
def test_note_names_the_round_that_was_undone(ratios, kept, note):
    undone = history(len(ratios), stopped="took back iteration 1", kept=kept, participation_ratio=ratios)

    assert curves.figure(undone, "x").get_supxlabel() == note


@pytest.mark.parametrize("name", ["a$b_$.udq", r"$\frac{x.udq", "n" * 300])
def test_a_name_is_shown_as_it_is_and_inside(name, tmp_path):
    drawn = curves.figure(history(), name)
    curves.save(drawn, tmp_path / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("L"))

    assert name in drawn.get_suptitle() or "…" in drawn.get_suptitle()
    assert (pixels[:, :10] == 255).all()
    assert (pixels[:, -10:] == 255).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".pdf", ".svg"])
def test_save_writes_by_suffix_and_leaves_nothing_else(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"older")
    curves.save(curves.figure(history(), "x"), path)
    begins = {".png": b"\x89PNG", ".jpg": b"\xff\xd8", ".JPEG": b"\xff\xd8", ".pdf": b"%PDF", ".svg": b"<?xml"}

    assert path.read_bytes().startswith(begins[suffix])
    assert list(tmp_path.iterdir()) == [path]


def test_save_refuses_other_suffixes_and_missing_folders(tmp_path):
    drawn = curves.figure(history(), "x")
    with pytest.raises(InputError, match=r"expected a suffix of \.jpg.*found \.gif"):
        curves.save(drawn, tmp_path / "x.gif")
    with pytest.raises(UdqError, match="No such file or directory"):
        curves.save(drawn, tmp_path / "missing" / "x.png")
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw_says_why():
    with pytest.raises(InputError, match=r"x: built without training.*without --no-train"):
        curves.figure(None, "x")
    with pytest.raises(InputError, match=r"x: no curves to draw, because the loss"):
        curves.figure(history(rounds=0, stopped="the loss of iteration 0 was no longer a number"), "x")


def test_no_window_system_and_no_global_state_of_matplotlib():
    script = "import sys; from udq.reports import curves; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
