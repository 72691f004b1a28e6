"""What README.md says, tried: its output, cells, numbers and bugs.

.ci/run copies this file beside the others. The cells of an experiment run in
the page's order, whole, as a reader would run them.
"""

import math
import re
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

import mini_gpt
import test_mini_gpt
from test_mini_gpt import (
    SENTENCES, SEQUENCES, SOURCE, VOCAB, V, apply_diff, hide_bug, labels,
    number_of_parameters, paste, read_bugs, tidy, trained)  # noqa: F401 (fixtures)

ROOT = Path(__file__).resolve().parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CELLS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
BUGS = read_bugs(TEXT)


@pytest.fixture
def notebook(trained):  # noqa: F811
    """The names that are there after the file has run in a cell."""
    names = paste(SOURCE, __name__="notebook")
    tokens, weights = mini_gpt.attention_of(SENTENCES[0], trained, VOCAB)
    names.update(model=trained, vocab=VOCAB, tokens=tokens, attention_weights=weights,
                 last_run=(trained, VOCAB))
    return names


@pytest.fixture
def run_cell(notebook, capsys):
    """A function: run the cell that begins so, in the notebook; what it prints."""
    def run_one(start):
        cell, = [cell for cell in CELLS if cell.startswith(start)]
        capsys.readouterr()
        exec(cell, notebook)
        return capsys.readouterr().out
    return run_one


def numbers(pattern, text):
    return [float(number) for number in re.findall(pattern, text)]


# -------------------------------------------- the page
def test_the_output_is_that_of_the_main_command(capsys):
    shown = re.search(r"```\n(data .*?)```", TEXT, flags=re.DOTALL)[1]

    mini_gpt.main()

    def without_chance(text):  # processors differ in digits, and in who wins
        text = re.sub(r"(powerful|fun)\b", "...", text)
        return re.sub(r" +\d+\.\d s|(?<=\d\.\d)\d+", "", text)

    ours = without_chance(capsys.readouterr().out).splitlines()
    theirs = without_chance(shown).splitlines()
    assert ours[:3] == theirs[:3] and ours[-4:] == theirs[-4:]
    assert [line[:21] for line in ours] == [line[:21] for line in theirs]


def test_numbers_of_parameters_are_right():
    block = mini_gpt.GPTBlock(32, 4, dropout=0.1)
    model = mini_gpt.MiniGPT(V, 6)
    for part in block.attention, block.feed_forward, block, model:
        assert f" {number_of_parameters(part):,}" in TEXT
    in_all = number_of_parameters(model)
    assert round(100 * number_of_parameters(model.blocks) / in_all) == 95
    networks = sum(number_of_parameters(block.feed_forward) for block in model.blocks)
    assert round(100 * networks / in_all) == 62


def test_links_within_the_page_lead_somewhere():
    titles = re.findall(r"^#+ (.*)$", re.sub("```.*?```", "", TEXT, flags=re.DOTALL),
                        flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
               for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors


def test_commands_name_options_that_exist():
    options = {"--" + name.replace("_", "-") for name in mini_gpt.run.__kwdefaults__}
    options |= {"--data", "--help", "--blank", "--bug", "--tell", "--tb"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT)) <= options


def code_lines(source):
    lines = map(str.strip, source.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


def test_the_table_has_each_part_with_its_lines_of_code():
    table = re.findall(r"(?m)^\| `(\w+)` \| .* \| (\d+) \| \d+ \| ●+ \|$", TEXT)

    assert [part for part, _ in table] == list(test_mini_gpt.PARTS)
    for part, lines in table:
        left = code_lines(test_mini_gpt.blank(SOURCE, part)) - 1  # without "is yours"
        assert code_lines(SOURCE) - left == int(lines), part


def test_no_cell_is_left_out():
    tried = Path(__file__).read_text(encoding="utf-8")
    starts = [cell[:7] for cell in CELLS]
    assert [start for start in starts if start not in tried] == []


# -------------------------------------------- notebooks, one prediction
def test_first_cells(run_cell, notebook):
    assert run_cell('print(generate("transformers"))').strip() in SENTENCES
    assert plt.gcf().axes[0].get_title() == "block 1, head 0"
    printed = run_cell("for token, probability in next_tokens")
    assert sorted(printed.split()[:4:2]) == ["fun", "powerful"]
    run_cell('tokens, attention_weights = attention_of("transformers')
    assert labels(plt.gcf().axes[0].xaxis)[1:] == ["transformers", "are", "fun"]
    run_cell("sequences = make_sequences([vocab")
    assert len(plt.gca().get_lines()[0].get_ydata()) == 300
    notebook["train"](notebook["model"], notebook["sequences"], epochs=1)
    assert "the same logits: True" in run_cell("ids = torch.tensor([[DELIMITER_ID")
    run_cell("torch.save((model, vocab)")
    printed = run_cell("model, vocab, tokens, attention_weights = run(\n    [\"red")
    assert "text      red" in printed
    exec('run(["first line\\nsecond line"], chars=True)', notebook)


def test_guessing_against_the_model(run_cell, notebook):
    notebook["input"] = lambda question: "deep 0.5"
    mine, models = numbers(r"(\d+\.\d\d)", run_cell("sentence, past = random.choice"))
    assert models < 3 < mine


def test_one_prediction(run_cell, notebook):
    printed = run_cell("model, vocab, tokens, attention_weights = run(dropout=0)\ntext")
    row = re.search(r"^deep .*->.*$", printed, re.MULTILINE)[0]
    told = TEXT[TEXT.index("In head 0, the scores"):TEXT.index("One head by hand")]
    shown = numbers(r"-?\d\.\d\d", told)
    values = notebook["v"][:3, 0].tolist()
    for number in numbers(r"-?\d\.\d\d", row) + values:  # scores, weights, sum
        assert any(abs(number - other) < 0.011 for other in shown), number
    assert "the same: True" in printed
    pairs = mini_gpt.next_tokens("deep learning is", notebook["model"], VOCAB, count=2)
    assert pairs[0][0] == "powerful" and pairs[1][0] == "fun"
    for _, p in pairs:
        assert any(abs(p - other) < 0.002 for other in numbers(r"0\.\d\d\d", told))


# -------------------------------------------- experiments
def test_experiment_1(run_cell):
    prices = numbers(r"pays (\S+)", run_cell("# What must a model pay"))
    shown = re.findall(r"^\| .* \| (\d\.\d{3}) \| (\d\.\d{3}) \|$", TEXT, re.MULTILINE)
    pencil = [float(paper) for paper, _ in shown]
    assert prices == pytest.approx(pencil[:4] + pencil[3:], abs=0.0006)

    printed = run_cell("from contextlib import redirect_stdout\n\n# Cripple")
    losses = numbers(r"(\d\.\d+) without", printed)
    for loss, (paper, machine) in zip(losses, shown, strict=True):
        assert 0 < loss - float(paper) + 0.0005 < 0.03
        assert loss == pytest.approx(float(machine), abs=0.004)

    coins = numbers(r"(\d\.\d+) without", run_cell("# One block, on two lines"))
    for loss, count in zip(coins, (1, 2, 3), strict=True):
        assert 0 < loss - count * math.log(2) / 6 < 0.03


def test_experiment_2(run_cell, notebook):
    mask = notebook["causal_mask"]
    blind, sees = run_cell("# Words in which no letter repeats").split("data  ")[1:]
    assert blind.count("bug?") == 2 and "bug?" not in sees
    assert notebook["causal_mask"] is mask, "the mask is put back"
    words = notebook["words"][2000:]
    assert not any(3 * word in blind for word in words)
    assert sum(3 * word in sees for word in words) >= 2


def test_experiment_3(run_cell, notebook, capsys):
    printed = run_cell("# Climb")
    costs = numbers(r"cost (\S+),", printed)
    repeated = numbers(r" (\d+) of 50", printed)
    shown = re.findall(r"^\| (\d) \| (\d\.\d) \| (\d+)", TEXT, re.MULTILINE)
    for cost, (_, told, _) in zip(costs, shown, strict=True):
        assert cost == pytest.approx(float(told), abs=0.2)
    assert repeated[:2] == [0, 0] and repeated[2] >= 40

    run_cell("# Whom does each letter look at")
    both, _ = numbers(r"cost (\S+)", run_cell("# Silence a head"))
    assert both > math.log(27)
    cell, = [cell for cell in CELLS if cell.startswith("# Silence a head")]
    answer = re.search(r"Put `(.*?)` in the place of `\.\.\.`", TEXT)[1]
    projection = notebook["model"].blocks[0].attention.projection.weight.data
    before = projection.clone()
    exec(cell.replace("...", answer), notebook)
    assert projection.equal(before), "the heads are put back"

    first, fifth, eighth = numbers(r"(\d+) of 200", run_cell("# Twelve different"))
    assert first > 150 and fifth > 150 and eighth < 20
    handed, = numbers(r"(\d+) of 50", run_cell("class WithPrevious"))
    assert handed >= 40
    cell, = [cell for cell in CELLS if cell.startswith("# Twelve different")]
    capsys.readouterr()
    exec(cell.replace("text, model, vocab, 1", "text, handed, vocab, 1"), notebook)
    first, _, eighth = numbers(r"(\d+) of 200", capsys.readouterr().out)
    assert first > 150 and eighth < 20


def test_experiment_3_silencing_one_head_hurts(run_cell, notebook, capsys):
    run_cell("# Climb")
    cell, = [cell for cell in CELLS if cell.startswith("# Silence a head")]
    capsys.readouterr()
    exec(cell.replace("...", "16 * head:16 * head + 16"), notebook)
    costs = numbers(r"cost (\S+)", capsys.readouterr().out)
    whole = mini_gpt.evaluate(notebook["model"], notebook["unseen"])
    assert max(costs) > whole + 0.5


def test_experiment_4(run_cell):
    run_cell("class MiniLSTM")
    gpt, lstm, opened = (line.get_ydata() for line in plt.gca().get_lines())
    assert min(gpt) > 1e-3 and lstm[0] < 1e-10 and min(opened) > 1e-3

    sixteen, fifteen = numbers(r"(\d+) of 50", run_cell("# 16 random letters"))
    moved, = numbers(r"(\d+) of 50", run_cell("# Leave out a place"))
    assert sixteen > 45 and fifteen == 0 and moved > 45

    plain, opened = numbers(r"(\d+)% of the letters", run_cell("# Given the true past"))
    assert plain < 30 and opened > 50


def test_experiment_5(run_cell):
    printed = run_cell("from contextlib import redirect_stdout\n\n# A table of 400")
    table, = numbers(r"pays (\S+)", printed)
    whole, unbent, missing = numbers(r"network .*: (\S+)", printed)
    assert table == pytest.approx(1.198, abs=0.001)
    assert whole < 1.22 and 1.25 < unbent < missing and missing > 1.4


def test_experiment_6(run_cell):
    new = numbers(r"new: (\d+)", run_cell("model, vocab, tokens, weights = run()\nfor"))
    assert new[0] == 0 and new[1] < 3 and 8 < new[2] < 45 and 215 < new[3] < 270


def test_gpt2_in_these_classes(notebook, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")  # .ci/run doesn't install it
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=20, n_embd=24, n_head=4, n_layer=3)
    theirs = transformers.GPT2LMHeadModel(config).eval()

    class Tokenizer:
        """A word is a letter's number, written out."""

        @classmethod
        def from_pretrained(cls, name):
            return cls()

        def encode(self, text, add_special_tokens):
            return [ord(letter) % 49 for letter in text]

        def decode(self, ids):
            return "".join(chr(48 + i) for i in ids)

    monkeypatch.setattr(
        transformers.GPT2LMHeadModel, "from_pretrained", lambda name: theirs)
    monkeypatch.setattr(transformers, "GPT2TokenizerFast", Tokenizer)
    cell, = [cell for cell in CELLS if cell.startswith("from transformers import")]
    exec(cell.replace("Alan Turing theorized that computers would", "a")
         .replace("layer=5", "layer=1"), notebook)

    ids = torch.randint(50, (2, 20))
    with torch.no_grad():
        logits, weights = notebook["gpt2"].eval()((ids + 1) % 50)
        expected = theirs(ids).logits
    assert torch.allclose(logits.roll(-1, dims=-1), expected, atol=1e-5)
    assert len(weights) == 3


# -------------------------------------------- bugs that don't crash
def edited(diff, argument=""):
    """The loss of a run of the file after an edit, and what it prints."""
    names = paste(apply_diff(SOURCE, diff), __name__="edited")
    exec("def copies():\n  t = [''.join(random.Random(i).choices('abcdefgh', k=16))"
         " for i in range(2000)]\n  return [f'{x}:{x}' for x in t]", names)
    exec(f"result = run({argument})", names)


def training_loss(printed):
    return float(re.search(r"\ntraining  loss (\S+),", printed)[1])


def test_there_are_fourteen_bugs():
    assert len(BUGS) == len(re.findall("^Loss ", TEXT, flags=re.MULTILINE)) == 14


@pytest.mark.parametrize("diff, told", BUGS, ids=range(1, len(BUGS) + 1))
def test_bug_is_as_told(diff, told, capsys):
    how, value, test = re.fullmatch(
        r"Loss (below|above|about) ([\d.]+\d)\b.*Test: `(\w+)`\.", told).groups()
    symptom = re.search(r"```\n([^`]+)```\n\n<details><summary>Bug \d+</summary>\n\n"
                        + re.escape(f"```diff\n{diff}"), TEXT)[1]

    edited(diff)

    printed = capsys.readouterr().out
    loss, value = training_loss(printed), float(value)
    assert {"below": loss < value, "above": loss > value,
            "about": abs(loss - value) < 0.1 * value}[how]
    for warning in "bug? ", "note ":
        assert (warning in printed) == (warning in symptom)
    assert abs(training_loss("\n" + symptom) - loss) < 0.15 * loss + 0.01
    assert callable(getattr(test_mini_gpt, test)), "there is no such test"


def test_plain_gradient_descent_does_as_well_with_a_hundred_times_the_rate(capsys):
    diff = (
        "-     optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)\n"
        "+     optimizer = torch.optim.SGD(model.parameters(), lr=100 * lr)\n")

    edited(diff)

    assert training_loss(capsys.readouterr().out) < 0.38


def test_the_word_that_occurs_twice_wins_by_a_hair(capsys):
    for word, other in ("powerful", "fun"), ("fun", "powerful"):
        lines = [line.replace("are powerful", f"are {word}") for line in SENTENCES]
        model, vocab, *_ = mini_gpt.run(lines, dropout=0, prompt="deep")
        pairs = mini_gpt.next_tokens("deep learning is", model, vocab)
        (first, p), (second, q), _ = pairs
        assert (first, second) == (word, other) and p - q < 0.02


def test_another_set_of_lines_has_its_prices_too(run_cell, notebook):
    run_cell("# What must a model pay")
    run_cell("from contextlib import redirect_stdout\n\n# Cripple")
    notebook["lines"] = [
        "we learn by doing", "we learn by teaching", "you teach by doing",
        "they sing all night", "we dance", "you sing by night"]
    exec("""
vocab = Vocab(lines)
sequences = make_sequences([vocab.encode(line) for line in lines], 5)
gaps = []
for view, parts in [(views["the last word"], ["position_embedding", "projection"]),
                    (views["all words so far"], [])]:
    torch.manual_seed(SEED)
    model = MiniGPT(len(vocab.tokens), context_length=5)
    cripple(model, *parts)
    train(model, sequences)
    gaps.append(evaluate(model, sequences) - price(lines, view))
""", notebook)
    assert 0 < min(notebook["gaps"]) and max(notebook["gaps"]) < 0.03


def test_numbers_of_hidden_bugs_spread_over_all():
    answers = Counter(hide_bug(SOURCE, number)[1] for number in range(4700, 4800))

    assert len(answers) == 14 and max(answers.values()) < 20


@pytest.mark.parametrize("part, argument", [
    pytest.param("The residual", "layers=12, epochs=60", id="residual"),
    pytest.param("The root", "copies(), chars=True, dropout=0, layers=1, heads=1,"
                             " embed_dim=128, epochs=5, lr=0.003", id="root"),
])
def test_edit_shows_its_price(part, argument, capsys):
    how, value, diff = re.search(
        rf"\*\*{part}.*?The loss is (above|about) ([\d.]+\d)\b.*?```diff\n([^`]+)```",
        TEXT, flags=re.DOTALL).groups()

    edited(diff, argument)

    loss = training_loss(capsys.readouterr().out)
    assert loss > float(value) if how == "above" else abs(loss - float(value)) < 0.05


@pytest.mark.parametrize("new, least", [
    pytest.param("x = x.detach() + self.dropout(attended)", 1.0, id="no gradient"),
    pytest.param("x = self.dropout(attended) + x - x.detach()", 2.5, id="no vectors"),
])
def test_both_ways_through_the_addition_count(new, least, capsys):
    assert new.removeprefix("x = ") in TEXT
    diff = f"-         x = x + self.dropout(attended)\n+         {new}\n"

    edited(diff, "layers=12, epochs=60")

    assert training_loss(capsys.readouterr().out) > least
