"""The whole tokenizer: codes, prefixes, files."""

import copy
from pathlib import Path

import pytest
import torch

from svq.errors import CheckpointError, UserError
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import KMeansConfig, TokenizerConfig
from svq.training.checkpoint import read_tensors, save_model


@pytest.fixture(params=[2, 0], ids=["looking", "blind"])
def tokenizer(config: TokenizerConfig, request: pytest.FixtureRequest) -> StyledTokenizer:
    torch.manual_seed(0)
    return StyledTokenizer(config.model_copy(update={"looks": request.param})).eval()


def test_decoding_codes_gives_the_reconstruction(tokenizer: StyledTokenizer) -> None:
    images = torch.rand(5, 3, 16, 16) * 2 - 1
    codes = tokenizer.encode(images)
    assert codes.shape == (5, 8)
    torch.testing.assert_close(tokenizer.decode(codes), tokenizer(images).images.clamp(-1, 1))


def test_a_picture_has_the_same_codes_in_any_company(tokenizer: StyledTokenizer) -> None:
    images = torch.rand(5, 3, 16, 16) * 2 - 1
    together = tokenizer.encode(images)
    alone = torch.cat([tokenizer.encode(image[None]) for image in images])
    torch.testing.assert_close(together, alone)


def test_any_prefix_can_be_painted(tokenizer: StyledTokenizer) -> None:
    codes = torch.randint(0, 1000, (2, 8))
    for k in range(9):
        assert tokenizer.decode(codes[:, :k]).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    "codes", [torch.full((1, 8), 1000), torch.full((1, 8), -1), torch.zeros(1, 9).long(), torch.zeros(1, 8)]
)
def test_impossible_codes_are_refused(tokenizer: StyledTokenizer, codes: torch.Tensor) -> None:
    with pytest.raises(UserError, match="codes"):
        tokenizer.decode(codes)


def test_pictures_of_another_size_are_refused(tokenizer: StyledTokenizer) -> None:
    with pytest.raises(UserError, match=r"expected pictures of shape \(B, 3, 16, 16\), got \(1, 3, 32, 32\)"):
        tokenizer.encode(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_pictures_of_any_floating_type_are_taken(tokenizer: StyledTokenizer, kind: torch.dtype) -> None:
    images = (torch.rand(2, 3, 16, 16) * 2 - 1).half()
    assert torch.equal(tokenizer.encode(images.to(kind)), tokenizer.encode(images.float()))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_a_tokenizer_of_another_precision_says_so(tokenizer: StyledTokenizer, kind: torch.dtype) -> None:
    other = copy.deepcopy(tokenizer).to(kind)
    for use in (lambda: other.encode(torch.zeros(1, 3, 16, 16)), lambda: other.decode(torch.zeros(1, 8).long())):
        with pytest.raises(UserError, match=rf"expected a tokenizer in float32, got {kind}; call \.float\(\)"):
            use()


def test_codes_of_any_integer_type_are_taken(tokenizer: StyledTokenizer) -> None:
    codes = torch.randint(1000, (2, 8))
    for kind in (torch.uint16, torch.int32):
        assert torch.equal(tokenizer.decode(codes.to(kind)), tokenizer.decode(codes))


@pytest.mark.parametrize("refine", [0, 2])
def test_no_pictures_are_no_codes(tokenizer: StyledTokenizer, refine: int) -> None:
    codes = tokenizer.encode(torch.zeros(0, 3, 16, 16), refine)
    assert codes.shape == (0, 8)
    assert tokenizer.decode(codes).shape == (0, 3, 16, 16)


def test_bytes_and_training_mode_are_refused(tokenizer: StyledTokenizer) -> None:
    with pytest.raises(UserError, match=r"got torch.uint8; map bytes"):
        tokenizer.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"call .eval\(\) first"):
        tokenizer.train().encode(torch.zeros(1, 3, 16, 16))


def test_saving_never_destroys_a_run(tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "x").write_text("hours of work")
    with pytest.raises(CheckpointError, match="holds other files"):
        tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "checkpoints" / "x").read_text() == "hours of work"
    tokenizer.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")  # an earlier model is replaced
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds other files"):
        tokenizer.save_pretrained(tmp_path / "model")


def test_another_kind_of_model_is_named(tmp_path: Path) -> None:
    save_model(tmp_path / "m", torch.nn.Linear(1, 1), {"width": 3})
    with pytest.raises(CheckpointError, match="another kind of model"):
        StyledTokenizer.from_pretrained(tmp_path / "m")


def test_codes_can_teach(tokenizer: StyledTokenizer) -> None:
    images = tokenizer.decode(tokenizer.encode(torch.zeros(1, 3, 16, 16)))
    weight = torch.ones(1, requires_grad=True)
    (images * weight).sum().backward()  # refused, were they inference tensors


def test_a_saved_tokenizer_is_the_same(tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = StyledTokenizer.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.encode(images), tokenizer.encode(images))
    codes = torch.randint(0, 1000, (2, 8))
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))


def test_half_precision_is_half_as_large_and_nearly_the_same(tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    config = tokenizer.config.model_dump(mode="json")
    for name, half in (("full", False), ("half", True)):
        save_model(tmp_path / name, tokenizer, config, half=half, texts={"card.md": "hello"})
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.65 * sizes[0]
    loaded = StyledTokenizer.from_pretrained(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    codes = torch.randint(0, 1000, (4, 8))
    torch.testing.assert_close(loaded.decode(codes), tokenizer.decode(codes), atol=0.02, rtol=0.02)
    assert (tmp_path / "half" / "card.md").read_text() == "hello"


def test_packed_weights_are_the_same_and_smaller(tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    config = tokenizer.config.model_dump(mode="json")
    for name, xz in (("plain", False), ("packed", True)):
        save_model(tmp_path / name, tokenizer, config, half=True, xz=xz)
    files = [tmp_path / "plain" / "model.safetensors", tmp_path / "packed" / "model.safetensors.xz"]
    assert files[1].stat().st_size < 0.95 * files[0].stat().st_size
    assert not (tmp_path / "packed" / "model.safetensors").exists()
    plain, packed = (StyledTokenizer.from_pretrained(tmp_path / name) for name in ("plain", "packed"))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(packed.state_dict()[name], tensor), name
    files[1].write_bytes(files[1].read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.xz has changed"):
        StyledTokenizer.from_pretrained(tmp_path / "packed")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        read_tensors(tmp_path / "packed" / "model.safetensors")


def test_a_codebook_that_was_never_started_is_named(config: TokenizerConfig) -> None:
    tokenizer = StyledTokenizer(config.model_copy(update={"quantizer": KMeansConfig(codebook_size=8, dim=4)}))
    with pytest.raises(CheckpointError, match="no codebook yet"):
        tokenizer.eval().encode(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("looks", [0, 2])
def test_in_training_latents_are_drawn_from_their_posterior(config: TokenizerConfig, looks: int) -> None:
    torch.manual_seed(0)
    tokenizer = StyledTokenizer(config.model_copy(update={"looks": looks}))
    drawn: list[torch.Tensor] = []
    tokenizer.norm.register_forward_pre_hook(lambda _, given: drawn.append(given[0]))
    eps = torch.randn(4, config.tokens, config.latent_dim)
    posterior = tokenizer(torch.rand(4, 3, 16, 16) * 2 - 1, eps).posterior
    torch.testing.assert_close(torch.cat(drawn, 1), posterior.mean + (0.5 * posterior.log_variance).exp() * eps)


def test_a_prefix_teaches_its_own_latents_and_the_null_of_the_others(tokenizer: StyledTokenizer) -> None:
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    written: list[torch.Tensor] = []  # by group
    tokenizer.norm.register_forward_pre_hook(lambda _, inputs: written.append(inputs[0]))
    painted = tokenizer.train()(images, keep=torch.tensor([3, 3, 3, 3])).images
    *gradients, null = torch.autograd.grad(painted.square().sum(), [*written, tokenizer.decoder.null])
    latents = torch.cat(gradients, dim=1)  # (4, 8, d)
    assert latents[:, :3].any(-1).all()
    assert not latents[:, 3:].any()
    assert null[0, 3:].any(-1).all()  # (1, 8, D)
    assert not null[0, :3].any()


def test_chosen_pictures_are_quantized_and_the_others_are_not(tokenizer: StyledTokenizer) -> None:
    images = torch.rand(6, 3, 16, 16) * 2 - 1
    chosen = torch.tensor([True, False, False, True, False, True])
    with torch.no_grad():
        mixed = tokenizer(images, quantized=chosen).images
        on_codes, continuous = tokenizer(images, quantized=True).images, tokenizer(images, quantized=False).images
    torch.testing.assert_close(mixed, torch.where(chosen[:, None, None, None], on_codes, continuous))
    assert not torch.allclose(on_codes, continuous)
