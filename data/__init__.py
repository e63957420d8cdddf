"""Sources of images, the data sets made of them, packed records, and the file of codes."""

from svq.data.imageset import ImageSet
from svq.data.sources import open_images

__all__ = ["ImageSet", "open_images"]
