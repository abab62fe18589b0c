"""Boxes that users draw."""

from __future__ import annotations

import pytest

from udq.errors import InputError
from udq.photos import boxes


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((10, 0, 5, 5), "x1 < x2 and y1 < y2"),
        ((0, 5, 5, 5), "inverted or empty"),
        ((-1, 0, 5, 5), "inside the photo, which is 60 x 40 pixels"),
        ((0, 0, 61, 5), "inside the photo"),
        ((0, 0, 5, float("nan")), "four finite numbers"),
        ((0, 0, 5, float("inf")), "four finite numbers"),
        ((0, 0, 5), "four finite numbers"),
        ("0,0,5,5", "four finite numbers x1,y1,x2,y2 (left, top, right, bottom)"),
        (("a", 0, 5, 5), "four finite numbers"),
        (7, "box 7: expected four finite numbers"),
        ((30, 20, 10, 15), "if it is x,y,width,height, write 30,20,40,35"),
        ((30, 20, 61, 30), "x1,y1,x2,y2 (left, top, right, bottom) inside the photo"),
    ],
)
def test_a_box_that_cannot_be_is_refused(box, says):
    with pytest.raises(InputError) as refused:
        boxes.check_box(box, 60, 40)

    assert says in str(refused.value)


def test_a_box_inside_the_photo_comes_back_as_floats():
    assert boxes.check_box([0, 1, 60, 40], 60, 40) == (0.0, 1.0, 60.0, 40.0)
    assert all(type(side) is float for side in boxes.check_box([0, 1, 60, 40], 60, 40))


def test_the_pixels_of_a_box_are_the_nearest_and_at_least_one():
    for x1 in range(0, 81):
        for x2 in range(x1 + 1, 82):
            box = (x1 / 8, 10 - x2 / 8 * 80 / 82, min(x2 / 8, 10), 10 - x1 / 8 * 80 / 82)
            left, top, right, bottom = boxes.pixels_of(box, 10, 10)
            assert 0 <= left < right <= 10
            assert 0 <= top < bottom <= 10
            assert max(abs(left - box[0]), abs(right - box[2]), abs(top - box[1]), abs(bottom - box[3])) <= 1
