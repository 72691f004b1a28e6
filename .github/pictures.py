"""Make the pictures of README.md, in about two minutes.

    python .github/pictures.py            all of them
    python .github/pictures.py ladder     only those whose names are given

The cells of README.md are run where a picture shows what they do.
"""

import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.animation import PillowWriter
from matplotlib.patches import Rectangle

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
matplotlib.use("Agg")
sys.path.insert(0, str(ROOT))
from mini_gpt import *  # noqa: E402, F403
from test_mini_gpt import apply_diff, read_bugs  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = (ROOT / "mini_gpt.py").read_text(encoding="utf-8")


def cell(start, names=None):
    """Run the file and the README's cell that begins so; return their names."""
    if names is None:
        names = {"__name__": "notebook"}
        exec(SOURCE, names)
    cells = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    code, = [code for code in cells if code.startswith(start)]
    with redirect_stdout(None):
        exec(code, names)
    return names


def save(name):
    plt.savefig(HERE / name, dpi=130)
    plt.close("all")


def words_three_times(count):
    random.seed(0)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(random.sample(alphabet, random.randint(4, 9)))
             for _ in range(count)]
    return words, [3 * word for word in words]


def attention():
    """Block 0 of the model of "One prediction, followed"."""
    with redirect_stdout(None):
        _, _, tokens, weights = run(dropout=0)
    plot_attention(weights, tokens=tokens)
    save("attention.png")


def pencil():
    """What honest models and leaks pay, against what they must pay."""
    names = cell("# What must a model pay")
    cell("from contextlib import redirect_stdout\n\n# Cripple", names)
    price, cripple = names["price"], names["cripple"]
    tables = ["token_embedding", "position_embedding"]
    attention = "attention.projection"
    coins = ["dog bites man : sad", "man bites dog : funny"]

    # Honest models: lines, what they see, what is taken away, blocks, label's place
    honest = [
        ("nothing", SENTENCES, lambda past: 0, [*tables, attention], 2, (-8, -4)),
        ("its place", SENTENCES, len, [tables[0], attention], 2, (-8, -4)),
        ("the last word", SENTENCES, lambda past: past[-1], [tables[1], attention], 2,
         (8, -8)),
        ("everything, with or\nwithout attention", SENTENCES, tuple, [], 2, (8, -18)),
        ("", SENTENCES, tuple, [attention], 2, (0, 0)),
        ("two lines: three coins", coins, None, [attention], 1, (-8, 2)),
        ("two coins", coins, None, [tables[1]], 1, (-8, 0)),
        ("one coin", coins, tuple, [], 1, (-8, 0)),
    ]
    # Count the coins of the two lines by hand
    prices = {"two lines: three coins": math.log(2) / 2, "two coins": math.log(2) / 3}
    fig, ax = plt.subplots(figsize=(6.4, 5.2), layout="constrained")
    ax.plot([0.05, 4], [0.05, 4], color="gray", linewidth=1)
    for label, lines, view, parts, blocks, place in honest:
        paper = prices[label] if view is None else price(lines, view)
        vocab = Vocab(lines)
        sequences = make_sequences([vocab.encode(line) for line in lines], 6)
        torch.manual_seed(SEED)
        model = MiniGPT(len(vocab.tokens), 6, num_layers=blocks)
        cripple(model, *parts)
        with redirect_stdout(None):
            train(model, sequences)
        ax.plot(paper, evaluate(model, sequences), "o", color="C0")
        ax.annotate(label, (paper, evaluate(model, sequences)), place,
                    textcoords="offset points", ha="right" if place[0] < 0 else "left")

    # A model that hasn't finished
    floor = price(SENTENCES, tuple)
    with redirect_stdout(None):
        model, vocab, *_ = run(layers=0)
    sequences = make_sequences([vocab.encode(line) for line in SENTENCES], 6)
    loss = evaluate(model, sequences)
    ax.plot(floor, loss, "o", color="gray")
    ax.annotate("not finished:\nno blocks, 300 epochs", (floor, loss), (-60, 60),
                textcoords="offset points", ha="right", color="gray",
                arrowprops={"arrowstyle": "-", "color": "gray"})

    # Leaks: the bugs of the field guide that end below the floor
    for diff, told in read_bugs(README):
        if told.startswith("Loss below"):
            names = {"__name__": "notebook"}
            exec(apply_diff(SOURCE, diff), names)
            with redirect_stdout(None):
                model, vocab, *_ = names["run"]()
            sequences = names["make_sequences"](
                [vocab.encode(line) for line in SENTENCES], 6)
            ax.plot(floor, names["evaluate"](model, sequences), "v", color="C3")
    ax.annotate("bugs that see the future", (floor, 0.0165), (10, -3),
                textcoords="offset points", color="C3")
    ax.set(xscale="log", yscale="log", xlim=(0.05, 4), ylim=(0.01, 4),
           xlabel="pencil: nats per token, before the training",
           ylabel="machine: nats per token, after it")
    save("pencil.png")


def mask():
    """The loss of a model with the mask, and of one without it."""
    words, lines = words_three_times(2000)
    vocab = Vocab(lines, chars=True)
    sequences = make_sequences([vocab.encode(line) for line in lines], 28)
    names = MaskedSelfAttention.forward.__globals__
    honest = names["causal_mask"]
    plt.figure(figsize=(6, 3.5), layout="constrained")
    for mask in (lambda T, device=None: torch.zeros(T, T).bool()), honest:
        names["causal_mask"] = mask
        torch.manual_seed(SEED)
        model = MiniGPT(len(vocab.tokens), 28, num_heads=2, dropout=0)
        with redirect_stdout(None):
            plt.plot(train(model, sequences, epochs=10, lr=0.003))
    names["causal_mask"] = honest
    plt.axhline(entropy_floor(sequences), color="black", linestyle="--")
    plt.gca().set(xlabel="step", ylabel="loss, nats per letter")
    plt.legend(["without the mask", "with the mask", "floor: who knows the words"])
    save("mask.png")


def mark(ax, cells):
    for row, column in cells:
        ax.add_patch(
            Rectangle((column, row), 1, 1, fill=False, color="C3", linewidth=2))


def ladder():
    """Block 0 and block 1 of the model with two blocks, with marked cells."""
    names = cell("# Climb")
    text = "pythonpythonp"
    tokens, weights = names["attention_of"](text, names["model"], names["vocab"])
    tokens[0] = "·"
    before = [(row, row - 1) for row in range(2, 7)]
    copies = [(row, row - 5) for row in range(7, 13)] + [(13, 2)]
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
    for ax, block, cells in zip(axes, (0, 1), (before, copies)):
        rows, columns = zip(*cells)
        shares = weights[block][0][:, rows, columns].mean(dim=-1)
        head = shares.argmax().item()
        sns.heatmap(weights[block][0, head], mask=causal_mask(14).numpy(), vmin=0,
                    vmax=1, cmap="Blues", square=True, cbar=False, ax=ax,
                    xticklabels=tokens, yticklabels=tokens)
        mark(ax, cells)
        ax.tick_params(rotation=0, length=0)
        ax.set(title=f"block {block}, head {head}", ylabel="this letter ...",
               xlabel="... looks at this letter")
    save("ladder.png")


def reach():
    """How much the last output depends on each token."""
    cell("class MiniLSTM")
    plt.tight_layout()
    save("reach.png")


def circuit():
    """The moving picture: a loss curve, and a head of block 1."""
    words, lines = words_three_times(2000)
    vocab = Vocab(lines, chars=True)
    sequences = make_sequences([vocab.encode(line) for line in lines], 28)
    ids = torch.tensor([[DELIMITER_ID, *vocab.encode("pythonpythonp")]])

    # Learn, and look in now and then: often at the cliff
    random.seed(SEED)
    torch.manual_seed(SEED)
    model = MiniGPT(len(vocab.tokens), context_length=28, num_heads=2, dropout=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    losses, looks = [], []
    for step in range(601):
        if step % (10 if 200 <= step <= 440 else 40) == 0:
            weights = model(ids)[1][1][0].detach()  # block 1: (H, T, T)
            looks.append((step, generate("pythonp", model, vocab, 11)[7:], weights))
        batch = collate(random.sample(sequences, BATCH_SIZE))
        loss = next_token_loss(model.train(), *batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    # Choose the head that ends up looking at what followed the same letter before
    head = weights[:, range(7, 13), range(2, 8)].mean(dim=-1).argmax()

    # Lay out the picture
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4), width_ratios=[1.2, 1])
    fig.subplots_adjust(left=0.08, right=0.98, bottom=0.13, top=0.8)
    curve, = left.plot([])
    left.set(xlim=(-10, 610), ylim=(0.8, 3.5), xlabel="step", ylabel="nats per letter")
    image = right.imshow(weights[head], cmap="Blues", vmin=0, vmax=1)
    right.set_xticks(range(14), "·pythonpythonp")
    right.set_yticks(range(14), "·pythonpythonp")
    right.set(xlabel="... looks at this letter", ylabel="this letter ...",
              title="a head of block 1")
    style = {"y": 0.915, "family": "monospace", "size": 18}
    fig.text(x=0.44, s="pythonp", ha="right", color="gray", **style)
    text = fig.text(x=0.44, s="", color="C0", weight="bold", **style)

    # Make a frame of each look, and show the last one for three seconds
    writer = PillowWriter(fps=6)
    with writer.saving(fig, HERE / "circuit.gif", dpi=100):
        for step, continuation, weights in looks + 18 * looks[-1:]:
            left.set_title(f"loss at step {step}")
            curve.set_data(range(step), losses[:step])
            image.set_data(weights[head].masked_fill(causal_mask(14), math.nan))
            text.set_text(continuation)
            writer.grab_frame()
    plt.close("all")


PICTURES = [attention, pencil, mask, ladder, reach, circuit]
for picture in PICTURES:
    if len(sys.argv) == 1 or picture.__name__ in sys.argv[1:]:
        picture()
        print(picture.__name__)
