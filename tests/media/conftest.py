"""Where the media files that tests make are found."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # other folders of tests share made_media.py and made_grid.py
