"""Speed of the styled decoder against a plain transcription of its equations, and of encoding against sgemm.

    python -m benchmarks.decoder_speed

Everything runs in this one process, turn by turn; each figure is the median of several rounds. The
transcription is the one in tests/tokenizer/reference.py that the decoder is proved equal to.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from svq.provenance import versions
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.presets import PRESETS
from svq.training.device import choose_device
from tests.tokenizer import reference

SIDE = 2048  # of the matrices that give the sgemm rate


def seconds(*works: Callable[[], object], rounds: int) -> list[float]:
    """Return the median time of each work; the works take turns, so that a slow spell hits all alike."""
    times: list[list[float]] = [[] for _ in works]
    for i in range(rounds + 1):
        for work, taken in zip(works, times, strict=True):
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i:  # the first round is a warm-up
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def encoding_flops(model: StyledTokenizer, images: Tensor) -> int:
    """Return the multiplications and additions of encoding: matrix products, convolutions and attention."""
    # Attention as plain matrix products: of the fused kernels, the counter knows those of a GPU alone.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.latents(images)
    return int(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    device = choose_device()
    width, heads = arguments.width, arguments.width // 64
    config = TokenizerConfig(
        encoder_width=width, encoder_depth=6, encoder_heads=heads, decoder_width=width, decoder_heads=heads
    )
    blind = StyledTokenizer(config).to(device).eval()
    preset = PRESETS["nano"]().model
    looking = StyledTokenizer(config.model_copy(update={"looks": preset.looks, "ahead": preset.ahead}))
    looking = looking.to(device).eval()
    decoder = blind.decoder
    latents = torch.randn(arguments.batch_size, config.tokens, config.latent_dim, device=device)
    images = torch.rand(arguments.batch_size, 3, config.image_size, config.image_size, device=device) * 2 - 1

    def transcription(z: Tensor) -> Tensor:
        return reference.decode(
            dict(decoder.named_parameters()),
            z,
            tokens=config.tokens,
            plain_layers=config.plain_layers,
            heads=heads,
            side=config.image_size // config.patch_size,
            patch=config.patch_size,
            convolve=decoder.output,
        )

    def step(paint: Callable[[Tensor], Tensor]) -> None:
        decoder.zero_grad()
        (paint(latents) - images).square().mean().backward()

    a, b = (torch.randn(SIDE, SIDE, device=device) for _ in range(2))
    with torch.no_grad():
        difference = (decoder(latents) - transcription(latents)).abs().max().item()
    ours, plain = seconds(lambda: step(decoder), lambda: step(transcription), rounds=arguments.rounds)
    with torch.inference_mode():
        forward, forward_plain, sgemm, *encode = seconds(
            lambda: decoder(latents),
            lambda: transcription(latents),
            lambda: a @ b,
            lambda: blind.latents(images),
            lambda: looking.latents(images),
            rounds=arguments.rounds,
        )
    flops = [encoding_flops(model, images) for model in (blind, looking)]  # the counter wants gradients
    rate = 2 * SIDE**3 / sgemm
    blind_share, looking_share = (f / s / rate for f, s in zip(flops, encode, strict=True))
    result = {
        "width": width,
        "image_size": config.image_size,
        "batch_size": arguments.batch_size,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "largest_difference": difference,
        "training_step_s": round(ours, 4),
        "training_step_speedup": round(plain / ours, 2),
        "forward_s": round(forward, 4),
        "forward_speedup": round(forward_plain / forward, 2),
        "sgemm_gflops": round(rate / 1e9, 1),
        "encoding_blind_share_of_sgemm": round(blind_share, 3),
        "encoding_with_looks_share_of_sgemm": round(looking_share, 3),
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
