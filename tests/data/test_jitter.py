"""Pictures turned, stretched and moved: by as much as the numbers say, each by its own."""

import torch

from svq.data.jitter import MOVE, NUMBERS, jitter


def numbers(**changed: float) -> torch.Tensor:
    """Return the numbers that leave a picture as it is, but for some of them."""
    names = ("turn", "wide", "high", "right", "down")
    assert len(names) == NUMBERS
    return torch.tensor([[changed.get(name, 0.5) for name in names]])


def test_the_middle_of_all_numbers_changes_nothing() -> None:
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(jitter(images, numbers().repeat(2, 1)), images, atol=1e-5, rtol=0)


def test_a_picture_moves_by_as_many_pixels_as_said() -> None:
    images = -torch.ones(1, 3, 20, 20)
    images[..., 10, 10] = 1
    moved = jitter(images, numbers(right=0.0, down=0.75))  # by 2 px, and by 1 px the other way
    assert 20 * MOVE == 2
    assert moved[0, 0].argmax() == 9 * 20 + 12
    torch.testing.assert_close(moved.max(), torch.tensor(1.0), atol=1e-4, rtol=0)


def test_a_turn_keeps_the_centre_and_stays_in_range() -> None:
    images = torch.zeros(1, 3, 21, 21)
    images[..., 10, :] = 1  # a line through the centre
    turned = jitter(images, numbers(turn=1.0))
    assert turned[0, 0, 10, 10] > 0.9
    assert turned[0, 0, 10, 0] < 0.5  # its ends have left their row
    assert turned.abs().max() <= 1


def test_each_picture_has_its_own_numbers() -> None:
    images = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    both = torch.cat([numbers(turn=0.9, wide=0.1), numbers()])
    one, other = jitter(images, both)
    assert not torch.allclose(one, other, atol=0.05)
    torch.testing.assert_close(other, images[1], atol=1e-5, rtol=0)
