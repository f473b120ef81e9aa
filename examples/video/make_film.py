"""Make a film to seek in: a minute of moving noise with a counter of seconds, about 10 MB of WebM, by ffmpeg.

python examples/video/make_film.py film.webm
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SECONDS = 60


def make_film(target: Path, ffmpeg: str = "ffmpeg", seconds: int = SECONDS) -> None:
    """Write the film. Noise, because a still picture would be too small for a player to fetch in pieces.

    Raises:
        FileNotFoundError: there is no ffmpeg (Debian: apt-get install ffmpeg).
    """
    source = f"testsrc=size=320x180:rate=10:duration={seconds},noise=alls=60:allf=t"
    codec = ["-c:v", "libvpx", "-b:v", "1500k", "-g", "10", "-deadline", "realtime", "-cpu-used", "8"]
    index_first = ["-cues_to_front", "1"]  # where each second begins, for whoever seeks
    subprocess.run(
        [ffmpeg, "-loglevel", "error", "-y", "-f", "lavfi", "-i", source, *codec, *index_first, target], check=True
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the film to write: python examples/video/make_film.py film.webm")
    make_film(Path(sys.argv[1]))
