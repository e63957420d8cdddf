"""The loader of NVIDIA DALI: records read one after the other, decoded on the GPU where there is one.

What is special: DALI reads shards in sequence, which suits any disk, and shuffles through a buffer; the order of
the shards changes with each epoch. The pictures were shuffled when they were packed. Each rank reads a part of
its own in each epoch, which may end inside a batch; no picture is repeated. (Where the parts differ by one picture,
the ranks' epochs drift apart by one.) Its state is DALI's own checkpoint.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from svq.data.loaders import ASPECT, Batch, LoaderSettings, check_identity, identity, to_batch
from svq.data.packed import PackedSet
from svq.data.recordio import read_offsets
from svq.errors import DataError

BUFFER = 4096  # records that the shuffle draws from, at most


class DaliLoader:
    """See `svq.data.loaders.Loader`. The states of ranks differ: each needs its own.

    Args:
        packed: a verified set; DALI would crash on a pair of files that do not fit each other.
        settings: what the batches depend on.
        device: where the pictures are wanted.
        workers: threads that decode on the CPU.
    """

    def __init__(self, packed: PackedSet, settings: LoaderSettings, device: torch.device, workers: int) -> None:
        self.packed, self.settings, self.device, self.workers = packed, settings, device, workers
        self._iterator = self._open(None)

    def __next__(self) -> Batch:
        try:
            output = next(self._iterator)[0]
        except RuntimeError as error:
            raise DataError(
                f"DALI cannot go on with {self.packed.path}: {str(error).strip().splitlines()[-1]}; "
                f"'svq data verify {self.packed.path}' names pictures that cannot be decoded"
            ) from error
        return to_batch(self.packed, output["images"].permute(0, 3, 1, 2), output["labels"].cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        checkpoint = self._iterator.checkpoints()[0]
        return {"identity": self._identity(), "checkpoint": base64.b64encode(checkpoint).decode()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_identity(state, self._identity())
        self._iterator = self._open(base64.b64decode(state["checkpoint"]))

    def close(self) -> None:
        del self._iterator

    def _identity(self) -> dict[str, Any]:
        return identity("dali", self.packed, self.settings) | {"rank": self.settings.rank}

    def _open(self, checkpoint: bytes | None) -> DALIGenericIterator:
        cuda = self.device.type == "cuda"
        with TemporaryDirectory(prefix="svq-offsets-") as folder:
            pipeline = _pipeline(
                self.packed,
                self.settings,
                self._write_offsets(Path(folder) / "all.idx"),
                "mixed" if cuda else "cpu",
                batch_size=self.settings.batch_size,
                num_threads=self.workers,
                device_id=(self.device.index or 0) if cuda else None,
                seed=self.settings.seed * self.settings.world_size + self.settings.rank,
                checkpoint=checkpoint,
            )
            pipeline.build()  # reads the offsets
        return DALIGenericIterator([pipeline], ["images", "labels"], prepare_first_batch=False)

    def _write_offsets(self, path: Path) -> Path:
        """Write the offsets of all shards as if they were one file, which is how DALI sees them."""
        begin = number = 0
        with open(path, "w") as file:
            for shard in self.packed.shards(self.settings.split):
                offsets = read_offsets(shard.idx)[1] + begin
                file.writelines(f"{number + i}\t{offset}\n" for i, offset in enumerate(offsets.tolist()))
                number, begin = number + len(offsets), begin + shard.rec.stat().st_size
        return path


@pipeline_def(enable_checkpointing=True, enable_conditionals=True)  # type: ignore[untyped-decorator]
def _pipeline(packed: PackedSet, settings: LoaderSettings, offsets: Path, decoder: str) -> tuple[Any, Any]:
    """Return the pictures (S, S, 3) uint8 and the labels (width,) float32 of each record."""
    encoded, labels = fn.readers.mxnet(
        path=[str(shard.rec) for shard in packed.shards(settings.split)],
        index_path=[str(offsets)],
        shard_id=settings.rank,
        num_shards=settings.world_size,
        pad_last_batch=False,  # which could fill a whole batch with one picture
        random_shuffle=True,
        initial_fill=min(BUFFER, packed.count(settings.split)),
        shuffle_after_epoch=True,
        shuffle_after_epoch_seed=settings.seed,  # the same on all ranks, so that an epoch's parts are apart
        seed=settings.seed,
    )
    size, augmentation = settings.image_size, settings.augmentation
    # Only the part that is shown is decoded.
    if augmentation.crop == "random":
        images = fn.decoders.image_random_crop(
            encoded, device=decoder, random_area=[augmentation.smallest_area, 1.0], random_aspect_ratio=list(ASPECT)
        )
        images = _resize(images, size)
    else:
        extent = fn.slice(fn.peek_image_shape(encoded, dtype=types.INT32), 0, 2, axes=[0])  # height, width
        side = fn.reductions.min(extent)
        images = fn.decoders.image_slice(
            encoded, device=decoder, start=(extent - side) // 2, shape=fn.stack(side, side), axis_names="HW"
        )
        if side != size:  # for each picture: DALI would take four fifths of its time to scale from a size to the same
            images = _resize(images, size)
    if augmentation.flip:
        images = fn.flip(images, horizontal=fn.random.coin_flip())
    return images, labels


def _resize(images: Any, size: int) -> Any:
    return fn.resize(images, size=[size, size], interp_type=types.INTERP_CUBIC, antialias=True)
