"""Data sets: what to train on, what to validate on, what to calibrate with. No torch in here."""

from edgecv.data.cache import bytes_to_write, cached, cached_masks
from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, Images
from edgecv.data.sources import load

__all__ = ["DataConfig", "Dataset", "Images", "bytes_to_write", "cached", "cached_masks", "load"]
