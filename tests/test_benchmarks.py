"""What the benchmarks count and compare, where the answer is known by hand."""

import pytest
import torch
from torch.nn import functional

from benchmarks.__main__ import BENCHMARKS, PAGE, write_section
from benchmarks.operations import operations
from benchmarks.samplers import Errors, differences, numbers
from benchmarks.timing import Pair, duration, linear_fit, scaled


def test_a_matrix_product_counts_two_for_each_multiplication():
    assert operations(lambda: torch.zeros(3, 5) @ torch.zeros(5, 7)) == 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    ("size", "taps"),
    [(1, 1), (2, 4), (3, 7)],  # along one axis: taps of 3 that meet a value, summed over positions
)
def test_taps_on_the_padding_are_not_counted(size, taps):
    image, weight = torch.zeros(2, 4, size, size), torch.zeros(6, 4, 3, 3)
    assert (
        operations(lambda: functional.conv2d(image, weight, padding=1)) == 2 * 2 * 4 * 6 * taps**2
    )


def test_without_padding_a_convolution_is_counted_as_torch_counts_it():
    image, weight = torch.zeros(2, 4, 9), torch.zeros(6, 2, 3)
    found = operations(lambda: functional.conv1d(image, weight, stride=2, groups=2))
    assert found == 2 * 2 * 6 * 2 * 3 * 4  # four positions


def test_a_transposed_convolution_counts_each_value_and_tap_that_stays_inside():
    image, weight = torch.zeros(1, 4, 5), torch.zeros(4, 6, 3)
    found = operations(lambda: functional.conv_transpose1d(image, weight, stride=2, padding=1))
    assert found == 2 * 4 * 6 * (5 * 3 - 2)  # one tap falls off at either end


def test_the_fit_of_a_line_and_of_a_parabola():
    assert linear_fit([1, 2, 4, 8], [3, 6, 12, 24]) == (pytest.approx(1), pytest.approx(1))
    exponent, straight = linear_fit([1, 2, 4, 8], [1, 4, 16, 64])
    assert exponent == pytest.approx(2) and straight < 0.99


def test_a_row_shows_the_median_of_the_paired_ratios():
    row = Pair("x", (1.0, 2.0, 4.0), scaled((1.0, 1.0, 1.0), 8), floor=1.0).row()
    assert row[3] == "**4.0** (2.0 to 8.0)" and row[5] == "2.00"


@pytest.mark.parametrize(
    ("seconds", "text"), [(2e-4, "200 us"), (0.25, "250 ms"), (90, "90 s"), (600, "10 min")]
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def errors(generated: list[list[int]], originals: list[list[int]]) -> Errors:
    return Errors(torch.tensor(generated).bool(), torch.tensor(originals).bool())


def test_the_numbers_of_a_sampler_by_hand():
    found = errors([[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 1, 1]])
    accuracy, nearest, within = numbers(found, torch.ones(4), torch.ones(2)).tolist()
    assert accuracy == pytest.approx(62.5)
    assert nearest == pytest.approx((0.5 + 1) / 2) and within == pytest.approx(0.5)


def test_an_image_that_is_drawn_twice_counts_twice_and_a_model_that_is_not_drawn_never():
    found = errors([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], [[1, 0, 0, 0]])
    weights, drawn = torch.tensor([2.0, 1, 1, 0]), torch.tensor([1.0, 0, 2])
    accuracy, nearest, within = numbers(found, weights, drawn).tolist()
    assert accuracy == pytest.approx(100 * (1 - (3 / 4 + 2 * 2 / 4) / 3))
    assert nearest == pytest.approx((2 / 3 + 2 * 1) / 3) and within == pytest.approx(2 / 3)


def test_equal_samplers_differ_by_nothing_and_a_worse_one_by_what_it_is_worse():
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(20, 400, generator=generator) < 0.3
    same, worse = Errors(wrong, wrong[:5]), Errors(wrong.clone(), wrong[:5])
    worse.generated[:, :40] = True
    equal, lower = differences([same], [same]), differences([worse], [same])
    assert equal[0].abs().max() < 1e-5 and equal[1:, 0].mean().abs() < 0.3
    expected = -100 * (~wrong[:, :40]).float().mean() * 0.1
    torch.testing.assert_close(lower[0, 0], expected, atol=1e-3, rtol=0)
    assert lower[1:, 0].max() < 0


def test_a_section_of_the_page_is_replaced_and_the_rest_kept(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end a -->\nafter\n")
    write_section(page, "a", r"new \1")
    assert page.read_text() == "before\n<!-- a -->\nnew \\1\n<!-- end a -->\nafter\n"
    with pytest.raises(ValueError, match="has no section b"):
        write_section(page, "b", "")


def test_every_benchmark_has_its_section():
    text = PAGE.read_text()
    for name in (*BENCHMARKS, "samplers"):
        assert f"<!-- {name} -->" in text and f"<!-- end {name} -->" in text
