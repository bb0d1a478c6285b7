"""Tests of where words stand: inside, away from curves, never on other words while there is room."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from flyte_notebook.views.charts.placing import Box, Placer, spread

ROOM = Box(0, 0, 360, 130)


def crossed(box: Box, curve: list[tuple[float, float]]) -> bool:
    return any(box.left <= x <= box.right and box.bottom <= y <= box.top for x, y in curve)


def test_words_stand_beside_what_they_name() -> None:
    """With room all around they stand at the right, at the same height."""
    assert Box(108, 45, 168, 55) == Placer(room=ROOM).place((100, 50), 60, 10, 8)


def test_words_stay_inside() -> None:
    """At the edge they go to the left, and never over the top."""
    box = Placer(room=ROOM).place((358, 128), 60, 10, 8)
    assert box.right <= 350
    assert box.top <= ROOM.top


def test_words_keep_off_curves_and_each_other() -> None:
    """Eight words for one place find eight places, none on a line that goes through it or on another word."""
    curve = [(float(x), 60.0) for x in range(0, 361, 4)]
    placer = Placer(room=ROOM)
    placer.avoid(curve)
    boxes = [placer.place((180, 60), 70, 12, 8) for _ in range(8)]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].covers(pair[1])]
    assert not [box for box in boxes if crossed(box, curve)]


def test_long_words_never_cover_others_where_curves_are_everywhere() -> None:
    """Six long names in a thicket of curves cross those, and never each other: a word on a word cannot be read."""
    placer = Placer(room=ROOM)
    for height in range(0, 131, 4):
        placer.avoid([(0.0, float(height)), (360.0, float(height))])
    boxes = [placer.place((250 + 8 * number, 30), 190, 14, 8) for number in range(6)]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].covers(pair[1])]


def test_words_go_further_away_when_all_near_places_are_crossed() -> None:
    """From a thicket that fills the right half, words go to the empty left half."""
    placer = Placer(room=ROOM)
    for height in range(0, 131, 4):
        placer.avoid([(200.0, float(height)), (360.0, float(height))])
    assert placer.place((340, 60), 120, 14, 8).right <= 200


def test_a_curve_of_two_points_is_kept_off_between_them() -> None:
    """What matters is the line, not where its samples are."""
    placer = Placer(room=ROOM)
    placer.avoid([(0.0, 60.0), (360.0, 60.0)])
    assert not crossed(placer.place((180, 60), 70, 12, 8), [(float(x), 60.0) for x in range(0, 361, 4)])


@pytest.mark.parametrize("wanted", [[10, 11, 12], [0, 0, 0], [120, 130, 125], [50, 0, 130], [500, -500, 60]])
def test_words_in_a_column_do_not_overlap(wanted: list[float]) -> None:
    """They keep their order and their distance, and stay inside."""
    heights = [14.0, 28.0, 14.0]
    middles = spread(wanted, heights, 0, 130)
    order = sorted(range(3), key=lambda index: middles[index])
    for low, high in pairwise(order):
        assert middles[high] - middles[low] >= (heights[low] + heights[high]) / 2 - 1e-9
    assert all(0 <= middle - height / 2 for middle, height in zip(middles, heights, strict=True))
    assert all(middle + height / 2 <= 130 for middle, height in zip(middles, heights, strict=True))


def test_a_column_with_room_is_left_alone() -> None:
    """Words that are far enough apart stand where they want to."""
    assert [20, 60, 100] == spread([20, 60, 100], [14, 14, 14], 0, 130)
