"""An image-to-text model of transformers that writes one caption per picture: BLIP, GIT and their like."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from svq.data.colour import to_rgb
from svq.errors import UserError


class CaptionSettings(NamedTuple):
    """Who writes captions, and how.

    Attributes:
        model: the name of a model on the Hugging Face Hub, or a folder that holds one.
        max_tokens: length of a caption, at most.
        beams: width of the beam search; 1 takes the likeliest token each time.
    """

    model: str
    max_tokens: int = 40
    beams: int = 1


class Captioner:
    """A captioning model and its processor on one device.

    Args:
        settings: which model, and how it writes.
        device: where it runs.

    Raises:
        UserError: transformers is not installed, or there is no such model, or it is of another kind.
    """

    def __init__(self, settings: CaptionSettings, device: torch.device) -> None:
        try:
            from huggingface_hub import model_info, try_to_load_from_cache
            from transformers import AutoModelForImageTextToText, AutoProcessor
            from transformers.utils import logging
        except ImportError as error:
            raise UserError("captions need transformers: pip install 'svq[caption-models]'") from error
        logging.disable_progress_bar()
        self.settings = settings
        try:
            at_hand = Path(settings.model).is_dir() or try_to_load_from_cache(settings.model, "config.json")
            if not at_hand:
                model_info(settings.model, timeout=10)  # without a network, transformers would try for minutes
            self._processor = AutoProcessor.from_pretrained(settings.model)
            model: Any = AutoModelForImageTextToText.from_pretrained(settings.model)  # its .to is typed too narrowly
            self._model = model.to(device).eval()
        except Exception as error:  # the hub and transformers raise almost anything
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"no image-to-text model '{settings.model}' ({reason}); expected its name on the Hugging Face Hub, "
                "such as Salesforce/blip-image-captioning-base, or, without a network, a folder that holds it"
            ) from error
        if getattr(self._processor, "image_processor", None) is None or getattr(self._processor, "chat_template", None):
            raise UserError(
                f"'{settings.model}' is no captioning model: it sees no pictures, or waits for a prompt; "
                "expected one such as Salesforce/blip-image-captioning-base"
            )

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> list[str]:
        """Return one caption per picture, white space put in order; the same for each whatever the batch."""
        device, dtype = self._model.device, self._model.dtype
        pixels = self._processor(images=[to_rgb(image) for image in images], return_tensors="pt").pixel_values
        tokens = self._model.generate(
            pixel_values=pixels.to(device, dtype),  # (B, 3, H, W), as the model wants them
            max_new_tokens=self.settings.max_tokens,
            num_beams=self.settings.beams,
            do_sample=False,
        )
        texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]
