"""Mutations of the logic that matters, each of which a test must notice. On demand, not in CI (some ten minutes).

    python tests/mutants.py                  # all of them; exit code 1 where one survives or does not apply
    python tests/mutants.py kto auth         # those whose name has one of these words

Each is applied to a copy of `src` in a temporary folder, and only the tests that must notice it are run there, first without it. The old
text must occur exactly once in its file. A mutation is added for each fault that tests had let live.
"""

# ruff: noqa: E501
from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE = 300  # seconds for the tests of one mutation
LARGE = ("torch", "transformers", "peft", "hypothesis", "pyarrow", "sqlalchemy", "httpx2", "fastapi")  # loaded once


@dataclass(frozen=True)
class Mutant:
    """A change of one place of a file, and the tests that must fail: arguments of pytest."""

    name: str
    file: str
    old: str
    new: str
    tests: str


PAPER = "test_paper_losses.py -k"
TABLE = [
    # What is learned.
    ("masks: prompts are learned", "data/encoding/encode.py", "        if not wanted:\n            labels[at", "        if wanted:\n            labels[at", "test_masks.py -k weight"),
    ("masks: context is learned twice", "data/encoding/encode.py", "first + turn >= learned and ", "", "test_masks.py -k twice"),
    ("masks: a cut answer keeps its end", "data/encoding/encode.py", "            answer = answer[:most]\n", "            answer = np.concatenate([answer[: most - 1], answer[-1:]])\n", "test_encode.py -k cut_answer"),
    ("masks: parts without a learned answer stay", "data/encoding/encode.py", "if not any(groups[2 * turn + 1].trained for turn in range(learned, end)):", "if False:", "test_masks.py -k weight"),
    ("masks: text windows skip a token", "data/encoding/encode.py", "stride = self.whole - 1", "stride = self.whole", "test_encode.py -k text_is_learned_whole"),
    ("masks: later parts lose the system message", "data/encoding/encode.py", "self.template.groups(system + spoken[", "self.template.groups(spoken[", "test_encode.py -k each_part"),
    ("masks: both answers of a pair are good", "data/encoding/preference.py", "(record.rejected, False))", "(record.rejected, True))", "test_preferences.py -k same_prompt"),
    ("masks: answers of a pair follow two prompts", "data/encoding/preference.py", "kept = len(prompt.parts[-1]) - (len(prompt.text) - shortest)", "kept = len(prompt.parts[-1])", "test_reasoning_templates.py -k pair"),
    ("masks: --mask_history does nothing", "data/encoding/prepare.py", "if self.last_only and", "if False and", "test_masks.py -k mask_history"),
    ("masks: weight 0 is learned", "data/turns.py", "return all(value for _, value in given)", "return True", "test_turns.py -k left_out"),
    ("masks: Qwen3's empty block is learned", "templates/skeleton.py", 'return lead if lead.strip() else ""', 'return ""', "test_reasoning_templates.py -k empty_block"),
    ("masks: earlier turns are learned as they are never asked", "templates/template.py", "if all(self._is_steady(whole, at, tools) for at in learned[:-1]):", "if True:", "test_reasoning_templates.py -k every_turn"),
    ("masks: reasoning stays in the history", "templates/jinja.py", 'answer = split_reasoning(row["content"])[3]', 'answer = row["content"]', "test_reasoning_templates.py -k leaves_the_history"),
    ("masks: no end token is learned", "templates/template.py", "if len(groups) % 2 == 0 and not skeleton.ends:", "if False:", "test_template.py -k without_an_end"),
    ("masks: a model is asked otherwise than it was trained", "train/session.py", "return reasoning.answering_directly() if seen and direct == seen else reasoning", "return reasoning", "test_reasoning.py -k taught"),
    ("masks: a person's <|im_end|> ends the turn", "templates/tokenize.py", "if touched and (not all(touched) or match.group() in self._special):", "if False:", "test_masks.py -k types"),
    ("masks: a person's <tool_call> is a token", "templates/tokenize.py", "marks = markup_tokens(tokenizer)", "marks = special_tokens(tokenizer)", "test_masks.py -k types"),
    # Losses.
    ("loss: positions predict themselves", "train/chunked_loss.py", 'F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)', 'batch["labels"]', f"{PAPER} test_sft"),
    ("loss: a border belongs to the record before", "train/chunked_loss.py", "torch.bucketize(place, borders[1:], right=True)", "torch.bucketize(place, borders[1:])", "test_preferences.py -k second_token"),
    ("loss: a step is the mean of its batches", "train/trainer.py", "total / (num_items_in_batch if num_items_in_batch is not None else count.clamp(min=1))", "total / count.clamp(min=1)", f"{PAPER} test_sft"),
    ("loss: the row's length scales the noise", "train/neftune.py", "return lengths.float().repeat_interleave(lengths)[None]", "return lengths.sum().float().repeat(int(lengths.sum()))[None]", "test_variants.py"),
    ("dpo: smoothing adds", "train/dpo.py", "- smooth * F.logsigmoid(-beta * ahead)", "+ smooth * F.logsigmoid(-beta * ahead)", f"{PAPER} test_dpo"),
    ("dpo: no reference", "train/dpo.py", "apart = own - other", "apart = own", f"{PAPER} test_dpo"),
    ("dpo: ipo aims at twice the margin", "train/dpo.py", "1 / (2 * beta)) ** 2", "1 / beta) ** 2", f"{PAPER} ipo"),
    ("dpo: ipo sums over tokens", "train/dpo.py", "per_token = apart / lengths.clamp(min=1)", "per_token = apart", f"{PAPER} ipo"),
    ("dpo: hinge without its margin", "train/dpo.py", "F.relu(1 - beta * ahead)", "F.relu(-beta * ahead)", f"{PAPER} hinge"),
    ("dpo: orpo without odds", "train/dpo.py", "odds = means - torch.log1p(-means.exp().clamp(max=1 - 1e-6))", "odds = means", f"{PAPER} orpo"),
    ("dpo: simpo's margin turned round", "train/dpo.py", "- how.simpo_gamma)", "+ how.simpo_gamma)", f"{PAPER} simpo"),
    ("dpo: the sft share is taken off", "train/dpo.py", "losses - how.pref_ftx * means[0::2]", "losses + how.pref_ftx * means[0::2]", f"{PAPER} hinge"),
    ("kto: weights swapped", "train/kto.py", "how.kto_chosen_weight, how.kto_rejected_weight)", "how.kto_rejected_weight, how.kto_chosen_weight)", f"{PAPER} test_kto"),
    ("kto: no baseline", "train/kto.py", "torch.where(good, rewards - drift, drift - rewards)", "torch.where(good, rewards, -rewards)", f"{PAPER} test_kto"),
    ("kto: no clamp", "train/kto.py", 'self.accelerator.reduce(drift, "mean").clamp(min=0)', 'self.accelerator.reduce(drift, "mean")', f"{PAPER} test_kto"),
    ("kto: the baseline is of the own answers", "train/kto.py", "[parts[-1], *parts[:-1]]", "parts", f"{PAPER} test_kto"),
    ("kto: no beta in the baseline", "train/kto.py", 'how.pref_beta * self._log_ratios(model, batch["others"])', 'self._log_ratios(model, batch["others"])', f"{PAPER} test_kto"),
    ("rm: the worse answer wins", "train/reward_model.py", "-F.logsigmoid(margins)", "-F.logsigmoid(-margins)", f"{PAPER} test_rm"),
    ("rm: the score is of the token before the end", "train/reward_model.py", "borders[1:].long() - 1]", "borders[1:].long() - 2]", "test_preferences.py -k scores_in_a_row"),
    ("ppo: KL is a gain", "train/policy_gradient.py", "rewards = -coefficient * (own - other)", "rewards = coefficient * (own - other)", f"{PAPER} test_ppo"),
    ("ppo: the score comes first", "train/policy_gradient.py", "rewards[-1] += score", "rewards[0] += score", f"{PAPER} test_ppo"),
    ("ppo: nothing is discounted", "train/policy_gradient.py", "ahead = error + gamma * decay * ahead", "ahead = error + gamma * ahead", f"{PAPER} test_ppo"),
    ("ppo: no clip", "train/policy_gradient.py", "kept = ratio.clamp(1 - how.ppo_clip, 1 + how.ppo_clip)", "kept = ratio", "test_ppo.py -k ratio_leaves"),
    ("ppo: values are not clipped", "train/policy_gradient.py", ".clamp(-how.ppo_value_clip, how.ppo_value_clip)", "", "test_ppo.py -k left_its_bounds"),
    ("ppo: advantages keep their mean", "train/ppo.py", "(0.0 if shift else moments.mean)", "moments.mean", f"{PAPER} test_ppo"),
    ("ppo: each epoch draws the same answers", "train/ppo.py", "return [self.seed, epoch, number, self.args.process_index]", "return [self.seed, number, self.args.process_index]", "test_ppo.py -k draws_other"),
    ("ppo: moments of batches are not joined", "train/policy_gradient.py", "apart**2 * self.count * count / both", "0.0", "test_ppo.py -k moments"),
    ("guard: the loss may do what it likes", "train/divergence_guard.py", "max(TIMES * usual, usual + ABOVE)", "math.inf", "test_guard.py -k loss"),
    # Where an answer ends, and how it is drawn.
    ("stops: the last of two stop strings", "engine/detokenizer.py", "self._held[: min(found)]", "self._held[: max(found)]", "test_engine.py -k two_stop_strings"),
    ("stops: half a stop string is shown", "engine/detokenizer.py", "keep = held_back(self._held, self.stops)", "keep = 0", "test_engine.py -k first_stop_string"),
    ("stops: end tokens are text", "engine/detokenizer.py", "if token in self.stop_ids", "if token in ()", "test_engine.py -k end_token"),
    ("draws: a presence penalty counts the prompt", "engine/transformers/request.py", "_pad_history(requests, scores, answers_only=True)", "_pad_history(requests, scores)", "test_drawing.py -k presence"),
    ("draws: a presence penalty counts each time", "engine/transformers/sampling.py", "presence[:, None] * (counts > 0)", "presence[:, None] * counts", "test_drawing.py -k presence"),
    ("draws: top_p lets one more in", "engine/transformers/sampling.py", "likelier = chances.cumsum(-1) - chances", "likelier = chances.cumsum(-1) - 2 * chances", "test_drawing.py -k cuts_each"),
    ("reasoning: the prompt's <think> is forgotten", "engine/reasoning.py", "self._within, self._fresh = self._begun, self._begun", "self._within, self._fresh = False, False", "test_reasoning.py -k opens"),
    ("marks: a GGUF reads a person's marks", "engine/chat.py", "            pieces[-1] += mark[:1]\n            pieces.append(mark[1:] + after)", "            pieces[-1] += mark + after", "test_chat_of_gguf.py"),
    # Keys and quotas.
    ("quota: tokens of the request do not count", "store/usage.py", "if used + tokens > a_day:", "if used > a_day:", "test_access.py -k tokens_are_taken"),
    ("quota: one more at once", "store/usage.py", "if running >= at_once:", "if running > at_once:", "test_access.py -k at_once_are_counted"),
    ("quota: one more a minute", "store/usage.py", '"nth": a_minute - 1}', '"nth": a_minute}', "test_access.py -k sixty_seconds"),
    ("quota: what was not used is lost", "store/usage.py", '"p_tokens": tokens - lease.tokens}', '"p_tokens": 0}', "test_access.py -k tokens_are_taken"),
    ("auth: any secret opens", "store/keys.py", "return hmac.compare_digest(DUMMY_HASH if key is None else key.hash, hash_secret(secret))", "return key is not None", "test_access.py -k whole_key"),
    ("auth: keys do not expire", "store/keys.py", "self.expires <= now else", "self.expires > now else", "test_access.py -k expired"),
    ("auth: revoked keys open", "store/keys.py", "if self.revoked is not None:", "if False:", "test_access.py -k revoked"),
    ("auth: scopes are not looked at", "serve/api/auth.py", "if scope not in caller.scopes:", "if False:", "test_access.py -k scopes"),
    ("auth: open to the world without keys", "serve/api/auth.py", "    if is_loopback(host):\n        return NoAuth()", "    return NoAuth()", "test_access.py -k loopback"),
    ("sessions: any token of a page will do", "serve/web/accounts/session_auth.py", "if not hmac.compare_digest(given, csrf_token(token).encode()):", "if False:", "test_accounts_sessions.py -k changes_nothing"),
    ("sessions: a request need not say which page made it", "serve/web/accounts/session_auth.py", "if not told or ", "if ", "test_accounts_sessions.py -k changes_nothing"),
    ("answers: of anybody", "serve/web/answers.py", "or answer.owner != caller.id", "", "test_accounts_isolation.py -k nobody_sees"),
    ("login: the nonce is not compared", "serve/web/accounts/oidc.py", '{"nonce": nonce, "client_id"', '{"client_id"', "test_accounts_oidc.py"),
    ("login: a token for another client", "serve/web/accounts/oidc.py", '"aud": {"essential": True, "value": self.client_id},', "", "test_accounts_oidc.py"),
    ("login: a state comes back twice", "serve/web/accounts/oidc.py", "if state in self._used:", "if False:", "test_accounts_oidc.py"),
    # Checks of sums, de-identification, readers, batches.
    ("sums: Luhn without its minus nine", "privacy/checksums.py", "value - 9 if value > 9 else value", "value", "test_checksums.py"),
    ("sums: identity cards by another table", "privacy/checksums.py", '"10X98765432"', '"01X98765432"', "test_checksums.py"),
    ("sums: IBAN by another remainder", "privacy/checksums.py", "% 97 == 1", "% 97 == 0", "test_privacy.py -k check"),
    ("sums: file_sha1 is not compared", "data/datasets.py", "if found != expected.lower():", "if False:", "test_sources.py -k sum_is_checked"),
    ("de-identification: a name is kept in other turns", "privacy/detect.py", "        same_names.treat_alike(plains, found)\n", "", "test_privacy.py"),
    ("de-identification: what stands before a value does not matter", "privacy/rules.py", "yield lambda found: not found.before(not_after, window)", "yield lambda found: True", "test_privacy_rules.py"),
    ("de-identification: a negated check is not negated", "privacy/rules.py", "negated = words[0] == \"not\"", "negated = False", "test_privacy_rules.py"),
    ("de-identification: the less certain of two kinds", "privacy/detect.py", "surest = max(last, span,", "surest = min(last, span,", "test_privacy.py"),
    ("de-identification: calls keep their arguments", "data/clean/deidentify.py", "replace(call, arguments=next(new))", "replace(call, arguments=(next(new), call.arguments)[1])", "test_turns.py -k identifiers"),
    ("readers: equal answers make a pair", "data/convert.py", "    if chosen == rejected:", "    if False:", "test_convert.py -k refused"),
    ("readers: a row's own system message is lost", "data/convert.py", 'own = _text(row, columns.system, required=False) or system\n    messages = [Message("system", own)]', 'own = system\n    messages = [Message("system", own)]', "test_convert.py -k alpaca_joins"),
    ("readers: two users in a row", "records.py", '            expected: tuple[Role, ...] = ("user",)', '            expected: tuple[Role, ...] = ("user", "assistant")', "test_turns.py test_convert.py"),
    ("mix: a small dataset repeats its first row", "data/encoding/mixing.py", "yield turn, at[turn] % sizes[turn]", "yield turn, min(at[turn], sizes[turn] - 1)", "test_mix.py"),
    ("batches: parts of a row keep the row's borders", "data/encoding/collate.py", "_borders(borders[first : last + 1] - borders[first])", "_borders(borders[first : last + 1])", "test_parts.py -k rows_of_their_records"),
    ("resume: a rollout begins again", "train/ppo.py", "yield from itertools.islice(batches, within, None)", "yield from batches", "test_ppo.py -k resumed_run"),
    # What a run is asked, and what it leaves and tells.
    ("options: what has no effect is not said", "train/options.py", "for line in options_without_effect(config, own):", "for line in ():", "test_no_effect.py -k is_named"),
    ("options: the largest perplexity is the best", "stages.py", "return not plain_metric(metric).endswith(LESS_IS_BETTER)", 'return not metric.endswith("loss")', "test_no_effect.py -k lowest"),
    ("options: another rank than the adapter's is ignored", "model/adapter_plan.py", "if option in asked and wanted != there:", "if False:", "test_adapter.py -k keeps_its"),
    ("output: the base's weights are removed", "train/output_folder.py", "    _check_sources(output, options)\n", "", "test_training_options.py -k what_it_reads"),
    ("output: weights of no training are removed", "train/output_folder.py", "        _check_weights(output)\n", "", "test_training_options.py -k no_training_wrote"),
    ("evaluation: pieces of a record are samples", "train/trainer.py", "values = whole_records(entries, sources) if self.sums else entries", "values = entries", "test_training_options.py -k one_sample"),
    ("evaluation: no answer is a score of 0", "evaluate/predict.py", "if results is not None and not results.samples:", "if False:", "test_predict.py -k no_answer"),
]  # fmt: skip


def main(words: list[str]) -> int:
    """Apply and test; return the exit code."""
    mutants = [Mutant(*row) for row in TABLE]
    chosen = [one for one in mutants if not words or any(word in one.name for word in words)]
    failed = [one for one in chosen if problem_of(one)]
    for one in failed:
        print(f"does not apply  {one.name}: {problem_of(one)}")
    for name in LARGE:
        importlib.import_module(name)
    survived = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for name in ("src", "tests", "data", "docs", "benchmarks", "examples", "pyproject.toml"):
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            elif source.exists():
                shutil.copy(source, Path(folder, name))
        sound: dict[str, bool] = {}
        for one in (mutant for mutant in chosen if mutant not in failed):
            if one.tests not in sound:
                sound[one.tests] = pytest_ends(one.tests, Path(folder)) == 0
            started = time.monotonic()
            killed = sound[one.tests] and is_killed(one, Path(folder))
            if not sound[one.tests]:
                print(f"pytest {one.tests} fails without any mutation")
            survived += [] if killed else [one]
            print(f"{'killed  ' if killed else 'SURVIVED'} {time.monotonic() - started:5.1f} s  {one.name}", flush=True)
    print(f"{len(chosen)} mutations: {len(chosen) - len(survived) - len(failed)} killed, "
          f"{len(survived)} survived, {len(failed)} do not apply")  # fmt: skip
    return int(bool(survived or failed))


def problem_of(mutant: Mutant) -> str:
    """Why a mutation cannot be applied, or ""."""
    path = REPOSITORY / "src/carellama" / mutant.file
    if not path.is_file():
        return f"no file {mutant.file}"
    count = path.read_text(encoding="utf-8").count(mutant.old)
    return "" if count == 1 else f"its text occurs {count} times in {mutant.file}"


def is_killed(mutant: Mutant, folder: Path) -> bool:
    """Whether the tests fail with the mutation."""
    path = folder / "src/carellama" / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return pytest_ends(mutant.tests, folder) == 1
    finally:
        path.write_text(before, encoding="utf-8")


def pytest_ends(tests: str, folder: Path) -> int:
    """The exit code of pytest: 0, or 1 where a test fails or hangs. Raises `RuntimeError` for any other.

    It runs in a fork of this process, which has loaded the large libraries once and nothing of CareLlama.
    """
    files, _, wanted = tests.partition(" -k ")
    words = ["-q", "-x", "-p", "no:cacheprovider", *(f"tests/{name}" for name in files.split())]
    words += ["-k", wanted] if wanted else []
    log = folder / "pytest.log"
    child = os.fork()
    if not child:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(folder)
        sys.path[:0] = [str(folder / "src"), str(folder / "tests")]
        os.environ |= {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        os._exit(int(pytest.main(words)))
    until = time.monotonic() + PATIENCE
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 1
        time.sleep(0.05)
    code = os.waitstatus_to_exitcode(ended[1])
    if code not in (0, 1):
        raise RuntimeError(f"pytest {' '.join(words)} ended with {code}\n{log.read_text()[-2000:]}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
