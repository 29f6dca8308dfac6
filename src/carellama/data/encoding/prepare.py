"""From the options to what a trainer takes: datasets read, encoded through the cache, mixed, packed.

    prepared = prepare(config, tokenizer, template)   # prepared.train, prepared.held_out, prepared.report

It also gives evaluation its conversations (`conversations`). It does no encoding itself (`encode`, `cache`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from carellama.config.data import DataOptions
from carellama.config.environment import cache_home
from carellama.config.run import RunOptions
from carellama.data.convert import BadRecord
from carellama.data.datasets import SKIP_HINT, Dataset, load_datasets
from carellama.data.encoding.encode import Encoder
from carellama.data.encoding.examples import Examples, chosen, mixed
from carellama.data.encoding.held_out import HeldOut, hold_out, record_of_entries, shared_records
from carellama.data.encoding.preference import AnswerEncoder
from carellama.data.encoding.token_cache import TokenStore, batch_of, encode_rows, finished, key_of, open_store
from carellama.data.encoding.token_stream import Mixing, TokenStream
from carellama.data.file_format import KIND_NAMES
from carellama.data.readers import BadRow, Row
from carellama.data.report import DataReport
from carellama.errors import UserError
from carellama.records import Chat, JSONObject, Pair, Record, Tokens
from carellama.stages import STAGES, Stage, other_records
from carellama.templates.template import Template
from carellama.text import counted, language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LANGUAGE_ROWS = 100  # of a dataset, whose language is looked at
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What a run trains on and is measured by, with the account of every record."""

    train: Examples | TokenStream
    held_out: Examples | list[list[Tokens]] | None
    report: DataReport
    sources: list[JSONObject]  # name, digest and counts of each dataset, for run.json
    packed: bool  # whole windows, rather than one record an example

    @property
    def streams(self) -> bool:
        """Whether the training data is encoded while training, and so not yet accounted for."""
        return not isinstance(self.train, Examples)

    @property
    def parts(self) -> dict[str, slice]:
        """The held-out examples of each dataset, by its name in metrics; {} for a single one."""
        return self.held_out.parts if isinstance(self.held_out, Examples) else {}

    def first(self) -> list[Tokens]:
        """One training example."""
        return self.train[0] if isinstance(self.train, Examples) else self.train.first()

    def settle(self) -> None:
        """Complete the account of a stream with what was read of it; call it once, after the training."""
        if isinstance(self.train, Examples):
            return
        self.report.merge(self.train.counted())
        self.train.forget()
        limit = self.train.mixing.max_samples
        for name in (dataset.name for dataset in self.train.datasets if dataset.name in self.report.datasets):
            if limit is not None:
                self.report.say(name, f"reading ended after {counted(limit, 'row')} at most, as --max_samples says")
            if shared := self.report.datasets[name].shared:
                line = f"{counted(shared, 'record')} of those read also in --eval_dataset"
                self.report.say(name, line)
                log.warning("%s: %s: its loss is lower than that of new records", name, line)
        for source in self.sources:
            if source["tokens"] is None and source["name"] in self.report.datasets:
                counts = self.report.datasets[source["name"]]
                source |= {"rows": counts.rows, "used": counts.used}


class RowEncoder:
    """Rows of one dataset to an Arrow batch of tokens and a report: convert, then encode as the stage needs it."""

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        stage: Stage,
        data: DataOptions,
    ) -> None:
        self.dataset = dataset
        self.stage = stage
        encoder = Encoder(tokenizer, template, data.lengths)
        self.encoder: Encoder | AnswerEncoder = AnswerEncoder(encoder) if Pair in stage.records else encoder
        self.skips = data.on_bad_record == "skip"
        self.system = data.system_prompt
        self.last_only = data.mask_history

    def __call__(self, rows: Sequence[Row | BadRow]) -> tuple[pa.RecordBatch, DataReport]:
        """Return the tokens of the usable rows as an Arrow batch, and the account of all of them."""
        made, origins, report = self.encode(rows)
        return batch_of(made, origins), report

    def encode(self, rows: Sequence[Row | BadRow]) -> tuple[list[Tokens], list[int], DataReport]:
        """Return the tokens of the usable rows, the row each came from, and the account of all rows."""
        report, made, origins = DataReport(), list[Tokens](), list[int]()
        report.row(self.dataset.name, len(rows))
        records = {
            number: record for number, row in enumerate(rows) if (record := self._record(row, report)) is not None
        }
        for number, encoded in zip(records, self.encoder.encode(list(records.values())), strict=True):
            for note in encoded.notes:
                if note.kind == "skipped" and not self.skips:
                    raise BadRecord(note.place, note.reason, SKIP_HINT)
                report.note(self.dataset.name, note.kind, note.place, note.reason)
            made += encoded.tokens
            origins += [number] * len(encoded.tokens)
        return made, origins, report

    def _record(self, row: Row | BadRow, report: DataReport) -> Record | None:
        """The record of a row; None when it was counted as skipped. Raises `BadRecord` unless skipping."""
        stage = self.stage
        try:
            record = self.dataset.record(row, self.system)
            if not isinstance(record, stage.records):
                raise BadRecord(row.place, other_records(stage, type(record), KIND_NAMES[type(record)]))
            if isinstance(record, Chat) and record.good is None and stage.needs_judged_answers:
                takes = f"--stage {stage.name} takes {stage.record_label}"
                raise BadRecord(row.place, takes, f"nobody judged this one; those of {stage.example} are judged")
            if isinstance(record, Chat) and record.good is False and stage.refuses_bad_answers:
                raise BadRecord(row.place, "an answer that was found bad is not learned")
            return last_answer_only(record) if self.last_only and isinstance(record, Chat) else record
        except BadRecord as error:
            if not self.skips:
                raise (error.with_hint(SKIP_HINT) if takes_kind(stage, self.dataset) else error) from error
            report.note(self.dataset.name, "skipped", error.place, error.reason)
            return None


def takes_kind(stage: Stage, dataset: Dataset) -> bool:
    """Whether a stage takes some rows of a dataset: of one of another kind, none are left where they are skipped."""
    kind = dataset.format.kind
    return kind is None or issubclass(kind, stage.records)


def last_answer_only(record: Chat) -> Chat:
    """The conversation without its earlier answers as something to learn. Raises `BadRecord` where nothing is left."""
    if not record.messages[-1].learned:
        raise BadRecord(record.place, "no answer is learned", "--mask_history leaves the last one, which has weight 0")
    earlier = (replace(message, learned=False) for message in record.messages[:-1])
    return replace(record, messages=(*earlier, record.messages[-1]))


def encode_dataset(
    dataset: Dataset, options: RunOptions, tokenizer: PreTrainedTokenizerBase, template: Template, limit: int | None
) -> tuple[TokenStore, DataReport, dict[str, object]]:
    """Return the tokens of a dataset's first rows (encoding what is not cached), their report, and its entry for
    run.json. `limit`: how many rows, None for all."""
    data, stage = options.data, options.stage
    digest = dataset.digest()
    backend = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    key = key_of(
        digest, dataset.name, dataset.format.columns, dataset.format.row_format, dataset.system or data.system_prompt,
        stage.name, backend, template.jinja, template.stops, template.stop_ids, data.lengths, limit,
        data.on_bad_record, data.mask_history,
    )  # fmt: skip
    folder = Path(data.data_cache_dir or cache_home() / "tokens") / key
    if data.overwrite_cache and options.training.local_process_index == 0:  # the others read what this one writes
        shutil.rmtree(folder, ignore_errors=True)
    report = finished(folder)
    if report is None:
        rows, encode = itertools.islice(dataset.rows(), limit), RowEncoder(dataset, tokenizer, template, stage, data)
        report = encode_rows(rows, encode, folder, workers=data.preprocessing_num_workers, name=dataset.name)
    store = open_store(folder, dataset.name)
    return store, report, _source(dataset, report, store)


def _source(dataset: Dataset, report: DataReport | None, store: TokenStore | None) -> dict[str, object]:
    """Return a dataset's entry in run.json. Of a stream the counts are not known yet, nor is the SHA-1 of files that
    were not checked: only a whole read would show it, so their sizes and times identify them."""
    counts = report.datasets[dataset.name] if report else None
    return {
        "name": dataset.name,
        "where": dataset.where,
        "hub": dataset.hub,
        "languages": _languages(dataset),
        "licence": dataset.licence,
        "sha1": dataset.digest() if store or dataset.checked else None,
        "files": [
            {"name": path.name, "bytes": path.stat().st_size, "modified": int(path.stat().st_mtime)}
            for path in dataset.files
        ],
        "rows": counts.rows if counts else None,
        "used": counts.used if counts else None,
        "tokens": int(store.lengths.sum()) if store else None,
    }


def _languages(dataset: Dataset) -> list[str]:
    """Return which of Chinese and English a tenth or more of the dataset's first rows are in, the most used first."""
    seen: Counter[str] = Counter()
    for row in itertools.islice(dataset.rows(), LANGUAGE_ROWS):
        if isinstance(row, Row):
            found = language(json.dumps(list(row.fields.values()), ensure_ascii=False, default=str))
            seen.update(("zh", "en") if found == "mixed" else (found,))
    return [name for name, count in seen.most_common() if name in ("zh", "en") and count * 10 >= seen.total()]


def data_seed(options: RunOptions) -> int:
    """What the order of the data depends on."""
    training = options.training
    return int(training.seed if training.data_seed is None else training.data_seed)


def prepare(options: RunOptions, tokenizer: PreTrainedTokenizerBase, template: Template) -> Prepared:
    """Encode, mix, hold out and pack the datasets of a run. Raises `UserError` before anything is trained."""
    data, stage, seed = options.data, options.stage, data_seed(options)
    packed = data.packing if data.packing is not None else stage.packs_by_default
    window = data.lengths.total if packed else None
    width = stage.examples_per_record
    encoding = _Encoding(options, tokenizer, template)
    if data.streaming and options.training.do_train:
        return _prepare_stream(options, encoding, window, width, packed=packed)
    limit = data.max_samples if options.training.do_train else data.eval_limit
    stores = encoding.stores(data.datasets, limit)
    if stage.needs_judged_answers and options.training.do_train:
        _both_kinds(stores, stage)
    entries = [np.arange(len(store) // width) for store in stores]
    out = None
    if data.eval_dataset:
        out = encoding.evaluated(width)
        if options.training.do_train:
            encoding.count_shared(out.stores, stores)
    elif data.val_size:
        held = hold_out(stores, data.val_size, seed, width)
        entries, out = held.train, chosen(stores, held.entries, width)
        encoding.count_held_out(stores, held, out)
    if not options.training.do_train:  # each record once, whatever the mix
        every = mixed(stores, entries, width=width)
        return Prepared(every, every if out is None else out, encoding.report, encoding.sources, packed)
    train = mixed(stores, entries, data.mix_strategy, data.probabilities, seed, window=window, width=width)
    encoding.count_shares(stores, train, data.mix_strategy)
    return Prepared(train, out, encoding.report, encoding.sources, packed)


class _Encoding:
    """Encodes the datasets of a run, each once, with the report of all and their entries for run.json."""

    def __init__(self, options: RunOptions, tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
        self.options, self.tokenizer, self.template = options, tokenizer, template
        self.report = DataReport()
        self.sources: list[dict[str, object]] = []
        self._names: dict[Path, str] = {}  # folder of a store -> its name in the report

    def stores(self, names: list[str], limit: int | None) -> list[TokenStore]:
        """Return the tokens of these datasets, counted in the report unless they are there already."""
        found: list[TokenStore] = []
        for dataset in load_datasets(names, self.options.data):
            store, counts, entry = encode_dataset(dataset, self.options, self.tokenizer, self.template, limit)
            if not len(store):
                raise UserError(f"dataset {dataset.name!r}: no row could be used; see {'; '.join(counts.lines()[1:])}")
            folder = store.shards[0].parent
            if folder not in self._names:
                most = self.options.data.max_samples
                name = self.report.add_dataset(dataset.name, counts, dataset.remarks(), limit, most)
                self._names[folder] = name
                self.sources.append(entry | {"name": name})
            elif any(other.shards == store.shards for other in found):
                self.report.say(self._names[folder], "named more than once: its records are used as often")
                log.warning("dataset %r is named more than once: its records are used as often", dataset.name)
            found.append(store)
        return found

    def evaluated(self, width: int) -> Examples:
        """Return the examples of --eval_dataset, each once."""
        data = self.options.data
        stores = self.stores(data.eval_datasets, data.max_eval_samples)
        return mixed(stores, [np.arange(len(store) // width) for store in stores], width=width)

    def _say(self, store: TokenStore, line: str) -> None:
        self.report.say(self._names[store.shards[0].parent], line)

    def count_shared(self, others: Sequence[TokenStore], stores: Sequence[TokenStore]) -> None:
        """Say how many records of --eval_dataset are trained on too."""
        for store in others:
            shared, records = shared_records(store, stores), len(store.record_starts())
            if shared:
                line = f"{shared} of {counted(records, 'record')} of --eval_dataset are also in the training data"
                self._say(store, line)
                log.warning("%s: %s: its loss is lower than that of new records", store.name, line)

    def count_held_out(self, stores: Sequence[TokenStore], held: HeldOut, out: Examples) -> None:
        """Say how many records are held out, and how many copies of them are left out."""
        for number, store in enumerate(stores):
            entries = held.entries[held.entries[:, 0] == number, 1]
            records = len(np.unique(record_of_entries(store, out.width)[entries]))
            self._say(store, f"{counted(records, 'record')} held out for evaluation")
            if held.copies[number]:
                self._say(
                    store, f"{counted(held.copies[number], 'copy', 'copies')} of held-out records left out of training"
                )
        if any(held.copies):
            log.warning(
                "--val_size: %d records are equal to held-out ones and are left out of training", sum(held.copies)
            )

    def count_shares(self, stores: Sequence[TokenStore], train: Examples, strategy: str) -> None:
        """Say what an epoch takes of each dataset where a mix takes a part of it, or repeats it."""
        for store, share in zip(stores, train.shares, strict=True):
            if share.taken < share.size:
                how = "others in each" if train.rotates else "the same in each, as they are packed"
                self._say(store, f"{share.taken} of {counted(share.size, 'example')} in an epoch ({strategy}), {how}")
            elif share.taken > share.size:
                self._say(
                    store, f"{counted(share.taken, 'example')} in an epoch, repeated from {share.size} ({strategy})"
                )


def _both_kinds(stores: Sequence[TokenStore], stage: Stage) -> None:
    """Raise `UserError` where all answers of the data are good, or all are bad: nothing is told apart then."""
    kinds = {bool(kind) for store in stores for kind in np.unique(store.good)}
    if len(kinds) == 1:
        raise UserError(
            f"--stage {stage.name} learns from good and bad answers, and all {sum(map(len, stores)):,} of the data are "
            f"{'good' if kinds == {True} else 'bad'}, from {stores[0][0].source} on"
        )


def _prepare_stream(
    options: RunOptions, encoding: _Encoding, window: int | None, width: int, *, packed: bool
) -> Prepared:
    """Prepare the datasets of a run as a stream, and encode those that it is evaluated on."""
    data = options.data
    datasets = load_datasets(data.datasets, data)
    encoders = [
        RowEncoder(dataset, encoding.tokenizer, encoding.template, options.stage, data).encode for dataset in datasets
    ]
    mixing = Mixing(
        data.mix_strategy, data.probabilities, data_seed(options), data.buffer_size, window, data.max_samples, width
    )
    stream = TokenStream(datasets, encoders, mixing, Path(options.training.output_dir) / ".stream")
    if options.training.should_save:
        stream.forget()  # of an earlier run
    held: Examples | list[list[Tokens]] | None = None
    if data.eval_dataset:
        held = encoding.evaluated(width)
        stream.evaluated = frozenset(np.concatenate([store.record_hashes() for store in held.stores]).tolist())
    elif data.val_size:
        held, counts = stream.hold_out(int(data.val_size))
        encoding.report.merge(counts)
    for dataset in datasets:
        encoding.report.row(dataset.name, 0)
        encoding.report.say_all(dataset.name, dataset.remarks())
    sources = encoding.sources + [_source(dataset, None, None) for dataset in datasets]
    return Prepared(stream, held, encoding.report, sources, packed)


def conversations(options: RunOptions) -> list[Chat]:
    """The conversations that --do_predict answers: those of --eval_dataset if given, else of --dataset."""
    data = options.data
    found: list[Chat] = []
    report = DataReport()
    limit = data.max_eval_samples if data.eval_dataset else data.eval_limit
    for dataset in load_datasets(data.eval_datasets or data.datasets, data):
        skips = data.on_bad_record == "skip"
        for record in dataset.records(report, skips=skips, system=data.system_prompt, limit=limit):
            if not isinstance(record, Chat):
                kind = KIND_NAMES[type(record)]
                raise UserError(
                    f"{record.place}: --do_predict takes conversations, and these rows are {kind}: give data such as "
                    f"{STAGES['sft'].example}"
                )
            found.append(record)
    if len(found) < sum(entry.rows for entry in report.datasets.values()):
        for line in report.lines():
            log.warning("predict: %s", line)
    if not found:
        raise UserError("--do_predict: no conversation could be used")
    return found
