"""Divides clips into training, validation and test: by signer, or by recording, always the same way. No torch."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from models.data.layouts.rows import Clip
from models.data.left_out import Split
from slr_bench.errors import DataError
from slr_bench.units import format_count

_CUT = re.compile(r"^(.+?)(?:[_-](?:c|clip|part|seg|segment)[_-]?\d+|_\d{1,6}_\d{1,6})$", re.IGNORECASE)
"""Name of a clip that was cut out of a recording: ``v_Archery_g01_c03`` (UCF), ``<id>_000010_000020`` (Kinetics)."""


_FEW = 5
"""Recordings of a class, or signers, below which none is for test."""


class Fractions(NamedTuple):
    """Parts of the recordings, or of the signers, that are not for training."""

    val: float = 0.15
    test: float = 0.15


class Division(NamedTuple):
    """The split of each clip."""

    splits: list[Split]
    by: str
    """The unit that comes into one split as a whole: ``signer`` or ``recording``; ``given`` if nothing was drawn."""
    notices: list[str]


def divide(
    clips: Sequence[Clip],
    same_file: dict[str, str],
    fractions: Fractions,
    seed: int,
    earlier: Mapping[str, Split] = MappingProxyType({}),
) -> Division:
    """Return the split of each clip, drawn where it is not given. Equal arguments give equal splits.

    A clip of an earlier division keeps its split, and so does its signer or recording.

    A validation split that is missing beside training and test is drawn from training. Clips of one signer, if all are
    known, or else of one recording, come into one split.

    Args:
        clips: all clips.
        same_file: file of a clip -> the first file with the same content.
        fractions: parts for validation and test.
        seed: another one gives another division.
        earlier: id of a clip -> its split in an earlier division.

    Raises:
        DataError: no clip is left for validation.
    """
    given = [clip.row.split for clip in clips]
    if None not in given:
        splits = [split for split in given if split is not None]
        if "val" in splits or "train" not in splits:
            return Division(splits, "given", [])
        places = [place for place, split in enumerate(splits) if split == "train"]
        kept = {video_id: split for video_id, split in earlier.items() if split != "test"}
        drawn = _drawn([clips[place] for place in places], same_file, fractions._replace(test=0.0), seed, kept)
        for place, split in zip(places, drawn.splits, strict=True):
            splits[place] = split
        notice = f"no validation split is given, so one is taken from training, by {drawn.by}"
        return Division(splits, "given", [notice, *drawn.notices])
    return _drawn(clips, same_file, fractions, seed, earlier)


def _drawn(
    clips: Sequence[Clip], same_file: dict[str, str], fractions: Fractions, seed: int, earlier: Mapping[str, Split]
) -> Division:
    signers = [clip.row.signer for clip in clips]
    known, notices = {signer for signer in signers if signer}, []
    by = "signer" if len(known) > 1 and all(signers) else "recording"
    if by == "signer":
        groups = [signer or "" for signer in signers]
        labelled = {"": set(groups)}
    else:
        groups = [_recording(clip, same_file) for clip in clips]
        labelled = defaultdict(set)
        for clip, group in zip(clips, groups, strict=True):
            labelled[clip.row.label].add(group)
        if known:
            unknown = sum(not signer for signer in signers)
            reason = f"no signer is named for {format_count(unknown, 'clip')}" if unknown else "there is one signer"
            notices.append(f"{reason}, so clips are divided by recording: accuracy on other people is not measured")
    kept = {
        group: earlier[clip.video_id] for clip, group in zip(clips, groups, strict=True) if clip.video_id in earlier
    }
    chosen = _choose(labelled, fractions, seed, kept)
    splits = [earlier.get(clip.video_id, chosen[group]) for clip, group in zip(clips, groups, strict=True)]
    if "val" not in splits:
        raise DataError(
            f"no clip is left for validation: each class has one {by} only; add clips, or give the splits in a table "
            "with the columns path,label,split"
        )
    if fractions.test and "test" not in splits:
        notices.append(
            f"no clip is for test, because {'there are' if by == 'signer' else 'each class has'} fewer than {_FEW} "
            f"{by}s; evaluate with --split val"
        )
    return Division(splits, by, notices)


def _choose(
    labelled: dict[str, set[str]], fractions: Fractions, seed: int, kept: Mapping[str, Split]
) -> dict[str, Split]:
    """Return the split of each group, class by class, those with few groups first; ``kept`` ones stay."""
    chosen = dict(kept)
    for _, groups in sorted(labelled.items(), key=lambda item: (len(item[1]), item[0])):
        # A hash, not a shuffle: clips that are added later do not move the others.
        members = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode()).digest())
        free = [group for group in members if group not in chosen]
        for split, count in _counts(len(members), fractions).items():
            missing = max(0, count - sum(chosen.get(group) == split for group in members))
            chosen |= dict.fromkeys(free[:missing], split)
            free = free[missing:]
        chosen |= dict.fromkeys(free, "train")
    return chosen


def _counts(groups: int, fractions: Fractions) -> dict[Split, int]:
    """Return how many of a class's groups are for validation and test; most of a few groups are for training."""
    val = min(groups - 1, max(1, round(groups * fractions.val))) if fractions.val else 0
    test = min(groups - 1 - val, max(1, round(groups * fractions.test))) if fractions.test and groups >= _FEW else 0
    return {"val": val, "test": test}


def _recording(clip: Clip, same_file: dict[str, str]) -> str:
    """Return a name of the recording that a clip is from."""
    assert clip.file is not None, "only clips with a file are divided"
    path = same_file.get(str(clip.file.path), clip.video_id.partition("@")[0])
    folder, slash, name = path.rpartition("/")
    stem = name.rpartition(".")[0] or name
    cut = _CUT.match(stem)
    return folder + slash + (cut[1] if cut else stem)
