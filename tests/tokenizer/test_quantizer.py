"""Every quantizer keeps the same promises, and each its own."""

from unittest.mock import Mock

import pytest
import torch
import vector_quantize_pytorch as vqp

from svq.errors import TrainingError
from svq.tokenizer import quantizer as quantizer_module
from svq.tokenizer.config import (
    FSQConfig,
    KMeansConfig,
    LFQConfig,
    QuantizerConfig,
    SimVQConfig,
    TokenizerConfig,
    VQConfig,
)
from svq.tokenizer.position_norm import PositionNorm
from svq.tokenizer.quantizer import FSQ, LFQ, CosineVQ, KMeans, Quantizer, SimVQ, build_quantizer
from tests.tokenizer.kinds import KINDS


def built(kind: QuantizerConfig, config: TokenizerConfig) -> tuple[Quantizer, torch.Tensor]:
    """A started quantizer, and latents for it."""
    torch.manual_seed(0)
    quantizer = build_quantizer(config.model_copy(update={"quantizer": kind}))
    latents = torch.randn(64, 8, kind.dim)
    if not quantizer.started:
        quantizer.start(latents)
    return quantizer, latents


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.kind)
class TestAll:
    def test_codes_stand_for_the_latents_that_the_decoder_saw(
        self, kind: QuantizerConfig, config: TokenizerConfig
    ) -> None:
        quantizer, latents = built(kind, config)
        quantized = quantizer.eval()(latents)
        assert quantized.codes.dtype == torch.int64
        assert quantized.codes.shape == latents.shape[:2]
        assert quantized.codes.min() >= 0
        assert quantized.codes.max() < kind.codebook_size
        torch.testing.assert_close(quantizer.lookup(quantized.codes), quantized.latents)
        torch.testing.assert_close(quantizer.lookup(quantized.codes[:, :3]), quantized.latents[:, :3])

    def test_a_large_codebook_is_met_a_few_pictures_at_a_time(
        self, kind: QuantizerConfig, config: TokenizerConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quantizer, latents = built(kind, config)
        at_once = quantizer.eval()(latents)
        monkeypatch.setattr(quantizer_module, "AT_ONCE", 3 * latents.shape[1] * kind.codebook_size)
        in_blocks = quantizer(latents)
        assert torch.equal(in_blocks.codes, at_once.codes)
        torch.testing.assert_close(in_blocks.latents, at_once.latents)

    def test_no_codes_are_no_latents(self, kind: QuantizerConfig, config: TokenizerConfig) -> None:
        quantizer, _ = built(kind, config)
        for shape in ((2, 0), (0, 8), (0, 0)):
            assert quantizer.lookup(torch.empty(shape, dtype=torch.int64)).shape == (*shape, kind.dim)

    def test_quantizing_the_latents_of_codes_gives_the_codes(
        self, kind: QuantizerConfig, config: TokenizerConfig
    ) -> None:
        quantizer, latents = built(kind, config)
        codes = quantizer.eval()(latents).codes
        if isinstance(quantizer, FSQ | SimVQ):
            pytest.skip("its codes and its latents live on two scales")
        torch.testing.assert_close(quantizer(quantizer.lookup(codes)).codes, codes)

    def test_the_gradient_passes_through(self, kind: QuantizerConfig, config: TokenizerConfig) -> None:
        quantizer, latents = built(kind, config)
        latents.requires_grad_()
        quantizer.train()(latents).latents.sum().backward()
        assert latents.grad is not None
        assert latents.grad.abs().amax(-1).min() > 0

    def test_evaluation_is_deterministic_and_changes_nothing(
        self, kind: QuantizerConfig, config: TokenizerConfig
    ) -> None:
        quantizer, latents = built(kind, config)
        before = {name: t.clone() for name, t in quantizer.state_dict().items()}
        quantizer.eval()
        torch.testing.assert_close(quantizer(latents).codes, quantizer(latents).codes)
        for name, tensor in quantizer.state_dict().items():
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)

    def test_the_continuous_side_lies_in_the_range_of_the_codes(
        self, kind: QuantizerConfig, config: TokenizerConfig
    ) -> None:
        quantizer, latents = built(kind, config)
        continuous = quantizer.continuous(latents)
        quantized = quantizer.eval()(latents).latents
        # Rounding is a small step compared with replacing the latents by others.
        assert (continuous - quantized).square().mean() < (continuous - quantized.roll(1, 0)).square().mean() / 2


def test_fsq_rounds_its_continuous_side(config: TokenizerConfig) -> None:
    quantizer, latents = built(FSQConfig(levels=(8, 5, 4)), config)
    half = torch.tensor([4, 2, 2])
    expected = (quantizer.continuous(latents) * half).round() / half
    torch.testing.assert_close(quantizer(latents).latents, expected)


def test_simvq_writes_the_same_codes_in_half_precision(config: TokenizerConfig) -> None:
    quantizer, latents = built(SimVQConfig(codebook_size=1024, dim=8), config)
    expected = quantizer(latents)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(latents)
    assert torch.equal(found.codes, expected.codes)
    torch.testing.assert_close(found.latents, expected.latents)


@pytest.mark.parametrize("kind", [VQConfig(codebook_size=256, dim=8), KMeansConfig(codebook_size=256, dim=8)])
def test_codes_are_found_in_full_precision(kind: QuantizerConfig, config: TokenizerConfig) -> None:
    quantizer, _ = built(kind, config)
    latents = torch.randn(64, 8, 8)
    quantizer.start(latents)
    expected = quantizer.train()(latents)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(latents)
    assert torch.equal(found.codes, expected.codes)
    torch.testing.assert_close(found.latents, expected.latents, rtol=1e-5, atol=1e-6)


def test_k_means_starts_the_cosine_codebook_on_real_clusters(config: TokenizerConfig) -> None:
    torch.manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(16, 8), dim=-1)
    latents = centres[torch.randint(16, (256, 8))] + 0.01 * torch.randn(256, 8, 8)
    quantizer = CosineVQ(VQConfig(codebook_size=64, dim=8))
    quantizer.start(latents)
    quantized = quantizer.eval()(latents)
    assert (quantized.latents - quantizer.continuous(latents)).square().sum(-1).mean() < 0.01
    assert len(quantized.codes.unique()) >= 16


@pytest.mark.parametrize("dead_below", [0, 0.1])
def test_dead_codes_come_back_to_life(dead_below: float) -> None:
    """Half of the codes lie where no latent is, so that none moves them; only what revives them brings them back."""
    torch.manual_seed(0)
    quantizer = CosineVQ(VQConfig(codebook_size=8, dim=4, decay=0.5, dead_below=dead_below))
    near, far = torch.tensor([1.0, 0, 0, 0]) + 0.3 * torch.randn(64, 8, 4), torch.tensor([-1.0, 0, 0, 0])
    quantizer.start(near)
    book = quantizer.vq._codebook
    book.embed[0, :4], book.embed_avg[0, :4], book.cluster_size[0, :4] = far, far, 1.0
    quantizer.train()
    for _ in range(20):
        quantizer.learn(near)
    assert len(quantizer.eval()(near).codes.unique()) == (8 if dead_below else 4)


def test_codes_live_where_there_are_more_of_them_than_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    quantizer = CosineVQ(VQConfig(codebook_size=256, dim=8))
    quantizer.start(torch.randn(64, 36, 8))
    replaced = Mock()
    monkeypatch.setattr(quantizer.vq._codebook, "replace", replaced)
    quantizer.train()
    for _ in range(150):
        quantizer.learn(torch.randn(2, 36, 8))  # an average code is nearest to 0.28 latents
    replaced.assert_not_called()


def test_a_started_codebook_moves_at_the_pace_of_its_average() -> None:
    """However many latents k-means has seen, a code goes in ten steps where latents are now."""
    quantizer = CosineVQ(VQConfig(codebook_size=1, dim=2, decay=0.8))
    quantizer.start(torch.tensor([1.0, 0.0]).repeat(1000, 36, 1))
    quantizer.train()
    now = torch.tensor([[[0.0, 1.0]]])
    for _ in range(10):
        quantizer.learn(now)
    assert quantizer(now).latents[..., 1] > 0.9


@pytest.mark.parametrize("kind", [VQConfig, SimVQConfig])
def test_the_commitment_is_weighed(kind: type[VQConfig | SimVQConfig], config: TokenizerConfig) -> None:
    losses = []
    for commitment in (0.25, 0.5):
        quantizer, latents = built(kind(codebook_size=16, dim=4, commitment=commitment), config)
        quantizer.start(latents)
        losses.append(quantizer.train().learn(latents).item())
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-4)


def test_lfq_learns_what_the_library_says(config: TokenizerConfig) -> None:
    quantizer, latents = built(LFQConfig(bits=6), config)
    assert isinstance(quantizer, LFQ)
    latents = (0.01 * latents).requires_grad_()  # where a latent is not sure of its code
    library = vqp.LFQ(dim=6, codebook_size=64, entropy_loss_weight=0.02, commitment_loss_weight=0.1)
    expected, loss = library.train()(latents)[2], quantizer.learn(latents)
    assert expected.abs() > 0.01
    torch.testing.assert_close(loss, expected)
    both = [torch.autograd.grad(value, latents)[0] for value in (loss, expected)]
    torch.testing.assert_close(both[0], both[1])


def test_k_means_that_a_run_of_before_has_not_begun_is_begun_here(config: TokenizerConfig) -> None:
    quantizer, latents = built(KMeansConfig(codebook_size=8, dim=4), config)
    assert isinstance(quantizer, KMeans)
    quantizer.vq._codebook.initted.fill_(False)  # as the library has it in its checkpoints
    quantizer.start(latents)
    codes = torch.arange(8)[None]
    before = quantizer.lookup(codes)
    quantizer.eval()(latents)
    torch.testing.assert_close(quantizer.lookup(codes), before, rtol=0, atol=0)


def test_k_means_freezes_its_codebook(config: TokenizerConfig) -> None:
    quantizer, latents = built(KMeansConfig(codebook_size=8, dim=4), config)
    assert isinstance(quantizer, KMeans)
    codes = torch.arange(8)[None]
    before = quantizer.lookup(codes)
    quantizer.train()(latents + 3)
    torch.testing.assert_close(quantizer.lookup(codes), before, rtol=0, atol=0)


def test_a_single_picture_in_training_is_refused() -> None:
    norm = PositionNorm(tokens=4, dim=2)
    with pytest.raises(TrainingError, match=r"a single one; give another train\.batch_size or train\.micro_batch"):
        norm(torch.randn(1, 4, 2))
    assert norm.eval()(torch.randn(1, 4, 2)).shape == (1, 4, 2)


def test_position_norm_normalises_each_position_by_itself() -> None:
    norm = PositionNorm(tokens=4, dim=2)
    scale = torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None]
    z = torch.randn(512, 4, 2) * scale + 5 * scale
    normalised = norm(z)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(4, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std(0), torch.ones(4, 2), atol=5e-3, rtol=0)
    for _ in range(200):
        norm(z)
    torch.testing.assert_close(norm.eval()(z), normalised, atol=1e-2, rtol=1e-2)


def test_position_norm_remembers_more_than_the_last_batch() -> None:
    norm, latents = PositionNorm(4, 2), torch.randn(64, 4, 2) * 3 + 5
    norm(latents)
    torch.testing.assert_close(norm.norm.running_mean, 0.1 * latents.mean(0).flatten())


def test_position_norm_takes_positions_in_groups() -> None:
    whole, grouped = PositionNorm(tokens=4, dim=2), PositionNorm(tokens=4, dim=2)
    for _ in range(3):
        z = torch.randn(64, 4, 2) * 3 + 1
        parts = [grouped(z[:, first : first + 2], first) for first in (0, 2)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole(z))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(grouped.state_dict()[name], value)
    torch.testing.assert_close(grouped.eval()(z[:, 2:], 2), whole.eval()(z)[:, 2:])
