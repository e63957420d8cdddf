"""From logits to codes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svq.errors import UserError
from svq.generator.sampling import by_position, code_probabilities, draw, image_noise

logit_lists = st.lists(st.floats(-20, 20), min_size=2, max_size=20)


def test_plain_sampling_is_the_softmax() -> None:
    logits = torch.randn(3, 7)
    torch.testing.assert_close(code_probabilities(logits), logits.double().softmax(1))


def test_temperature_comes_before_the_filters() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    hot = code_probabilities(logits, temperature=2.0)
    expected = torch.tensor([[0.5, 0.3, 0.2]]).double().sqrt()
    torch.testing.assert_close(hot, expected / expected.sum())
    # At temperature 2 the first two reach 0.73 of the mass, so that top-p 0.75 keeps all three; at 1 it keeps two.
    assert (code_probabilities(logits, temperature=2.0, top_p=0.75) > 0).sum() == 3
    assert (code_probabilities(logits, temperature=1.0, top_p=0.75) > 0).sum() == 2


def test_temperature_zero_takes_the_likeliest() -> None:
    assert code_probabilities(torch.tensor([[1.0, 3.0, 2.0]]), temperature=0).tolist() == [[0, 1, 0]]


def test_a_tiny_temperature_is_nearly_greedy_and_never_nan() -> None:
    assert code_probabilities(torch.tensor([[1.0, 3.0, 2.0]]), temperature=1e-310).tolist() == [[0, 1, 0]]


@given(logit_lists, st.integers(1, 25), st.floats(0.01, 1), st.floats(0, 1))
def test_what_the_filters_keep(logits: list[float], top_k: int, top_p: float, min_p: float) -> None:
    plain = code_probabilities(torch.tensor([logits]))[0]
    kept = code_probabilities(torch.tensor([logits]), top_k=top_k, top_p=top_p, min_p=min_p)[0]
    chosen = kept > 0
    assert kept.sum().item() == pytest.approx(1)
    assert chosen[plain.argmax()]
    assert chosen.sum() <= top_k
    assert (plain[chosen] >= min_p * plain.max() * (1 - 1e-9)).all()
    # Those kept are the likeliest; without the last of them, top_p is not reached.
    if not chosen.all():
        assert plain[chosen].min() >= plain[~chosen].max()
    assert plain[chosen].sum() - plain[chosen].min() < top_p + 1e-9
    # Among themselves they keep their shares.
    torch.testing.assert_close(kept[chosen], plain[chosen] / plain[chosen].sum())


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": 0}, {"top_k": 2.7}, {"top_p": 0}, {"top_p": 1.1}, {"min_p": -0.1}]
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected temperature"):
        code_probabilities(torch.zeros(1, 2), **wrong)  # type: ignore[arg-type]


def test_logits_that_are_not_finite_are_refused() -> None:
    """As of a guidance scale beyond float32: each code would be the last of the codebook."""
    with pytest.raises(UserError, match="the logits are not finite; give less guidance"):
        code_probabilities(torch.tensor([[0.0, float("nan")]]))


def test_each_filter_keeps_neither_more_nor_less() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert (code_probabilities(logits, top_k=2) > 0).sum() == 2
    assert (code_probabilities(logits, top_p=0.75) > 0).sum() == 3
    assert (code_probabilities(logits, min_p=0.45) > 0).sum() == 3


def test_draws_follow_the_probabilities() -> None:
    p = torch.tensor([[0.5, 0.0, 0.3, 0.2]], dtype=torch.float64).expand(20_000, -1)
    codes = draw(p, image_noise(seed=0, first=0, n=20_000, tokens=1)[:, 0])
    torch.testing.assert_close(codes.bincount(minlength=4) / 20_000, p[0].float(), atol=0.015, rtol=0)
    assert not (codes == 1).any()


@pytest.mark.parametrize("noise", [0.0, 1 - 2**-53])
def test_the_extremes_of_the_noise_still_give_possible_codes(noise: float) -> None:
    p = torch.tensor([[0.0, 0.1, 0.2, 0.7, 0.0]], dtype=torch.float64)
    assert draw(p, torch.tensor([noise], dtype=torch.float64)).item() in (1, 3)


def test_the_noise_of_an_image_depends_on_its_number_alone() -> None:
    together = image_noise(seed=3, first=0, n=10, tokens=36)
    assert torch.equal(image_noise(seed=3, first=4, n=2, tokens=36), together[4:6])
    assert not torch.equal(image_noise(seed=4, first=0, n=10, tokens=36), together)
    assert together.unique().numel() == 360


def test_schedules() -> None:
    for half in (0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), [0.5, 0.5], np.full(2, 0.5)):
        assert by_position(half, 2) == [0.5, 0.5]
    with pytest.raises(UserError, match="expected a schedule of 3 numbers, one for each position, got 2"):
        by_position([0.1, 0.2], 3)
    for wrong in ("a", [None, None], None):
        with pytest.raises(UserError, match="expected a number to sample with, or one for each position"):
            by_position(wrong, 2)  # type: ignore[arg-type]
