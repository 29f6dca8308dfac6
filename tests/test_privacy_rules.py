"""Rules of de-identification: each is tried on its own examples, and a file with a mistake is refused."""

import pytest
import yaml

from carellama.errors import UserError
from carellama.privacy import rules
from carellama.privacy.detect import CHECKS
from carellama.privacy.normalize import normalize
from conftest import REPOSITORY

RULES = [rule for name in rules.file_names() for rule in rules.load_rules(name)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_finds_and_spares_its_examples(rule):
    assert [text for text in rule.finds if not list(rule.find(normalize(text), CHECKS))] == []
    assert [text for text in rule.spares if list(rule.find(normalize(text), CHECKS))] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_gate_of_its_file_lets_the_examples_of_a_rule_through(rule):
    scanned = {text: {kind for kind, *_ in rules.scan(normalize(text), CHECKS, {rule.kind})} for text in rule.finds}
    assert [text for text, kinds in scanned.items() if rule.kind not in kinds] == []


def test_rules_have_an_id_of_their_own():
    ids = [rule.id for rule in RULES]
    assert len(ids) == len(set(ids)) > 70


ENTRY = {"id": "x", "kind": "PHONE", "pattern": r"\d{8}", "score": 0.5, "finds": ["12345678"], "spares": ["123"]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"finds": []}, "finds is missing"),
        ({"spares": None}, "spares"),
        ({"pattern": ""}, "pattern is missing"),
        ({"kind": "TELEPHONE"}, "PHONE"),
        ({"not_afer": ["lot"]}, "not_after"),
        ({"not_after": "lot"}, "not_after is 'lot'"),
        ({"score": "0.5"}, "score is '0.5'"),
        ({"pattern": r"\d{8}{NO_FRAGMENT}"}, "NO_FRAGMENT"),
        ({"pattern": r"(\d{8}"}, "is no pattern"),
        ({"validate": ["is_lun"]}, "is_luhn|is_"),
    ],
)
def test_a_mistake_in_a_rule_is_named(change, named, monkeypatch):
    written = {"rules": [ENTRY | change]}
    read_file = rules.read_file
    monkeypatch.setattr(rules, "read_file", lambda name: written if name == "own" else read_file(name))
    with pytest.raises(UserError, match=named):
        (rule,) = rules.load_rules.__wrapped__("own")
        list(rule.find("12345678", CHECKS))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_rule_of_the_documentation_holds(language, monkeypatch):
    """It finds and spares its examples, and does so by its context and its check: without them it spares fewer."""
    page = (REPOSITORY / "docs" / language / "privacy.md").read_text(encoding="utf-8")
    (entry,) = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    read_file = rules.read_file
    for dropped in ((), ("not_after",), ("not_before",), ("validate",)):
        own = {"rules": [{key: value for key, value in entry.items() if key not in dropped}]}
        monkeypatch.setattr(rules, "read_file", lambda name, own=own: own if name == "own" else read_file(name))
        (rule,) = rules.load_rules.__wrapped__("own")
        assert all(list(rule.find(normalize(text), CHECKS)) for text in rule.finds)
        spared = [text for text in rule.spares if not list(rule.find(normalize(text), CHECKS))]
        assert len(spared) == len(rule.spares) - len(dropped)
