"""Name a dataset's content by its image files, labels, class names, splits and image size."""

import hashlib
import json

# Versions of the code that decodes images, and others than JPEG, and that draws characters. Raise
# them when a pixel may change by more than rounding: pixels do not enter a fingerprint.
DECODING, NOT_JPEG, DRAWING = 1, 2, 1


def sha256(content: object) -> str:
    """Return the hexadecimal digest of bytes as they are, of anything else as JSON."""
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()
