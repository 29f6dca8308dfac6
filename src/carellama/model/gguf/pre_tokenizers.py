"""Which of llama.cpp's pre-tokenizers splits texts as a tokenizer does whose own its converter does not know.

    check_pre_tokenizer(Path("folder"), "qwen2", "the model")      # `UserError` unless llama.cpp gives the same ids

A byte-level BPE cuts a text into words before it merges bytes, and llama.cpp has the patterns of the models it knows
by name. Each candidate is tried by a round trip: llama.cpp and the tokenizer of the folder give ids to fixed texts of
medicine, numbers, code and many scripts, and the ids are compared. Equal ids on these texts are evidence, no proof.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carellama.errors import UserError, need
from carellama.model.gguf.converter import CONVERT_AS, CONVERT_MODEL, run_converter
from carellama.model.gguf.read import read_header

PROGRAM = Path(__file__).with_name("read_ids.py")
# Values of tokenizer.ggml.pre: one for each pattern, of byte-level BPE alone (llama.cpp, src/llama-vocab.cpp).
CANDIDATES = (
    "qwen2", "qwen35", "llama-bpe", "glm4", "minicpm5", "deepseek-llm", "deepseek-coder", "deepseek-v3", "youtu",
    "gpt-4o", "tekken", "gpt-2", "smollm", "bailingmoe", "seed-coder", "afmoe", "laguna", "exaone-moe", "jais-2",
    "falcon", "bloom", "viking", "chameleon", "tiny_aya", "superbpe", "granite-embed-multi-97m", "default",
)  # fmt: skip
SHOWN = 5  # names in a message
TEXTS = (
    "患者，男，56岁，反复上腹痛3年，加重2天。",
    "体温38.5℃，脉搏102次/分，血压150/95mmHg，呼吸24次/分。",
    "阿莫西林胶囊0.5g口服，一日三次，餐后服用，疗程7～10天。",
    "诊断：①2型糖尿病；②高血压病3级（极高危）；③慢性肾脏病CKD3期。",
    "当归10g 黄芪30克、白术１２克，水煎服，日一剂。",
    "“医生，我头痛、恶心怎么办？”——请尽快就医！",
    "血糖：空腹7.8mmol/L，餐后2h 11.6mmol/L；HbA1c 7.2%。",
    "心电图示ST段抬高，考虑急性心肌梗死，立即拨打120。\n\n注意：\n1. 卧床\n2. 吸氧",
    "《黄帝内经》曰：“正气存内，邪不可干。”",
    "患者對青霉素過敏，請勿使用。ＡＢＣ１２３　全角",
    "The patient is a 72-year-old man with chest pain for 2 hours.",
    "Take 500 mg of amoxicillin 3 times a day; don't stop early.",
    "DON'T GIVE ASPIRIN. He'S allergic, they'Ve said, I'LL check.",
    "BP 120/80 mmHg, HR 72 bpm, SpO2 98%, T 37.2°C, BMI 24.6 kg/m².",
    "Warfarin 2.5mg→5mg, INR 1.8-2.4 (target 2.0–3.0), eGFR>60.",
    "Potassium was 1234567890 times 3.14159, or 1,000,000.00 in 2024.",
    "1 12 123 1234 12345 123456 1234567 12345678",
    "COVID-19, IL-6, HbA1c, β-blocker, T4N2M0, p<0.05, n=1204",
    "pneumonoultramicroscopicsilicovolcanoconiosis Paracetamol CamelCaseWord ALLCAPSword",
    "  two spaces before, and   three within, and one after ",
    "a tab\there\t\tand two\n\nblank lines\n\n\n  indented\n\tby a tab\r\nWindows line\r\n",
    "   \n   \n\t\n  ",
    "trailing spaces    ",
    "\n\n\n",
    "def dose(weight_kg: float) -> float:\n    return round(weight_kg * 15.0, 1)  # mg\n",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }  // C",
    '{"name": "aspirin", "dose_mg": 100, "route": ["po"], "prn": false}',
    '<p class="note">See https://www.who.int/health-topics?x=1&y=2#top</p>',
    "SELECT id, name FROM drugs WHERE price >= 12.50 AND name LIKE '%cillin';",
    "x = y ** 2 + z / 3 - (a != b) && !c || ~d ^ e % 5 @ f",
    "snake_case __init__ $HOME C:\\temp\\file.txt ../a/b/c.tar.gz user@example.org",
    "!!! ??? ... --- *** ### ,,, ;;; ::: (((( )))) [[]] {{}} <<>>",
    "| Drug | Dose |\n|---|---|\n| Aspirin | 100 mg |\n\n**Bold**, _italic_, `code`.",
    "😀 👩‍⚕️ 🩺💊 ❤️ 🇨🇳 👍🏽 ok😀ok",
    "Größe 1,80 m, Übelkeit; l'hôpital n'est pas loin; ¿cuántos años? ação",
    "Пациент жалуется на головную боль 3 дня. Принимать по 1 таблетке.",
    "المَرِيضُ يُعَانِي مِنْ صُدَاعٍ ٣ أيام، وحرارة ٣٨٫٥.",
    "रोगी को तीन दिन से बुखार है। दवा १० मि.ग्रा. दिन में दो बार।",
    "ผู้ป่วยมีไข้สูง 39 องศา มา ๓ วัน กินยาแล้วไม่ดีขึ้น",
    "患者さんは三日前から熱があります。アスピリンを１錠飲みました。",
    "환자는 3일 동안 열이 있습니다. 아스피린 100mg을 하루 한 번.",
    "Ασθενής με πυρετό 38,5 °C. חולה עם חום 3 ימים.",
    "½ ¼ Ⅳ ② x² H₂O 10⁻³ ± ≤ ≥ ≠ ∞ √ µg Ω ∑ №",
    "中文English混排2024年IL-6升高to 35pg/mL，用药before/after对比。",
    "问：发烧怎么办？ 答：多喝水,多休息.必要时 服用 布洛芬 200mg !",
    "\u200b零\u200c宽\ufeff字符 与 不\u00a0换\u2003行 空格……",
)


@dataclass(frozen=True)
class Trial:
    """How a pre-tokenizer did."""

    name: str
    differing: int  # texts with other ids
    first: str = ""  # of them; "" also where prompts differ in their first mark alone


def try_pre_tokenizers(vocabulary: Path, folder: Path, names: Sequence[str]) -> list[Trial]:
    """Compare the ids of llama.cpp with those of the tokenizer in `folder`; nearest first.

    vocabulary: a .gguf of that vocabulary, whatever its tokenizer.ggml.pre. Names that this llama.cpp does not know are
    left out. Raises `UserError` where llama.cpp cannot read the vocabulary.
    """
    from transformers import AutoTokenizer

    given = json.dumps({"file": str(vocabulary), "names": list(names), "texts": TEXTS})
    command = [sys.executable, "-P", str(PROGRAM)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise UserError(f"llama.cpp cannot give ids to texts with this vocabulary: {lines[-1]}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    begins = tokenizer.encode(TEXTS[0])[:1] == [tokenizer.bos_token_id]
    trials = []
    for name, found in json.loads(done.stdout).items():
        if found is not None:
            other = [text for text, ours, ids in zip(TEXTS, wanted, found["ids"], strict=True) if ours != ids]
            wrong_begin = found["begins"] != begins
            trials.append(Trial(name, len(other) + wrong_begin, (other or [""])[0]))
    return sorted(trials, key=lambda trial: trial.differing)


def advise(error: UserError, folder: Path, what: str) -> str:
    """Add to the refusal of a tokenizer that the converter does not know which pre-tokenizers have its ids."""
    if importlib.util.find_spec("xllamacpp") is None:  # nothing to try with
        return str(error)
    try:
        advised = advice(_try(folder, CANDIDATES, what))
    except UserError as untried:
        advised = f"{untried}; use --engine transformers, or a .gguf of the model's makers"
    return f"{str(error).partition('; ')[0]}; {advised}"


def check_pre_tokenizer(folder: Path, pre: str, what: str) -> None:
    """Raise `UserError` unless llama.cpp gives the ids of the folder's tokenizer with this pre-tokenizer."""
    need("xllamacpp", extra="llamacpp", why="--gguf_pre, whose ids are compared,")
    trials = _try(folder, [pre], what)
    if not trials:
        raise UserError(
            f"--gguf_pre {pre}: llama.cpp has no pre-tokenizer of that name; it has {', '.join(CANDIDATES)} and others"
        )
    if trials[0].differing:
        raise UserError(
            f"--gguf_pre {described(trials[0])}: leave it out to be told of one with equal ids, "
            "or use --engine transformers"
        )


def _try(folder: Path, names: Sequence[str], what: str) -> list[Trial]:
    """What `try_pre_tokenizers` finds for the tokenizer of a folder without code."""
    with tempfile.TemporaryDirectory(prefix="carellama-") as temporary:
        vocabulary = Path(temporary) / "vocabulary.gguf"
        run_converter(
            CONVERT_AS + CONVERT_MODEL, [names[0], str(folder), "--outfile", str(vocabulary), "--vocab-only"], what
        )
        kind = read_header(vocabulary).facts.get("tokenizer.ggml.model")
        if kind != "gpt2":
            raise UserError(
                f"--gguf_pre is for byte-level BPE, and the tokenizer of {what} is what llama.cpp calls {kind}: "
                "leave it out"
            )
        return try_pre_tokenizers(vocabulary, folder, names)


def advice(trials: Sequence[Trial]) -> str:
    """What a person may do, in words: the pre-tokenizers with equal ids, or how far the nearest is."""
    equal = [trial.name for trial in trials if not trial.differing]
    if not equal:
        return (
            f"of the {len(trials)} that llama.cpp has none gives the same ids (nearest: {described(trials[0])}); "
            "use --engine transformers, or a .gguf of the model's makers"
        )
    others = f" (so do {', '.join(equal[1 : 1 + SHOWN])})" if len(equal) > 1 else ""
    return f"with --gguf_pre {equal[0]} it gives the same ids on all {len(TEXTS)} texts that were tried{others}"


def described(trial: Trial) -> str:
    """A pre-tokenizer with other ids: on how many texts, and the first of them."""
    first = f", first on {trial.first[:40]!r}" if trial.first else ", in the mark at the beginning of a prompt"
    return f"{trial.name} has other ids on {trial.differing} of {len(TEXTS)} texts{first}"
