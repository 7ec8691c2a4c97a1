"""Disk cache of arrays computed from images, by a hash of the image's content."""

from zoo.cache.folder import Cleared, Kind, StoredEntry, StoredKind, clear, root, stored
from zoo.cache.keys import derived_key, image_key
from zoo.cache.store import Store, open_store
