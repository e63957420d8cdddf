"""The file of codes."""

import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from svq.data import ImageSet
from svq.data.codes import Codes, load_codes
from svq.errors import CheckpointError, DataError
from svq.pixels import to_float
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.tokenize import tokenize
from svq.training.checkpoint import write_tensors


def example(size: int = 1000) -> Codes:
    return Codes(
        codes=np.array([[0, 1], [size - 1, 2]]),
        labels=np.array([0, -1]),
        validation=np.array([True, False]),
        captions=("ein Bär 🐻", ""),
        classes=("animal",),
        codebook_size=size,
        tokenizer="t",
        data="d",
        source="openmoji",
        refine=20,
    )


@pytest.mark.parametrize(("size", "kind"), [(1000, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_everything_comes_back(tmp_path: Path, size: int, kind: type) -> None:
    codes = example(size)
    codes.save(tmp_path / "c.safetensors")
    loaded = load_codes(tmp_path / "c.safetensors")
    assert loaded.codes.dtype == kind
    for name, value in vars(codes).items():
        np.testing.assert_array_equal(getattr(loaded, name), value, err_msg=name)


def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        example().save(tmp_path / "c.safetensors")
        write_tensors(tmp_path / "t.safetensors", {"x": torch.zeros(1)})
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("c.safetensors", "t.safetensors")] == [0o640, 0o640]


def test_a_source_whose_name_is_no_text_is_saved_too(tmp_path: Path) -> None:
    replace(example(), source=os.fsdecode(b"caf\xe9")).save(tmp_path / "c.safetensors")
    assert load_codes(tmp_path / "c.safetensors").source == "caf\\xe9"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))  # as if the disk were full
    try:
        with pytest.raises(OSError, match=r"c\.safetensors cannot be written"):
            example().save(tmp_path / "c.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no", b"\xff" * 100])
def test_damage_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_codes(tmp_path / "c")


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    example().save(tmp_path / "c")
    content = bytearray((tmp_path / "c").read_bytes())
    content[-1] ^= 1
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_codes(tmp_path / "c")


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": np.zeros(1)}, tmp_path / "c")
    with pytest.raises(CheckpointError, match="not a file of codes"):
        load_codes(tmp_path / "c")


def test_the_way_through_the_file_is_the_direct_way_bit_for_bit(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tokenizer = StyledTokenizer(config).eval()
    tokenize(tokenizer, pictures, batch_size=64).save(tmp_path / "c")
    loaded = load_codes(tmp_path / "c")
    direct = tokenizer.encode(to_float(pictures.batch(pictures.indices("all"))))
    through = torch.from_numpy(loaded.codes.astype(np.int64))
    assert torch.equal(through, direct)
    assert torch.equal(tokenizer.decode(through), tokenizer.decode(direct))
    assert loaded.data == pictures.fingerprint
    np.testing.assert_array_equal(loaded.validation, pictures.validation)


def test_an_empty_choice_is_refused(config: TokenizerConfig, pictures: ImageSet) -> None:
    with pytest.raises(DataError, match="no such pictures"):
        tokenize(StyledTokenizer(config).eval(), pictures, np.empty(0, np.int64))


def test_chosen_pictures_keep_what_is_known_of_them(config: TokenizerConfig, pictures: ImageSet) -> None:
    tokenizer = StyledTokenizer(config).eval()
    pictures = replace(pictures, captions=tuple(f"picture {i}" for i in range(len(pictures))))
    chosen = np.random.default_rng(0).permutation(len(pictures))[:20]
    whole, some = tokenize(tokenizer, pictures), tokenize(tokenizer, pictures, chosen)
    np.testing.assert_array_equal(some.codes, whole.codes[chosen])
    np.testing.assert_array_equal(some.labels, pictures.labels[chosen])
    np.testing.assert_array_equal(some.validation, pictures.validation[chosen])
    assert some.captions == tuple(f"picture {i}" for i in chosen)
