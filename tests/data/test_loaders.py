"""Loaders: the same pictures from each, deterministic, resumed exactly, and never another set without a word."""

import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from svq.data.encoding import decode
from svq.data.entries import Entry
from svq.data.imageset import fit
from svq.data.loader_torch import TorchLoader, _box
from svq.data.loaders import Augmentation, Kind, Loader, LoaderSettings, open_loader
from svq.data.packed import PackedSet, open_index
from svq.data.packing import PackSettings, pack
from svq.data.recordio import ImageRecord, pack_image, write_record
from svq.errors import CheckpointError, DataError, UserError

CPU = torch.device("cpu")
COUNT = 23  # no multiple of the batch size, so that epochs end inside batches
SETTINGS = LoaderSettings(image_size=32, batch_size=4)
RANDOM = SETTINGS._replace(augmentation=Augmentation("random", 0.3, flip=True))
BOTH: list[Kind] = ["torch", "dali"]


def photo(number: int) -> bytes:
    """A smooth picture whose class can be told from nothing; some are grey, small, tall, PNG, or lie on their side."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    size = [(64, 48), (41, 77), (32, 41), (20, 26)][number % 4]
    image = small.resize(size, Image.Resampling.BICUBIC)
    if number % 5 == 0:
        image = image.convert("L")
    exif = image.getexif()
    if number % 7 == 3:
        exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if number % 6 == 1 else "JPEG", **({} if number % 6 == 1 else {"exif": exif}))
    return buffer.getvalue()


def make(folder: Path, layout: str = "class", count: int = COUNT, shard_size: int = 9) -> PackedSet:
    """Pictures in shards of 9; the class of picture i is i."""
    folder.mkdir(exist_ok=True)
    entries = []
    for i in range(count):
        file = folder / f"{i:02d}.img"
        file.write_bytes(photo(i))
        entries.append(Entry(str(i), ("file", str(file)), f"{i:02d}", f"raw {i}", f"synthetic {i}", "train"))
    return pack(entries, folder / "set.rec", "photos", PackSettings(layout=layout, shard_size=shard_size))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, _session: None) -> PackedSet:
    return make(tmp_path_factory.mktemp("loaders") / "photos")


@pytest.fixture(params=BOTH)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


opened: list[Loader] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


def open_(kind: Kind, packed: PackedSet, settings: LoaderSettings = SETTINGS) -> Loader:
    opened.append(open_loader(kind, packed, settings, CPU))
    return opened[-1]


def take(loader: Loader, count: int) -> list[tuple[Tensor, Tensor]]:
    return [(batch.images.clone(), batch.labels) for batch in (next(loader) for _ in range(count))]


def same(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return all(torch.equal(x, y) and torch.equal(m, n) for (x, m), (y, n) in zip(a, b, strict=True))


def by_class(loader: Loader) -> dict[int, Tensor]:
    return {int(n): image for images, labels in take(loader, 12) for image, n in zip(images, labels, strict=True)}


def test_a_batch_has_the_promised_shapes(kind: Kind, packed: PackedSet) -> None:
    batch = next(open_(kind, packed))
    assert (batch.images.shape, batch.images.dtype) == ((4, 3, 32, 32), torch.uint8)
    assert (batch.labels.shape, batch.labels.dtype) == ((4,), torch.int64)
    assert batch.captions is None


def test_both_loaders_give_the_pixels_of_the_cached_set(packed: PackedSet) -> None:
    ours, dalis = (by_class(open_(kind, packed)) for kind in BOTH)
    assert ours.keys() == dalis.keys() == set(range(COUNT))
    for number in range(COUNT):
        pillow = torch.from_numpy(fit(decode(photo(number)), 32).copy()).int()
        # Decoders and filters round differently.
        assert (ours[number].int() - dalis[number].int()).abs().max() <= 3
        assert (ours[number].int() - pillow).abs().float().mean() < 1


def test_the_same_seed_gives_the_same_batches_and_another_one_others(kind: Kind, packed: PackedSet) -> None:
    first = take(open_(kind, packed, RANDOM), 13)
    assert same(first, take(open_(kind, packed, RANDOM), 13))
    assert not same(first, take(open_(kind, packed, RANDOM._replace(seed=1)), 13))


@pytest.mark.parametrize("settings", [SETTINGS, RANDOM], ids=["centre", "random"])
@pytest.mark.parametrize("stop", [0, 1, 4, 6, 11])
def test_a_loader_goes_on_exactly_where_it_was_stopped(
    kind: Kind, packed: PackedSet, stop: int, settings: LoaderSettings
) -> None:
    loader = open_(kind, packed, settings)
    take(loader, stop)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = take(loader, 9)
    again = open_(kind, packed, settings)
    take(again, 2)  # it need not be fresh
    again.load_state_dict(state)
    assert same(take(again, 9), rest)
    loader.load_state_dict(state)
    assert same(take(loader, 9), rest)


def test_the_state_is_small(kind: Kind, packed: PackedSet) -> None:
    loader = open_(kind, packed, RANDOM)
    take(loader, 3)
    assert len(json.dumps(loader.state_dict())) < 4000


def test_an_epoch_shows_each_picture_once(packed: PackedSet) -> None:
    numbers = [int(n) for _, labels in take(open_("torch", packed), COUNT) for n in labels]
    for epoch in range(4):
        assert sorted(numbers[epoch * COUNT : (epoch + 1) * COUNT]) == list(range(COUNT))
    assert numbers[:COUNT] != numbers[COUNT : 2 * COUNT]


def test_no_picture_is_shown_more_often_than_another(kind: Kind, packed: PackedSet) -> None:
    loader = open_(kind, packed, SETTINGS._replace(batch_size=16))  # 23 pictures: every epoch ends inside a batch
    seen = Counter(int(n) for _, labels in take(loader, COUNT) for n in labels)
    assert seen == dict.fromkeys(range(COUNT), 16)


def test_a_picture_is_cropped_alike_however_many_ranks_there_are(packed: PackedSet) -> None:
    one = take(open_("torch", packed, RANDOM._replace(batch_size=8)), 4)
    two = [open_("torch", packed, RANDOM._replace(rank=rank, world_size=2)) for rank in range(2)]
    for images, labels in one:
        halves = [take(rank, 1)[0] for rank in two]
        assert torch.equal(images, torch.cat([half[0] for half in halves]))
        assert torch.equal(labels, torch.cat([half[1] for half in halves]))


def test_ranks_share_an_epoch_and_take_equally_many_steps(kind: Kind, packed: PackedSet) -> None:
    ranks = [open_(kind, packed, SETTINGS._replace(rank=rank, world_size=2)) for rank in range(2)]
    steps = 3  # of 4 pictures for each of 2 ranks: 24 places for 23 pictures
    seen = Counter(int(n) for rank in ranks for _, labels in take(rank, steps) for n in labels)
    assert set(seen) == set(range(COUNT))
    assert seen.total() == 24


def test_the_state_of_other_batches_is_refused(kind: Kind, packed: PackedSet, tmp_path: Path) -> None:
    state = open_(kind, packed).state_dict()
    for name, value in {"batch_size": 5, "world_size": 2, "seed": 3, "image_size": 16}.items():
        other = open_(kind, packed, SETTINGS._replace(**{name: value}))
        old = SETTINGS._asdict()[name]
        with pytest.raises(CheckpointError, match=rf"\({name}: {old} -> {value}\); give the same data and settings"):
            other.load_state_dict(state)
    with pytest.raises(CheckpointError, match="crop: centre -> random; flip: False -> True; smallest_area"):
        open_(kind, packed, RANDOM).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"\(data: [0-9a-f]{64} -> [0-9a-f]{64}\)"):
        open_(kind, make(tmp_path / "fewer", count=COUNT - 1)).load_state_dict(state)
    with pytest.raises(CheckpointError, match="no state of a loader"):
        open_(kind, packed).load_state_dict({})


def test_the_state_of_another_kind_or_rank_is_refused(packed: PackedSet) -> None:
    with pytest.raises(CheckpointError, match="loader: torch -> dali"):
        open_("dali", packed).load_state_dict(open_("torch", packed).state_dict())
    two = SETTINGS._replace(world_size=2)
    with pytest.raises(CheckpointError, match="rank: 0 -> 1"):
        open_("dali", packed, two._replace(rank=1)).load_state_dict(open_("dali", packed, two).state_dict())


def test_captions_come_as_ids_beside_the_class(kind: Kind, tmp_path: Path) -> None:
    packed = make(tmp_path / "captions", "class+captions", count=5)
    ids = {
        int(n): pair for n, pair in zip(*next(open_(kind, packed, SETTINGS._replace(batch_size=5)))[1:], strict=True)
    }
    assert ids.keys() == set(range(5))
    shard = packed.shards("all")[0]
    for record in (shard.open()[i] for i in range(5)):
        pair = ids[int(record.labels[0])]
        assert (pair.shape, pair.dtype) == ((2, 77), torch.int64)
        assert pair.flatten().tolist() == [int(value) for value in record.labels[1:]]
        assert pair[0, 0] == 49406  # start of text


def test_without_classes_labels_are_none(kind: Kind, tmp_path: Path) -> None:
    batch = next(open_(kind, make(tmp_path / "captions", "captions", count=4)))
    assert batch.labels.tolist() == [-1] * 4
    assert batch.captions is not None


def test_a_damaged_pair_is_refused_before_anything_reads_it(kind: Kind, tmp_path: Path) -> None:
    packed = make(tmp_path / "cut")
    shard = packed.shards("train")[-1]
    last = int(shard.open().offsets[-1])
    shard.rec.write_bytes(shard.rec.read_bytes()[:last])  # DALI would end with a segmentation fault
    with pytest.raises(DataError, match="svq data verify"):
        open_(kind, packed)


def test_a_picture_that_cannot_be_decoded_ends_with_its_set_named(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"svq data verify .*foreign\.rec"):
        next(open_(kind, foreign(tmp_path, photo(2)[:80]), SETTINGS._replace(batch_size=1)))


def foreign(folder: Path, data: bytes) -> PackedSet:
    """A set of one record that svq did not pack."""
    rec = folder / "foreign.rec"
    with open(rec, "wb") as file:
        offset = write_record(file, pack_image(ImageRecord(7, (1.0,), data)))
    rec.with_suffix(".idx").write_text(f"7\t{offset}\n")
    return open_index(rec)


def lying(behind: bytes = b"") -> bytes:
    """A JPEG, 32 x 16, of which XMP alone says that its bright left is its top; another segment may come before."""
    image = Image.fromarray(np.repeat(np.array([[220, 30]], np.uint8), 16, axis=1).repeat(16, axis=0))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", xmp=b'<rdf:Description tiff:Orientation="6"/>')
    data = buffer.getvalue()
    return data[:2] + behind + data[2:]


def is_upright(loader: Loader) -> bool:
    """Say whether the first picture is bright above and dark below."""
    image = next(loader).images[0]
    return bool((image[:, :6] > 200).all() and (image[:, -6:] < 50).all())


THUMBNAIL = b"\xff\xed\x00\x14Photoshop 3.0\0\xff\xd8\xff\xda"  # it has the marker of a scan, too
ONE = SETTINGS._replace(image_size=16, batch_size=1)


@pytest.mark.parametrize("behind", [b"", THUMBNAIL], ids=["alone", "thumbnail"])
def test_pictures_that_xmp_alone_turns_are_upright_in_foreign_sets(tmp_path: Path, behind: bytes) -> None:
    assert decode(lying(behind)).size == (16, 32)
    assert is_upright(open_("torch", foreign(tmp_path, lying(behind)), ONE))


def test_pictures_that_xmp_alone_turns_are_packed_upright(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(lying())
    packed = pack([Entry("a", ("file", str(tmp_path / "a.jpg")), split="train")], tmp_path / "a.rec", "x")
    assert is_upright(open_(kind, packed, ONE))


def test_random_crops_lie_within_the_picture_and_have_the_area_asked_for() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for height, width in [(100, 300), (256, 256), (7, 5), (1, 1)] * 200:
        top, left, h, w = _box(height, width, Augmentation("random", 0.4), rng.random(41))
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert h > 0
        assert w > 0
        if height == 256:
            shares.append(h * w / (height * width))
    assert 0.39 < min(shares) < 0.5
    assert 0.9 < max(shares) <= 1.0


def test_a_flip_mirrors_about_half_of_the_pictures(kind: Kind, packed: PackedSet) -> None:
    plain = by_class(open_(kind, packed))
    flips = []
    for images, labels in take(open_(kind, packed, SETTINGS._replace(augmentation=Augmentation(flip=True))), 20):
        for image, n in zip(images, labels, strict=True):
            flips.append(not torch.equal(image, plain[int(n)]))
            assert torch.equal(image, plain[int(n)].flip(2) if flips[-1] else plain[int(n)])
    assert 0.3 < np.mean(flips) < 0.7


def test_without_dali_it_is_named_and_auto_takes_torch(packed: PackedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_("auto", packed), TorchLoader)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.delitem(sys.modules, "svq.data.loader_dali", raising=False)
    with pytest.raises(UserError, match=r"pip install 'svq\[dali\]'"):
        open_("dali", packed)


def test_an_empty_split_is_an_error(kind: Kind, packed: PackedSet) -> None:
    with pytest.raises(DataError, match="no picture in split 'val'"):
        open_(kind, packed, SETTINGS._replace(split="val"))
