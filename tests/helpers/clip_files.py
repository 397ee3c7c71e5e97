"""Tiny videos whose frames show their own number, and data directories made of them."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

COLUMNS = 10  # the middle eight are the bits of the frame number; the outer two may be cropped away
SIDE = 80


def frame_showing(number: int, height: int = SIDE) -> np.ndarray:
    bits = [0, *(number >> bit & 1 for bit in range(8)), 0]
    row = np.repeat(np.array(bits, dtype=np.uint8) * 200 + 20, SIDE // COLUMNS)
    return np.broadcast_to(row[None, :, None], (height, SIDE, 3)).copy()


def number_shown(frame_HWC: np.ndarray, cropped: float = 0.0) -> int:
    """Return the number that a picture shows. A fraction ``cropped`` of the width is missing, half on each side."""
    width = frame_HWC.shape[1]
    places = ((np.arange(8) + 1.5) / COLUMNS - cropped / 2) / (1 - cropped) * width
    levels = frame_HWC[frame_HWC.shape[0] // 2, places.astype(int), 1]
    return sum(int(level > 120) << bit for bit, level in enumerate(levels))


def write_video(
    path: Path,
    frames: int,
    *,
    fps: int = 25,
    gop: int = 250,
    b_frames: int = 3,
    open_gop: bool = False,
    movflags: str = "",
    picture: Callable[[int], np.ndarray] = frame_showing,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = picture(0).shape[:2]
        stream.pix_fmt = "yuv420p"
        params = f"scenecut=0:threads=1:open-gop={int(open_gop)}"
        stream.options = {"crf": "14", "preset": "veryfast", "g": str(gop), "bf": str(b_frames), "x264-params": params}
        for number in range(frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_directory(root: Path, clips: dict[str, tuple[str, str]], glosses: list[str], **instance: object) -> Path:
    """Annotation list, split file and class list for ``clips`` {id: (split, gloss)}; the videos are the caller's."""
    root.mkdir(parents=True, exist_ok=True)
    entries = [{"gloss": gloss, "instances": []} for gloss in glosses]
    split_file = {}
    for video_id, (split, gloss) in clips.items():
        label = glosses.index(gloss)
        entries[label]["instances"].append(
            {"bbox": [0, 0, SIDE, SIDE], "fps": 25, "frame_start": 1, "frame_end": -1, "signer_id": 3, "split": split}
            | {"video_id": video_id, "url": ""}
            | instance
        )
        split_file[video_id] = {"subset": split, "action": [label, 1, 10]}
    (root / "signs_v1.json").write_text(json.dumps(entries))
    (root / f"nslt_{len(glosses)}.json").write_text(json.dumps(split_file))
    (root / "wlasl_class_list.txt").write_text("".join(f"{label}\t{gloss}\n" for label, gloss in enumerate(glosses)))
    return root


def shared_data(name: str) -> Path:
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / name
    if not path.is_dir():
        pytest.skip(f"no real data: {name} is not beside the checkout")
    return path
