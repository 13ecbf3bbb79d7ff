"""prepare() on a small Ray cluster: cache, counts, identical bytes, the split, errors as they are."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raysft.data.prepare import assemble as manifest_module
from raysft.data.prepare import prepare as prepare_module
from raysft.data.prepare.prepare import prepare
from raysft.data.read import sources
from raysft.data.store.parts import TokenStore
from raysft.data.text.tokenizer import train_tokenizer
from raysft.errors import DataError, StorageError
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.model import ModelSection

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

RECORDS = [{"instruction": f"reverse {i % 150}", "output": f"answer {i}: " + "x " * (i % 40)} for i in range(600)]


def lines(records: list[dict[str, str]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "a.jsonl").write_text(lines(RECORDS))
    out = str(folder / "tok")
    train_tokenizer([str(folder / "a.jsonl")], columns={}, vocab_size=400, template="chatml", out=out)
    return out


@pytest.fixture
def recipe(tmp_path: Path, tokenizer: str):
    (tmp_path / "a.jsonl").write_text(lines(RECORDS))

    def make(storage: str = "store", **data: object) -> Recipe:
        section = {"train": (str(tmp_path / "a.jsonl"),), "max_tokens": 128, **data}
        return Recipe(
            name="r",
            storage=str(tmp_path / storage),
            model=ModelSection(source="random", tokenizer=tokenizer),
            data=DataSection(**section),
        )

    return make


def sample_ids(location: str) -> list[int]:
    store = TokenStore.open(location)
    rows = store.read_rows(range(store.num_rows))
    return sorted(int(i) for row in rows for i in row.segment_fields["sample_id"])


def test_a_second_run_is_a_cache_hit(recipe, monkeypatch):
    seen: list[tuple[str, int, int]] = []
    first = prepare(recipe(), progress=lambda *state: seen.append(state))
    assert first.eval is None
    assert seen == [("shards", 1, 1), ("parts", 1, 1)]
    counts = first.train_manifest["counts"]
    assert counts["records_read"] == counts["examples"] == counts["occurrences"] == 600
    assert counts["straddles"] == 0
    assert counts["tokens"] > counts["target_tokens"] == counts["target_tokens_by_role"]["assistant"] > 0
    assert counts["sources"]["a"]["target_tokens"] == counts["target_tokens"]
    assert first.train_manifest["proof"]["unpacked_samples"] == 600
    assert len(sample_ids(first.train)) == len(set(sample_ids(first.train))) == 600

    monkeypatch.setattr(prepare_module, "_make", None)
    assert prepare(recipe()) == first
    monkeypatch.undo()
    assert prepare(recipe(train_on="last")).train != first.train


def names_and_bytes(store: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(store).iterdir()}


RULES = [{"rule": "exact_duplicates"}, {"rule": "near_duplicates", "threshold": 0.5, "ngram": 1}, {"rule": "leakage"}]


def test_the_same_bytes_however_the_work_is_cut(recipe, monkeypatch):
    monkeypatch.setattr(prepare_module, "WINDOW", 200)
    whole = prepare(recipe("one", eval_fraction=0.2, rules=RULES))
    monkeypatch.setattr(prepare_module, "plan_reads", lambda files: sources.plan_reads(files, 3000))
    cut = prepare(recipe("two", eval_fraction=0.2, rules=RULES))
    assert whole.train_manifest["counts"]["examples"] >= 2
    assert whole.train_manifest["counts"]["dropped"].keys() >= {"near_duplicates"}
    assert whole.train_manifest == cut.train_manifest
    assert whole.eval_manifest == cut.eval_manifest
    for one, two in ((whole.train, cut.train), (whole.eval, cut.eval)):
        first, second = (
            {name: data for name, data in names_and_bytes(store).items() if name != "rejects.jsonl"}
            if not Path(store, "duplicates").exists()
            else {p.name: p.read_bytes() for p in Path(store).iterdir() if p.is_file() and p.name != "rejects.jsonl"}
            for store in (one, two)
        )
        assert first == second


def test_a_killed_prepare_goes_on_with_its_finished_shards(recipe, monkeypatch):
    monkeypatch.setattr(prepare_module, "plan_reads", lambda files: sources.plan_reads(files, 3000))
    undisturbed = prepare(recipe("calm"))
    seen: list[tuple[str, int, int]] = []

    def die(what: str, done: int, total: int) -> None:
        seen.append((what, done, total))
        if (what, done) == ("shards", total - 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(recipe("killed"), progress=die)
    (work,) = Path(recipe("killed").storage).glob("tokens/work-*")
    finished = {path.name: path.stat().st_mtime_ns for path in (work / "all").glob("shard-*.arrow")}
    assert len(finished) >= seen[-1][1]
    kept: dict[str, int] = {}

    def look(what: str, done: int, total: int) -> None:
        if what == "shards" and done == total:
            kept.update({path.name: path.stat().st_mtime_ns for path in (work / "all").glob("shard-*.arrow")})

    again = prepare(recipe("killed"), progress=look)
    unchanged = [name for name, at in finished.items() if kept.get(name) == at]
    assert len(unchanged) >= seen[-1][1], "finished shards were not made again"
    assert again.train_manifest == undisturbed.train_manifest
    assert names_and_bytes(again.train) == names_and_bytes(undisturbed.train)
    assert not work.exists()


def test_two_prepares_at_once_do_the_work_once(recipe, monkeypatch):
    made: list[str] = []
    write = manifest_module.make_manifest
    monkeypatch.setattr(
        prepare_module,
        "make_manifest",
        lambda side, *rest, **more: made.append(side.name) or write(side, *rest, **more),
    )
    with ThreadPoolExecutor(3) as pool:
        first, *others = [asked.result(120) for asked in [pool.submit(prepare, recipe()) for _ in range(3)]]
    assert others == [first, first]
    assert made == ["train"]


def test_an_interrupted_store_is_made_again(recipe):
    first = prepare(recipe())
    before = names_and_bytes(first.train)
    (Path(first.train) / "manifest.json").unlink()
    (Path(first.train) / "part-00000.parquet").write_bytes(b"torn")
    assert prepare(recipe()) == first
    assert names_and_bytes(first.train) == before


def test_rules_mixture_and_rejects(recipe, tmp_path):
    """Counts by hand: 40 records of `hard`, of which 10 are copies and 5 carry an address; `easy` weighs 3 to 1."""
    hard = [{"instruction": f"problem {i % 30}", "output": f"solution {i % 30}"} for i in range(40)]
    mails = [{"instruction": f"write to a{i}@example.com please", "output": "done"} for i in range(5)]
    easy = [{"instruction": f"easy question {i}", "output": f"yes {i}"} for i in range(60)]
    (tmp_path / "hard.jsonl").write_text(lines(hard + mails))
    (tmp_path / "easy.jsonl").write_text(lines(easy) + "broken\n")
    found = prepare(
        recipe(
            train=[
                {"path": str(tmp_path / "hard.jsonl"), "weight": 1.0},
                {"path": str(tmp_path / "easy.jsonl"), "weight": 3.0, "name": "simple"},
            ],
            rules=[{"rule": "pii", "kinds": ["email"], "action": "drop"}, {"rule": "exact_duplicates"}],
        )
    )
    counts = found.train_manifest["counts"]
    assert counts["refused"] == {"malformed_json": 1, "pii:email": 5}
    assert counts["dropped"] == {"exact_duplicates": 10}
    assert counts["findings"]["pii.email"] == 5
    sources_ = {name: source["samples"] for name, source in counts["sources"].items()}
    assert sum(sources_.values()) == 30 + 60
    assert sources_["simple"] in (67, 68)  # 3/4 of 90
    ids = Counter(sample_ids(found.train))
    assert max(ids.values()) == 2, "some of the 60 came twice"
    rejects = [json.loads(line) for line in (Path(found.train) / "rejects.jsonl").read_text().splitlines()]
    assert Counter(reject["reason"] for reject in rejects) == {
        "pii:email": 5,
        "malformed_json": 1,
        "exact_duplicates": 10,
    }
    assert "example.com" not in (Path(found.train) / "rejects.jsonl").read_text()
    copies = [reject for reject in rejects if reject["reason"] == "exact_duplicates"]
    assert copies[0]["like"] == f"{tmp_path}/hard.jsonl:0"


def test_leakage_compares_with_held_out_files(recipe, tmp_path):
    (tmp_path / "held.jsonl").write_text(lines(RECORDS[:7]))
    data = {"eval": (str(tmp_path / "held.jsonl"),), "rules": [{"rule": "leakage"}]}
    found = prepare(recipe(**data))
    assert found.train_manifest["counts"]["dropped"] == {"leakage": 28}  # 150 prompts, each 4 times
    (tmp_path / "held.jsonl").write_text(lines(RECORDS[:8]))
    assert prepare(recipe(**data)).train_manifest["counts"]["dropped"] == {"leakage": 32}


def test_the_split_is_disjoint_by_prompt(recipe):
    found = prepare(recipe(eval_fraction=0.2))
    train, held_out = sample_ids(found.train), sample_ids(found.eval)
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 600
    prompt = {}
    offset = 0
    for record in RECORDS:
        prompt[offset] = record["instruction"]
        offset += len(json.dumps(record)) + 1
    assert not {prompt[i] for i in train} & {prompt[i] for i in held_out}
    listed = [json.loads(line) for line in (Path(found.eval) / "prompts.jsonl").read_text().splitlines()]
    assert sorted(entry["sample_id"] for entry in listed) == held_out
    assert all(prompt[entry["sample_id"]] in entry["prompt"] for entry in listed)
    assert listed[0]["prompt"].endswith("<|im_start|>assistant\n")
    assert listed[0]["answer"].startswith("answer ")


def test_held_out_files(recipe, tmp_path):
    (tmp_path / "held.jsonl").write_text(lines(RECORDS[:20]))
    found = prepare(recipe(eval=(str(tmp_path / "held.jsonl"),)))
    assert found.train_manifest["counts"]["examples"] == 600
    assert found.eval_manifest["counts"]["examples"] == found.eval_manifest["prompts"] == 20
    assert prepare(recipe()).train == found.train, "the training store does not depend on the held-out files"


def test_bad_records_are_counted_or_fatal(recipe, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(lines(RECORDS[:3]) + '{"instruction": \n' + lines(RECORDS[3:5]) + '{"messages": []}\n')
    found = prepare(recipe(train=(str(path),)))
    assert found.train_manifest["counts"]["refused"] == {"malformed_json": 1, "no_assistant_turn": 1}
    assert found.train_manifest["counts"]["records_read"] == 7
    assert found.train_manifest["refusals"]["malformed_json"][0]["where"] == f"{path}:4"
    with pytest.raises(DataError, match=r"bad\.jsonl:4") as caught:
        prepare(recipe(train=(str(path),), on_bad_record="fail"))
    assert "malformed_json" in caught.value.got


def test_nothing_left_says_why(recipe):
    with pytest.raises(DataError, match="no sample is left of 600 records") as caught:
        prepare(recipe(max_tokens=8))
    assert "600 x over_long (first: " in caught.value.got
    with pytest.raises(DataError, match="no sample is held out"):
        prepare(recipe(eval_fraction=1e-9))
    with pytest.raises(DataError, match="every sample is held out"):
        prepare(recipe(eval_fraction=0.9999999))


def test_a_storage_that_cannot_be_written_is_found_at_once(recipe, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(prepare_module, "_make", None)
    with pytest.raises(StorageError, match="cannot write"):
        prepare(recipe("file/store"))


def test_errors_of_tasks_arrive_as_they_are(recipe, tmp_path):
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(DataError, match="not valid JSON") as caught:
        prepare(recipe(train=(str(tmp_path / "broken.json"),)))
    assert type(caught.value) is DataError
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}{{ m.content | reverse }}{% endfor %}")
    with pytest.raises(DataError, match="no sample is left") as caught:
        prepare(recipe(template=str(template)))
    assert "600 x left_out" in caught.value.got
