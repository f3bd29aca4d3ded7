"""Point groups and the tables made from them, against torch's own flips and turns."""

from fractions import Fraction
from math import pi

import pytest
import torch

from netir.kernels.compact import (
    constrained,
    constrained_bias,
    relaxed,
    relaxed_bias,
)
from netir.kernels.expand import expand, expand_bias
from netir.kernels.groups import SQUARE, Element, cosets, generated, group, subgroups
from netir.kernels.plan import Plan, spread
from tests.group_layers import moved

PAIRS = [(big, small.name) for big in SQUARE for small in subgroups(group(big))]


@pytest.mark.parametrize("name", [*SQUARE, "C3", "C8", "D3", "D6", "D8"])
def test_groups_are_groups(name: str) -> None:
    elements = group(name).elements
    assert elements[0] == Element(False, Fraction(0))
    assert {a * b for a in elements for b in elements} == set(elements)
    assert all(a * a.inverse == elements[0] for a in elements)
    assert len(set(elements)) == group(name).order


def test_the_square_has_ten_groups_and_34_nested_pairs() -> None:
    assert {g.name for g in subgroups(group("D4"))} == set(SQUARE)
    assert len({group(name).elements for name in SQUARE}) == 10
    assert len(PAIRS) == 34


def test_products_act_one_after_the_other() -> None:
    image = torch.rand(2, 5, 5)
    for a in group("D4").elements:
        for b in group("D4").elements:
            assert torch.equal(moved(a * b, image), moved(a, moved(b, image)))


@pytest.mark.parametrize(("name", "turned"), [("D1", 0), ("D1_45", 1), ("D1_90", 2), ("D1_135", 3)])
def test_mirrors_lie_where_their_names_say(name: str, turned: int) -> None:
    image = torch.rand(4, 4)
    expected = torch.rot90(torch.flip(image, (0,)), turned)
    assert torch.equal(moved(group(name).elements[1], image), expected)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_pixels_move_as_torch_moves_them(kernel: int) -> None:
    image = torch.rand(kernel, kernel)
    for element in group("D4").elements:
        taps = spread(element, kernel)
        assert all(len(entry) == 1 and entry[0][1] == 1 for entry in taps)
        made = image.flatten()[[entry[0][0] for entry in taps]].view(kernel, kernel)
        assert torch.equal(made, moved(element, image))


@pytest.mark.parametrize("degrees", [30, 45, 60, 120])
def test_other_turns_interpolate(degrees: int) -> None:
    # a plane turns into the turned plane wherever it is not cut off
    kernel = 7
    element = Element(False, Fraction(degrees, 360))
    across = torch.arange(kernel, dtype=torch.float64) - 3
    rows, columns = torch.meshgrid(across, across, indexing="ij")
    plane = (2 * rows + columns).flatten().tolist()
    taps = spread(element, kernel)
    made = torch.tensor([sum(plane[at] * factor for at, factor in entry) for entry in taps])
    angle = torch.tensor(degrees * pi / 180, dtype=torch.float64)
    expected = 2 * (angle.cos() * rows + angle.sin() * columns) + (
        angle.cos() * columns - angle.sin() * rows
    )
    inside = rows**2 + columns**2 <= 9
    assert torch.allclose(made.view(kernel, kernel)[inside].double(), expected[inside], atol=1e-5)


@pytest.mark.parametrize(("big", "small"), PAIRS)
def test_relaxing_keeps_the_filter_bit_for_bit(big: str, small: str) -> None:
    for lifting in (False, True):
        before, after = (Plan((name,), 3, lifting, "D4") for name in (big, small))
        parameter = torch.randn(before.shape(big, 2, 3), dtype=torch.float64)
        more = relaxed(parameter, big, small, "D4", lifting)
        assert more.shape == after.shape(small, 2, 3)
        assert torch.equal(expand([parameter], before), expand([more], after))
        back = constrained(more, small, big, "D4", lifting)
        assert torch.allclose(back, parameter, rtol=0, atol=1e-15)
        bias = torch.randn(8 // group(big).order, 2, dtype=torch.float64)
        own = relaxed_bias(bias, big, small, "D4")
        assert torch.equal(expand_bias([bias], before), expand_bias([own], after))
        assert torch.allclose(constrained_bias(own, small, big, "D4"), bias, rtol=0, atol=1e-15)


def test_relaxing_in_two_steps_is_relaxing_at_once() -> None:
    for big, middle in PAIRS:
        for small in subgroups(group(middle)):
            parameter = torch.randn(Plan((big,), ambient="D4").shape(big, 1, 2))
            once = relaxed(parameter, big, small.name, "D4")
            twice = relaxed(relaxed(parameter, big, middle, "D4"), middle, small.name, "D4")
            assert torch.equal(once, twice)


def test_constraining_gives_the_nearest_filter() -> None:
    small, big = Plan(("C2",), ambient="D4"), Plan(("D4",))
    parameter = torch.randn(small.shape("C2", 2, 2), dtype=torch.float64)
    dense = expand([parameter], small)
    nearest = constrained(parameter, "C2", "D4", "D4").requires_grad_()
    distance = (expand([nearest], big) - dense).square().sum()
    (slope,) = torch.autograd.grad(distance, nearest)
    assert slope.abs().max() <= 1e-12 * distance


def test_a_group_that_interpolates_relaxes_to_what_it_has_exactly() -> None:
    before, after = Plan(("C8",)), Plan(("C4",), ambient="C8")
    parameter = torch.randn(before.shape("C8", 2, 2), dtype=torch.float64)
    more = relaxed(parameter, "C8", "C4", "C8")
    assert torch.equal(expand([parameter], before), expand([more], after))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("C2", "C4"), "C4"),
        (("D1", "D1_90"), "D2"),
        (("D1_45", "D1_135"), "D2_45"),
        (("D1", "D1_45"), "D4"),
        (("C4", "D1_135"), "D4"),
        (("C3", "C4"), "C12"),
        (("C8", "D2"), "D8"),
    ],
)
def test_the_ambient_group_is_the_smallest(names: tuple[str, ...], expected: str) -> None:
    assert generated(group(name) for name in names).name == expected
    assert Plan(names).ambient == expected


def test_mixed_groups_are_gathered_along_their_lattice() -> None:
    assert Plan(("C1", "C2", "C4", "D1", "D2", "D4")).into == (-1, 0, 1, 0, 1, 2)
    assert Plan(("D4", "C4")).into == (1, -1)
    assert Plan(("C8", "C4", "C2")).into == (1, 2, -1)
    assert Plan(("C6", "C3")).into == (-1, -1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: group("E5"), "no group is called 'E5': write C8, D4 or D1_45"),
        (lambda: group("D64"), "D64 has 128 elements, and the largest group has 64"),
        (lambda: group("C4_45"), "C4_45 is no group"),
        (lambda: group("D2_90"), "only D2 names a mirror, below 90 degrees"),
        (lambda: cosets(group("C4"), group("D2")), "C4 is no subgroup of D2"),
        (lambda: generated([group("D1"), group("D1_1")]), "no group contains D1, D1_1"),
        (lambda: generated([group("D1_20"), group("C16")]), "no group contains D1_20, C16"),
        (lambda: Plan(()), "names its groups"),
        (lambda: Plan("C4"), "names its groups"),
        (lambda: Plan(None), "names its groups"),  # type: ignore[arg-type]
        (lambda: Plan((4,)), "no group is called 4"),  # type: ignore[arg-type]
        (lambda: Plan((("D4",),)), r"no group is called \('D4',\)"),  # type: ignore[arg-type]
        (lambda: Plan(("C4", "C4")), "named twice"),
        (lambda: Plan(("C4",), 0), "a whole number of pixels, not 0"),
        (lambda: Plan(("C4",), 2.5), "a whole number of pixels, not 2.5"),  # type: ignore[arg-type]
        (lambda: Plan(("C4",), ambient="D2"), "C4 is no subgroup of D2, the ambient group"),
        (lambda: Plan(("C4", "C1")).check([torch.zeros(2, 1, 3, 3, 4, 1)]), "1 parameters for 2"),
        (lambda: Plan(("C4",)).check([torch.zeros(2, 1, 3, 3, 4, 1)]), r"not \[1, 1, 3, 3, 4, 1\]"),
        (
            lambda: Plan(("C4", "C2")).check(
                [torch.zeros(1, 1, 3, 3, 4, 1), torch.zeros(2, 1, 3, 3, 4, 1).double()]
            ),
            "float64",
        ),
        (lambda: relaxed(torch.zeros(1, 1, 3, 3, 8, 1), "C4", "D1", "D4"), "D1 is no subgroup"),
        (lambda: relaxed(torch.zeros(1, 1, 3, 3, 6, 1), "C6", "C3", "C6"), "between pixels"),
        (lambda: constrained(torch.zeros(2, 1, 3, 3, 8, 1), "C4", "C8", "C8"), "between pixels"),
    ],
)
def test_what_cannot_be_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
