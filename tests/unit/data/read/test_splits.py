"""Which files of a folder are for training, by their names."""

from __future__ import annotations

import pytest

from raysft.data.read.splits import choose_split, split_of
from raysft.errors import DataError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("gsm8k_train.jsonl.gz", "train"),
        ("Train/a.jsonl", "train"),
        ("data/train-00000-of-00002.parquet", "train"),
        ("data/train-00000-of-00002-0123456789abcdef.parquet", "train"),
        ("data/train_sft-00000-of-00002.parquet", "train_sft"),
        ("c4-train.00000-of-01024.json.gz", "train"),
        ("en/validation/0000.parquet", "validation"),
        ("dev.json", "validation"),
        ("my-val-2.csv", "validation"),
        ("testing/x.csv", "test"),
        ("v1.2_test.jsonl", "test"),
        ("test/data-00000-of-00001.arrow", "test"),
        ("data-00000-of-00001.arrow", ""),
        ("train-test.jsonl", ""),
        ("pretrain.jsonl", ""),
        ("contest.jsonl", ""),
        ("latest.jsonl", ""),
        ("developer.jsonl", ""),
        ("a.jsonl", ""),
    ],
)
def test_the_split_of_a_name(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("names", "for_train", "for_eval"),
    [
        ("a b", "a b", "a b"),
        ("train", "train", "train"),
        ("train-1 train-2 extra", "train-1 train-2 extra", None),
        ("train test", "train", "test"),
        ("train/1 train/2 dev/1 test/1", "train/1 train/2", "dev/1"),
        ("train test extra", "train", "test"),
        ("test", "test", "test"),
        ("test dev", None, "dev"),
        ("test extra", None, "test"),
        ("x/train x/test y/train y/test", "x/train y/train", "x/test y/test"),
        ("train_sft-00000-of-00001 test_sft-00000-of-00001 train_gen-00000-of-00001", None, None),
        ("train_sft-00000-of-00002 train_sft-00001-of-00002", "*", "*"),
        ("main/train-00000-of-00001 main/test-00000-of-00001 socratic/train-00000-of-00001", None, "main/test*"),
        ("main/train-00000-of-00001 socratic/train-00000-of-00001", None, None),
        ("a/data-00000-of-00001 b/data-00000-of-00001", "*", "*"),
    ],
)
def test_what_is_read(names, for_train, for_eval):
    listed = [f"{name}.parquet" for name in names.split()]
    for purpose, wanted in (("train", for_train), ("eval", for_eval)):
        if wanted is None:
            with pytest.raises(DataError, match=r"holds (several|named)(.|\n)*fix: name the"):
                choose_split("/data", listed, purpose)
            continue
        chosen = choose_split("/data", listed, purpose)
        if wanted.endswith("*"):
            expected = [name for name in listed if name.startswith(wanted[:-1])]
        else:
            expected = [f"{name}.parquet" for name in wanted.split()]
        assert [listed[place] for place in chosen.places] == expected, purpose
        left = [place for places in chosen.others.values() for place in places]
        assert sorted([*chosen.places, *left]) == list(range(len(listed))), "each is read or named"


def test_the_fix_names_a_pattern_that_reads_one_split():
    names = [f"data/{split}-0000{i}-of-00002.parquet" for split in ("train_gen", "train_sft") for i in (0, 1)]
    with pytest.raises(DataError, match=r"/data/set/data/train_gen-\*\.parquet"):
        choose_split("/data/set", names, "train")
