"""From a run to a small folder that can be given away: weights in half precision, and where they came from.

config.json, model.safetensors, manifest.json    what `StyledTokenizer.from_pretrained` reads; weights may be packed
run.json                                         settings, data fingerprint and versions of the run
log.jsonl                                        its log
"""

from pathlib import Path

from svq.tokenizer.model import StyledTokenizer, locate
from svq.training.checkpoint import find, save_model


def export(run: Path, out: Path, half: bool = True, xz: bool = False) -> StyledTokenizer:
    """Write the averaged weights of a run's newest checkpoint into a folder, and return what is read from it.

    Args:
        run: the folder of a run, of a checkpoint or of an exported tokenizer, or the name of one that comes with svq.
        out: the folder to write; it appears when it is complete.
        half: write the parameters as float16.
        xz: pack them, as those are that come with svq: ``model.safetensors.xz``.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    run = locate(run)
    checkpoint = find(run)
    model = StyledTokenizer.from_pretrained(checkpoint)
    sources = (checkpoint / "state" / "run.json", checkpoint / "run.json", run / "log.jsonl")
    texts = {path.name: path.read_text() for path in sources if path.is_file()}
    save_model(out, model, model.config.model_dump(mode="json"), half, texts, xz)
    return StyledTokenizer.from_pretrained(out)
