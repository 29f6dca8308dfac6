"""`carellama data synthesize`: question and answer, consultations, rewritings and preference pairs, by a model.

    carellama data synthesize data/knowledge --task qa --records 50 --endpoint http://localhost:8000/v1 --model NAME

What comes of it is written by a machine: read some of it before training on it. Replies that cannot be used are
counted by reason and listed in the account, OUTPUT.json, without their text; nothing is repaired.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from carellama.batch.output import Output, asked_in
from carellama.batch.tasks import TASKS, Ask, Unusable, Work, version
from carellama.batch.work_items import Piece, pieces, questions_of
from carellama.config.data_commands import SynthesizeOptions
from carellama.config.environment import endpoint_key
from carellama.config.reader import parse_options
from carellama.engine.base import Engine, PreparedPrompt, PromptTooLong, Reply, Sampling
from carellama.engine.generate import generate
from carellama.errors import UserError
from carellama.files import print_status, write_json
from carellama.records import Chat, JSONObject, Pair, Place
from carellama.run_record import as_trained
from carellama.text import counted, folded


@dataclass
class Account:
    """What was asked, written and left out, and what it took."""

    asked: int = 0  # pieces of work
    written: int = 0
    done_before: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason -> places
    tokens: dict[str, list[int]] = field(default_factory=lambda: {"model": [0, 0], "judge": [0, 0]})

    def skip(self, reason: str, place: Place) -> None:
        """Count something that no record comes of."""
        self.skipped.setdefault(reason, []).append(str(place))

    def as_json(self, arguments: SynthesizeOptions) -> JSONObject:
        """The account as plain values; `cost` where prices were given."""
        found: dict[str, object] = {
            "task": arguments.task, "sources": arguments.sources, "prompts": version(),
            "asked": self.asked, "written": self.written, "done_before": self.done_before,
            "skipped": {reason: {"count": len(at), "places": at} for reason, at in sorted(self.skipped.items())},
            "tokens": {of: dict(zip(("prompt", "completion"), n, strict=True)) for of, n in self.tokens.items()},
        }  # fmt: skip
        cost = self.cost(arguments)
        return found if cost is None else found | {"cost": cost}

    def cost(self, arguments: SynthesizeOptions) -> float | None:
        """In the unit of the prices; None where a price that is needed was not given."""
        own_judge = not (arguments.judge_endpoint or arguments.judge_model_name_or_path)
        prices = (arguments.price_in, arguments.price_out)
        judge_prices = prices if own_judge else (arguments.judge_price_in, arguments.judge_price_out)
        total = 0.0
        for of, (price_in, price_out) in (("model", prices), ("judge", judge_prices)):
            prompt, completion = self.tokens[of]
            if price_in is None or price_out is None:
                if prompt or completion or of == "model":
                    return None
                continue
            total += (prompt * price_in + completion * price_out) / 1e6
        return round(total, 6)


@dataclass
class ActivePiece:
    """A piece on its way: the generator of its task, what it asks next, the tokens so far."""

    piece: Piece
    work: Work
    ask: Ask
    tokens: list[int] = field(default_factory=lambda: [0, 0])


def run(argv: Sequence[str]) -> None:
    """Load the engines, make the records, write and print the account."""
    (arguments,) = parse_options((SynthesizeOptions,), argv, "carellama data synthesize SOURCES", positional="sources")
    output = Path(arguments.output)
    if output.exists() and not arguments.resume:  # before a model is loaded
        raise UserError(f"{output} is there already: give --resume to go on with it, or another --output")
    engine, name = _engine(arguments)
    judge, judge_name = engine, name
    if arguments.judge_endpoint or arguments.judge_model or arguments.judge_model_name_or_path:
        judge, judge_name = _engine(arguments, "judge_")
    synthesize(arguments, engine, name, judge, judge_name)


def _engine(arguments: SynthesizeOptions, prefix: str = "") -> tuple[Engine, str]:
    """An engine and the name that stands in the records; `prefix`: of the options that name it."""
    names = ("endpoint", "model", "model_name_or_path")
    endpoint, model, path = (getattr(arguments, prefix + name) for name in names)
    if (endpoint is None) == (path is None):
        raise UserError(
            f"give --{prefix}endpoint URL with --{prefix}model NAME, or --{prefix}model_name_or_path, and not both"
        )
    if endpoint is not None:
        if model is None:
            raise UserError(f"--{prefix}endpoint needs --{prefix}model NAME, a model that it has")
        from carellama.engine.openai.engine import OpenAIEngine

        made = OpenAIEngine(
            endpoint, model, key=endpoint_key(), parallel=arguments.parallel, timeout=arguments.timeout
        )  # fmt: skip
        print_status(f"texts of the sources are sent to {made.host}")
        return made, model
    if model is not None:
        raise UserError(f"--{prefix}model is that of an endpoint; a local one is --{prefix}model_name_or_path")
    from carellama.config.data import DataOptions
    from carellama.config.model import ModelOptions
    from carellama.engine.transformers.load import load

    assert path is not None
    own = not prefix  # the adapters and the template are those of the model that writes
    local = ModelOptions(path, checkpoint_dir=arguments.checkpoint_dir if own else None)
    data = as_trained(local, DataOptions(template=arguments.template if own else None))
    return load(local, data, batch_size=arguments.parallel), path


def synthesize(
    arguments: SynthesizeOptions, engine: Engine, name: str, judge: Engine | None = None, judge_name: str = ""
) -> Account:
    """Make the records with these engines; print and write the account, also when it ends before its time."""
    account = Account()
    path = Path(arguments.output)
    todo = pieces(arguments, account.skip)
    existing = questions_of(arguments.existing or [], arguments.dataset_dir, account.skip)
    known = {folded("\n".join(asked_in(record))) for record in existing}
    with Output.opened(path, resume=arguments.resume) as output:
        output.taken |= known
        left = [piece for piece in todo if piece.key not in output.done]
        account.done_before = len(todo) - len(left)
        maker = _Maker(arguments, account, output, {"model": engine, "judge": judge or engine})
        maker.names = {"model": name, "judge": judge_name or name}
        ended = False
        try:
            for at in range(0, len(left), arguments.parallel):
                maker.make(left[at : at + arguments.parallel])
                print_status(f"{min(at + arguments.parallel, len(left))} of {len(left)}: {account.written} written")
            ended = True
        finally:
            if ended or account.written or output.before:  # else nothing is there that it could tell of
                write_json(path.with_name(f"{path.name}.json"), account.as_json(arguments))
            _show(arguments, account, output)
    return account


class _Maker:
    """Drives some pieces side by side: what they ask at the same step goes to the engine together."""

    def __init__(
        self, arguments: SynthesizeOptions, account: Account, output: Output, engines: dict[str, Engine]
    ) -> None:
        self.arguments, self.account, self.output, self.engines = arguments, account, output, engines
        self.names: dict[str, str] = {}
        self.sampling = Sampling(arguments.max_new_tokens, arguments.temperature, arguments.top_p)

    def make(self, batch: Sequence[Piece]) -> None:
        """Bring each piece to its record or to the reason why there is none."""
        going = [one for piece in batch if (one := self._start(piece)) is not None]
        step = 0
        while going:
            step += 1
            following: list[ActivePiece] = []
            for of, temperature, draw in dict.fromkeys((o.ask.of, o.ask.temperature, o.ask.draw) for o in going):
                same = [o for o in going if (o.ask.of, o.ask.temperature, o.ask.draw) == (of, temperature, draw)]
                self._send(same, step, following)
            going = following

    def _start(self, piece: Piece) -> ActivePiece | None:
        self.account.asked += 1
        source = piece.source  # the question of a pair is known before it costs anything
        taken = isinstance(source, Chat) and folded("\n".join(asked_in(source))) in self.output.taken
        if taken and self.arguments.task == "preference":
            self.account.skip("duplicate question", source.place)
            return None
        asked = self.output.asked.get(piece.sha1, [])
        work = TASKS[self.arguments.task](piece, asked, self.arguments.turns)
        return ActivePiece(piece, work, next(work))

    def _send(self, same: list[ActivePiece], step: int, following: list[ActivePiece]) -> None:
        """Put the questions of one kind to their engine; each reply goes on, or is written, as it comes."""
        ask = same[0].ask
        engine = self.engines[ask.of]
        prompts = [(one, prompt) for one in same if (prompt := self._prepare(one, engine)) is not None]
        if not prompts:
            return
        digest = hashlib.sha256(f"{self.arguments.seed} {prompts[0][0].piece.key} {step} {ask.draw}".encode()).digest()
        heat = 0.0 if ask.temperature is None else self.arguments.temperature + ask.temperature
        sampling = replace(self.sampling, seed=int.from_bytes(digest[:4], "little") >> 1, temperature=heat)

        def on_reply(index: int, reply: Reply) -> None:
            self._take(prompts[index][0], reply, following)

        generate(engine, [prompt for _, prompt in prompts], sampling, on_reply)

    def _prepare(self, one: ActivePiece, engine: Engine) -> PreparedPrompt | None:
        try:
            return engine.prepare(one.ask.messages, exact=engine.context_tokens is not None)
        except PromptTooLong:
            self.account.skip("too long for the model", one.piece.source.place)
            return None

    def _take(self, one: ActivePiece, reply: Reply, following: list[ActivePiece]) -> None:
        for at, count in enumerate((reply.prompt_tokens, reply.completion_tokens)):
            one.tokens[at] += count
            self.account.tokens[one.ask.of][at] += count
        try:
            one.ask = one.work.send(reply)
            following.append(one)
        except StopIteration as end:
            self._write(one, end.value)
        except Unusable as reason:
            self.account.skip(str(reason), one.piece.source.place)

    def _write(self, one: ActivePiece, record: Chat | Pair) -> None:
        piece = one.piece
        if folded("\n".join(asked_in(record))) in self.output.taken:
            self.account.skip("duplicate question", piece.source.place)
            return
        meta = {
            **piece.source.meta,
            "task": self.arguments.task,
            "source": piece.source.place.file,
            "line": str(piece.source.place.line),
            "passage_sha1": piece.sha1,
            "key": piece.key,
            "language": piece.language,
            "model": self.names["model"],
            "prompts": version(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "prompt_tokens": str(one.tokens[0]),
            "completion_tokens": str(one.tokens[1]),
        }
        if self.arguments.task == "preference":
            meta["judge"] = self.names["judge"]
        self.output.write(replace(record, meta=meta))
        self.account.written += 1


def _show(arguments: SynthesizeOptions, account: Account, output: Output) -> None:
    for reason, places in sorted(account.skipped.items(), key=lambda item: -len(item[1])):
        print(f"not written: {len(places)} x {reason} ({places[0]}{', ...' if len(places) > 1 else ''})")
    for of, (prompt, completion) in account.tokens.items():
        if prompt or completion:
            print(f"{of}: {counted(prompt, 'prompt token')}, {counted(completion, 'completion token')}")
    cost = account.cost(arguments)
    if cost is not None:
        print(f"cost: {cost:.4f}")
    print(
        f"{arguments.output}: {account.asked} asked, {account.written} written"
        + (f", {output.before} there before" if output.before else "")
    )
