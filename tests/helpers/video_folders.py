"""Directories of videos in many layouts. The videos are a few bytes: an import opens none."""

import csv
import json
import os

from models.data.layouts.layout import MANIFEST_NAME
from models.data.wlasl import SPLITS

WORDS = ("book", "walk")


def put(root, *paths):
    """Write videos with different contents."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.fsencode(file))
    return root


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def class_folders(root, per_class=6, words=WORDS):
    return put(root, *(f"{word}/{number}.mp4" for word in words for number in range(per_class)))


def rows_of(directory):
    with (directory / MANIFEST_NAME).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def labels_of(manifest):
    return {clip.video_id: clip.gloss for split in SPLITS for clip in manifest.clips[split]}


def splits_of(manifest):
    return {clip.video_id: split for split in SPLITS for clip in manifest.clips[split]}


def ucf(root):
    put(root / "UCF-101", *(f"{word}/v_{word}_g{g:02}_c{c:02}.avi" for word in WORDS for g in range(4) for c in (1, 2)))
    lists = root / "ucfTrainTestlist"
    write(lists / "classInd.txt", "1 book\n2 walk\n")
    for fold, held_out in ((1, 0), (2, 1)):
        listed = [
            (f"{word}/v_{word}_g{g:02}_c{c:02}.avi", g, number)
            for number, word in enumerate(WORDS, 1)
            for g in range(4)
            for c in (1, 2)
        ]
        write(lists / f"trainlist{fold:02}.txt", "".join(f"{p} {n}\r\n" for p, g, n in listed if g != held_out))
        write(lists / f"testlist{fold:02}.txt", "".join(f"{p}\r\n" for p, g, _ in listed if g == held_out))


def kinetics(root):
    put(root, *(f"videos/{word}/id{word}{n}_000007_000017.mp4" for word in WORDS for n in range(2)))
    lines = [f"{word},id{word}{n},7,17,{split}\n" for word in WORDS for n, split in enumerate(("train", "validate"))]
    write(root / "kinetics.csv", "label,youtube_id,time_start,time_end,split\n" + "".join(lines))


def flat(root):
    put(root, *(f"{number}.mp4" for number in range(8)))
    write(root / "my labels.csv", "path;label\n" + "".join(f"{n}.mp4;{WORDS[n % 2]}\n" for n in range(8)))


def metadata(root):
    for split in ("train", "validation"):
        put(root / split, "0.mp4", "1.mp4")
        write(root / split / "metadata.csv", "file_name,label\n0.mp4,book\n1.mp4,walk\n")


def json_lines(root):
    put(root, *(f"{n}.mp4" for n in range(8)))
    lines = [json.dumps({"file_name": f"{n}.mp4", "label": WORDS[n % 2]}) for n in range(8)]
    write(root / "metadata.jsonl", "\n".join(lines) + "\n")


def no_header(root):
    put(root, *(f"signer0_sample{n}_color.mp4" for n in range(4)))
    for split, numbers in (("train", (0, 1)), ("val", (2, 3))):
        write(root / f"{split}_labels.csv", "".join(f"signer0_sample{n}_color,{40 + n % 2}\n" for n in numbers))
    write(root / "SignList_ClassId_TR_EN.csv", "ClassId,TR,EN\n40,book,kitap\n41,walk,yurumek\n")


def participants(root):
    put(root / "videos", *(f"{n}.mp4" for n in range(4)))
    header = "\ufeffParticipant ID,Video file,Gloss,ASL-LEX Code\n"
    for split, numbers in (("train", (0, 1)), ("val", (2, 3))):
        lines = [f"P{n},{n}.mp4,{WORDS[n % 2]},B_{n}\n" for n in numbers]
        write(root / "splits" / f"{split}.csv", header + "".join(lines))


def with_splits(root):
    put(root, *(f"{split}/{word}/{n}.mp4" for split in ("training", "Valid", "test") for word in WORDS for n in "12"))
